"""The page, in Chromium: a photo is chosen, dropped, pasted or taken, and answered."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CLASSES, encoded, listening

import vggnet

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PATIENCE = 120_000  # milliseconds, for a machine that is busy with other work
FILE = encoded(7, "JPEG", size=(90, 60))
# Hands a photo to the page as a browser does on a drop, or on paste.
HAND_OVER = """([kind, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "x", { type }));
    const names = { drop: "dataTransfer", paste: "clipboardData" };
    const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS, timeout=PATIENCE)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Call with an address: the page. What it complains of, or asks of another host, fails the test."""
    contexts, troubles = [], []

    def open_page(address, **options):
        context = browser.new_context(reduced_motion="reduce", permissions=["camera"], **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("request", lambda one: noted(one.url) if not allowed(one.url, address) else None)
        page.on("console", lambda message: noted(message.text))
        page.on("pageerror", lambda error: noted(str(error)))
        page.goto(f"http://{address}/")
        return page

    def allowed(url, address):
        return url.startswith((f"http://{address}/", "data:", f"blob:http://{address}/"))

    noted = troubles.append
    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in troubles if "status of 4" not in line] == []


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
def test_a_dropped_and_a_pasted_photo(visit, address, sources, kind):
    page = visit(address)
    page.wait_for_selector("#model option", state="attached")
    page.evaluate(HAND_OVER, [kind, "image/jpeg", list(FILE)])
    shown(page)
    assert rows(page) == list(vggnet.predict(sources[0], [FILE], device="cpu")[0].classes)
    page.evaluate(HAND_OVER, [kind, "image/png", list(b"no image")])
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


def test_the_key_is_asked_for(visit, service, sources):
    with listening(replace(service, api_key="secret")) as address:
        page = visit(address)
        page.get_by_label("Access key").fill("wrong")
        page.keyboard.press("Enter")
        page.locator("#error", has_text="asks for an access key").wait_for()
        page.get_by_label("Access key").fill("secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        page.evaluate(HAND_OVER, ["drop", "image/jpeg", list(FILE)])
        page.wait_for_selector("#similar:not([hidden])")
        assert page.eval_on_selector_all("#neighbors img", "images => images.length") == 6
