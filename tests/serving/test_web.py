"""The page, in Chromium: a photo is chosen, dropped, pasted or taken, and answered."""

import re
from dataclasses import replace

import pytest
from conftest import CLASSES, encoded, listening

import vggnet

FILE = encoded(7, "JPEG", size=(90, 60))


def rows(page):
    return [re.sub(r"\s+", " ", row) for row in page.locator("#classes button .name").all_inner_texts()]


def shown(page):
    """Wait until a photo is answered and explained."""
    page.wait_for_selector("#heatmap:not([hidden])")


def test_a_chosen_photo(visit, address, sources, tmp_path):
    """Oracle: `vggnet.predict` and `find_similar`; what the keyboard and the other classes change."""
    (tmp_path / "photo.jpg").write_bytes(FILE)
    page = visit(address)
    page.wait_for_selector("#model option", state="attached")
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose a photo").click()
    chooser.value.set_files(tmp_path / "photo.jpg")
    page.wait_for_selector("#similar:not([hidden])")
    expected = vggnet.predict(sources[0], [FILE], device="cpu")[0]
    assert rows(page) == list(expected.classes)
    widths = page.eval_on_selector_all("#classes .bar", "bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * share for share in expected.probabilities], abs=0.01)
    assert expected.classes[0] in page.inner_text("#status")
    assert page.eval_on_selector("#picture", "image => [image.naturalWidth, image.naturalHeight]") == [32, 32]
    assert page.locator("#neighbors li").count() == 6
    assert page.eval_on_selector_all("#neighbors img", "images => images.length") == 6
    first = page.inner_text("#caption")
    assert expected.classes[0] in first
    page.locator("#classes button").nth(2).press("Enter")
    page.wait_for_selector("#classes li:nth-child(3) button[aria-pressed=true]")
    assert page.inner_text("#caption") not in ("", first)
    pressed = page.eval_on_selector_all("#classes button", "all => all.map(one => one.getAttribute('aria-pressed'))")
    assert pressed == ["false", "false", "true"]
    page.locator("#opacity").press("Home")
    assert page.eval_on_selector("#heatmap", "image => image.style.opacity") == "0"
    page.select_option("#model", "gray")
    shown(page)
    assert rows(page) == list(vggnet.predict(sources[1], [FILE], device="cpu")[0].classes)
    assert page.locator("#similar").is_hidden()  # its weights made no index
    page.select_option("#model", "bare")
    page.wait_for_selector("#error:not([hidden])")
    assert "no classes" in page.inner_text("#error")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_dropped_and_a_pasted_photo(visit, hand_over, address, sources, kind):
    page = visit(address)
    page.wait_for_selector("#model option", state="attached")
    hand_over(page, kind, "image/jpeg", FILE)
    shown(page)
    assert rows(page) == list(vggnet.predict(sources[0], [FILE], device="cpu")[0].classes)
    hand_over(page, kind, "image/png", b"no image")
    page.wait_for_selector("#error:not([hidden])")
    assert "image 1: unknown format" in page.inner_text("#error")
    assert page.locator("#result").is_hidden()


def test_the_camera_on_a_phone_in_chinese_at_night(visit, address):
    """Oracle: nothing is wider than the phone; a Chinese reader gets Chinese; the dark colors."""
    page = visit(address, locale="zh-CN", color_scheme="dark", viewport={"width": 360, "height": 740}, has_touch=True)
    page.wait_for_selector("#model option", state="attached")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.get_by_role("button", name="使用摄像头").tap()
    page.get_by_role("button", name="拍照").tap()
    shown(page)
    assert sorted(rows(page)) == sorted(CLASSES)
    assert page.inner_text("#status").startswith("完成")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 24, 30)"
    names = page.evaluate("[...document.querySelectorAll('[data-text]')].filter(one => !one.textContent).length")
    assert names == 0


def test_the_key_is_asked_for(visit, hand_over, service, sources):
    with listening(replace(service, api_key="secret")) as address:
        page = visit(address)
        page.get_by_label("Access key").fill("wrong")
        page.keyboard.press("Enter")
        page.locator("#error", has_text="asks for an access key").wait_for()
        page.get_by_label("Access key").fill("secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        hand_over(page, "drop", "image/jpeg", FILE)
        page.wait_for_selector("#similar:not([hidden])")
        assert page.eval_on_selector_all("#neighbors img", "images => images.length") == 6
