"""The report as its reader has it: in a browser without a network."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from vggnet.data.decoding import StoredImage
from vggnet.data.sources.source import Source
from vggnet.metrics import PerImage
from vggnet.report import charts
from vggnet.report.album import MISTAKES_PER_CELL, make_album
from vggnet.report.page import Explanation, comparison_page, run_page
from vggnet.report.run_data import RunData, key_numbers
from vggnet.tasks import get_task

CLASSES = ("</script><script>hacked = 1</script>", "<img src=x onerror='hacked = 1'>", "{{ 7 * 7 }} \"'&猫")
RATES = {"lr": 0.01}


class Shades(Source):
    """Image i is of one shade of gray, 10 i; or noise, if a seed is given."""

    def __init__(self, labels, classes=CLASSES, noise=None):
        super().__init__(name="shades", split="test", classes=classes, labels=np.asarray(labels))
        self.noise = None if noise is None else np.random.default_rng(noise)

    def open(self, index):
        if self.noise is None:
            image = Image.new("RGB", (32, 24), (10 * index,) * 3)
        else:
            image = Image.fromarray(self.noise.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        return StoredImage(image, f"shades, row {index}")

    def describe(self, index):
        return f"shades, row {index}"

    @property
    def fingerprint(self):
        return "0123456789abcdef"


def history(epochs):
    return [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch,
            "train_accuracy": 1 - 0.9 / epoch,
            "val_loss": 2.1 / epoch,
            "val_accuracy": 0.95 - 0.5 / epoch,
            "seconds": 10.0 + epoch,
            "rates": RATES,
        }
        for epoch in range(1, epochs + 1)
    ]


def per_image_of(true, predicted, confidence, losses):
    return PerImage(
        torch.tensor(true), torch.tensor(predicted), torch.tensor(confidence).double(), torch.tensor(losses).double()
    )


# Images 0 to 9. Of class 0 three are right, two are taken for 2; class 1 is all right; of class 2 one is taken for 0.
TRUE = [0, 0, 0, 0, 0, 1, 1, 2, 2, 2]
PREDICTED = [0, 0, 0, 2, 2, 1, 1, 2, 2, 0]
CONFIDENCE = [0.9, 0.8, 0.7, 0.6, 0.9, 1.0, 0.95, 0.5, 0.6, 0.7]
LOSSES = [0.1, 0.2, 0.3, 1.5, 2.5, 0.0, 0.05, 0.7, 0.5, 1.9]


def a_test(true=TRUE, predicted=PREDICTED, classes=CLASSES, **changes):
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (np.asarray(true), np.asarray(predicted)), 1)
    values = {
        "top1": float(np.trace(confusion) / len(true)),
        "top5": 1.0,
        "loss": 0.8,
        "images": len(true),
        "per_class": {
            name: row[i] / max(row.sum(), 1) for i, (name, row) in enumerate(zip(classes, confusion, strict=True))
        },
        "confusion": confusion.tolist(),
        "calibration_error": 0.05,
        "classes": list(classes),
        "data": "shades",
        "split": "test",
        "fingerprint": "0123456789abcdef",
        "model": "runs/mine",
        "protocol": "single",
        "scales": [32],
        "views": 1,
        "seconds": 3.0,
        "device": "cpu",
        "torch": "2.9",
        "date": "2025-01-01T00:00:00+00:00",
    }
    return values | changes


def a_run(name="mine </title><script>hacked = 1</script>", epochs=10, tested=True, classes=CLASSES, **config):
    rows = history(epochs)
    test = a_test(classes=classes) if tested else None
    return RunData(
        name=name,
        description={
            "data": "shades",
            "images": 1000,
            "classes": list(classes),
            "fingerprint": "fedcba9876543210",
            "preset": "fast",
            "preprocess": {"resize": 32, "mean": [0.5, 0.5, 0.5]},
            "environment": {"device": "abacus", "torch": "2.9"},
            "config": {"model": "vgg8_bn", "epochs": epochs, "schedule": "onecycle", **config},
        },
        rows=rows,
        best=rows[-1] if rows else None,
        test=test,
        **presented(test),
    )


def presented(test):
    """How the task shows a test."""
    task = get_task("classify")
    if test is None:
        return {"axes": task.axes}
    conditions = tuple(str(test[name]) for name in task.conditions)
    return {"axes": task.axes, "headline": task.headline(test), "facts": task.facts(test), "conditions": conditions}


def with_test(run, test):
    return RunData(**{**vars(run), "test": test, **presented(test)})


def a_page(**options):
    run = options.pop("run", None) or a_run()
    options = {"per_image": per_image_of(TRUE, PREDICTED, CONFIDENCE, LOSSES), "source": Shades(TRUE)} | options
    return run_page(run, **options)


@pytest.fixture
def opened(browser, tmp_path):
    """Call with HTML: its page, all charts drawn. Whatever it asks of a network or complains of fails the test."""
    contexts, troubles = [], []

    def open_page(html, *, width=1000, scheme="light", touch=False):
        (tmp_path / "report.html").write_text(html, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce", has_touch=touch
        )
        contexts.append(context)

        def guard(route):
            if route.request.url.startswith(("file:", "data:")):
                route.continue_()
            else:
                troubles.append(route.request.url)
                route.abort()

        context.route("**/*", guard)
        context.set_default_timeout(300_000)  # milliseconds: a busy machine is slow
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_function(
            "document.querySelectorAll('.chart svg').length == document.querySelectorAll('.chart').length"
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def marks(page):
    """The number of drawn marks in each chart: points of lines, bars, lines."""
    return page.evaluate(
        """() => {
            const marks = '.mark-symbol.role-mark path, .mark-rect.role-mark:not([class*=drawn]) path';
            const charts = [...document.querySelectorAll('.chart')];
            return Object.fromEntries(charts.map(c => [c.dataset.chart, c.querySelectorAll(marks).length]));
        }"""
    )


def shown(page):
    """The shade of each picture in the open dialog, by its pixels."""
    return page.evaluate(
        """() => [...document.querySelectorAll('dialog img')].map(image => {
            const canvas = document.createElement('canvas');
            canvas.getContext('2d').drawImage(image, 0, 0);
            return canvas.getContext('2d').getImageData(5, 5, 1, 1).data[0];
        })"""
    )


def cell(page, true, predicted):
    return page.locator(f".matrix button[data-cell='{true}-{predicted}']")


def test_every_chart_is_drawn_without_a_network(opened):
    """Oracle: the rows. Ten epochs are ten points a line, ten bars; of fifteen bins five have images."""
    page = opened(a_page())
    assert marks(page) == {"loss": 20, "accuracy": 20, "rate": 10, "time": 10, "calibration": 6, "confidence": 15}
    words = page.locator("[data-chart=loss] svg").text_content()
    assert "loss (nats)" in words
    assert "epoch" in words
    assert "validation" in words


def test_without_validation_there_is_one_line(opened):
    """Oracle: the rows, which have but one."""
    run = a_run()
    run.rows[:] = [row | {"val_loss": None, "val_accuracy": None} for row in run.rows]
    page = opened(a_page(run=run))
    assert {name: marks(page)[name] for name in ("loss", "accuracy")} == {"loss": 10, "accuracy": 10}
    assert "validation" not in page.locator("[data-chart=loss] svg").text_content()


def test_nothing_in_the_page_names_another_file():
    """Oracle: the attributes by which HTML and CSS fetch."""
    html = re.sub(r'<script type="module">.*?</script>', "", a_page(), flags=re.DOTALL)
    assert set(re.findall(r'(?:src|href)="([^"#][^"]{0,20})', html)) == set()
    assert "url(" not in html
    assert "@import" not in html


def test_a_cell_opens_its_images_and_no_others(opened):
    """Oracle: by hand: images 4 and 3 are of class 0 and were taken for 2, the one of higher loss first."""
    page = opened(a_page())
    cell(page, 0, 2).click()
    assert page.locator("#pictures-title").text_content() == f"True {CLASSES[0]}, predicted {CLASSES[2]}"
    assert shown(page) == pytest.approx([40, 30], abs=2)
    assert "90.0" in page.locator("dialog li").first.text_content()
    assert "row 4" in page.locator("dialog li").first.text_content()
    page.get_by_role("button", name="Close").click()
    cell(page, 0, 0).click()
    assert shown(page) == pytest.approx([20, 10, 0], abs=2)
    assert cell(page, 0, 1).count() == 0


def test_hostile_names_are_only_text(opened):
    """Oracle: the scripts in the names of classes and run would set `hacked`."""
    page = opened(a_page())
    cell(page, 2, 0).click()
    page.mouse.move(*center(page, "[data-chart=accuracy] svg"))
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator(".matrix tbody th").all_text_contents() == list(CLASSES)
    assert page.title().startswith("mine </title><script>")
    page = opened(comparison_page([a_run(), a_run("<b>other</b>")]))
    page.mouse.move(*center(page, "[data-chart=val_accuracy] svg"))
    assert "<b>other</b>" in page.locator("#vg-tooltip-element").text_content()
    assert page.evaluate("typeof hacked") == "undefined"


def center(page, selector):
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_keyboard_is_enough(opened):
    """Oracle: the contract: Tab reaches a cell, Enter opens it, Escape closes it and gives the focus back."""
    page = opened(a_page())
    page.locator(".scroll:has(.matrix)").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.cell") == "0-0"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('dialog').open")
    assert shown(page) == pytest.approx([40, 30], abs=2)
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('dialog').open")
    assert page.evaluate("document.activeElement.dataset.cell") == "0-2"


def test_screen_readers_have_words_for_all(opened):
    """Oracle: by hand, in the browser's accessibility tree."""
    page = opened(a_page())
    name = f"True {CLASSES[0]}, predicted {CLASSES[2]}: 2 images, 40.0\u00a0% of {CLASSES[0]}; show them"
    assert page.get_by_role("button", name=name, exact=True).count() == 1
    loss = page.locator("[data-chart=loss]").get_attribute("aria-label")
    assert "training: from 2 to 0.2" in loss
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("th:not([scope])").count() == 0


def test_pointing_at_an_epoch_tells_its_values(opened):
    """Oracle: the rows: a loss of 2 / epoch, and 2.1 / epoch on validation."""
    page = opened(a_page())
    page.mouse.move(*center(page, "[data-chart=loss] svg"))
    told = page.locator("#vg-tooltip-element").inner_text()
    epoch = int(re.search(r"epoch\D*(\d+)", told)[1])
    assert 1 < epoch < 10
    assert f"{2 / epoch:.4f}" in told
    assert f"{2.1 / epoch:.4f}" in told


def test_a_finger_is_told_what_it_touched(opened):
    """Oracle: the rows, as above."""
    page = opened(a_page(), width=360, touch=True)
    page.touchscreen.tap(*center(page, "[data-chart=loss] svg"))
    page.wait_for_selector("#vg-tooltip-element.visible")
    told = page.locator("#vg-tooltip-element").inner_text()
    assert f"{2 / int(re.search(r'epoch[^0-9]*([0-9]+)', told)[1]):.4f}" in told


def test_all_curves_show_the_epochs_in_view(opened):
    """Oracle: by hand: the points of the epochs that are left."""
    page = opened(a_page())
    page.locator("#view-first").fill("7")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('[data-chart=time] .mark-rect.role-mark path').length == 4")
    assert marks(page) | {"calibration": 0, "confidence": 0} == {
        "loss": 8, "accuracy": 8, "rate": 4, "time": 4, "calibration": 0, "confidence": 0
    }  # fmt: skip
    page.get_by_role("button", name="All").click()
    page.wait_for_function("document.querySelectorAll('[data-chart=time] .mark-rect.role-mark path').length == 10")
    x, y = center(page, "[data-chart=accuracy] svg")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y, steps=4)
    page.mouse.up()
    first, last = (int(page.locator(f"#view-{end}").input_value()) for end in ("first", "last"))
    assert 1 < first < last < 10
    page.wait_for_function(
        f"document.querySelectorAll('[data-chart=time] .mark-rect.role-mark path').length == {last - first + 1}"
    )


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_nothing_overlaps_or_runs_over_the_edge(opened, width, kind):
    """Oracle: the boxes of the elements; long names, ten classes."""
    names = [f"class_with_a_long_name_{index}" for index in range(10)]
    if kind == "run":
        page = opened(a_page(run=a_run("run-" * 30, classes=names)), width=width)
    else:
        page = opened(
            comparison_page([a_run(f"runs/{'long-' * 12}{i}", classes=names, width=i) for i in (1, 2)]), width=width
        )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        """() => [...document.querySelectorAll('main *, header *')]
            .filter(element => !element.closest('.scroll table') && !element.closest('svg'))
            .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
            .map(element => element.outerHTML)"""
    )
    assert beyond == []
    overlapping = page.evaluate(
        """() => {
            const groups = ['body > *:not(.skip)', 'main > *', 'section > *', '.charts > *', '.charts > figure > *',
                '.cards > *', '.gallery > *', '.gallery li > *', '.view > *', 'nav li', '.facts > *', '.columns > *'];
            const found = [];
            for (const selector of groups) {
                const elements = [...document.querySelectorAll(selector)].filter(e => e.getClientRects().length);
                elements.forEach((a, i) => elements.slice(i + 1).forEach(b => {
                    const [p, q] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
                    if (!a.contains(b) && p.left < q.right - 1 && q.left < p.right - 1
                        && p.top < q.bottom - 1 && q.top < p.bottom - 1) found.push(a.outerHTML + b.outerHTML);
                }));
            }
            return found;
        }"""
    )
    assert overlapping == []
    spilling = page.evaluate(
        """() => [...document.querySelectorAll('.chart')].filter(chart => {
            const [outer, inner] = [chart, chart.querySelector('svg')].map(e => e.getBoundingClientRect());
            return inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1;
        }).map(chart => chart.dataset.chart)"""
    )
    assert spilling == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(opened, scheme):
    """Oracle: WCAG 2's contrast ratio, 4.5 for text, from the colors as computed by the browser."""
    page = opened(a_page(), scheme=scheme)
    background, *texts = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.body).color,
            getComputedStyle(document.querySelector('.hint')).color,
            getComputedStyle(document.querySelector('nav a')).color,
            getComputedStyle(document.querySelector('.gallery .bad')).color,
            getComputedStyle(document.querySelector('.chart .role-axis-title text')).fill,
            getComputedStyle(document.querySelector('.chart .role-legend text')).fill]"""
    )
    assert (luminance(background) < 0.1) is (scheme == "dark")
    assert min(contrast(background, text) for text in texts) >= 4.5
    lines = page.evaluate(
        "() => [...document.querySelectorAll('.mark-line.role-mark path')].map(e => getComputedStyle(e).stroke)"
    )
    assert min(contrast(background, line) for line in lines) >= 3


def luminance(color):
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_run_without_a_test_has_its_curves(opened):
    """Oracle: the contract; the note is shown."""
    page = opened(run_page(a_run(tested=False), notes=["Not tested yet."]))
    assert marks(page) == {"loss": 20, "accuracy": 20, "rate": 10, "time": 10}
    assert page.get_by_text("Not tested yet.").is_visible()
    assert page.locator(".matrix").count() == 0


def test_a_run_that_has_just_begun(opened):
    """Oracle: the contract: no epoch, then one."""
    assert opened(run_page(a_run(epochs=0, tested=False))).get_by_text("No epoch is finished yet.").is_visible()
    assert marks(opened(run_page(a_run(epochs=1, tested=False)))) == {"loss": 2, "accuracy": 2, "rate": 1, "time": 1}


def test_without_pictures_the_counts_are_left(opened):
    """Oracle: the contract."""
    page = opened(a_page(source=None))
    cell(page, 0, 2).click()
    assert shown(page) == []
    assert "None of these images is in the page" in page.locator("#pictures-note").text_content()
    assert "image 4" in page.locator("#mistakes li").first.text_content()


def test_many_classes_are_a_list_of_confusions(opened):
    """Oracle: by hand: 60 classes, of which one is taken for another twice."""
    names = [f"class {index}" for index in range(60)]
    true, predicted = [7, 7, 3, 5], [8, 8, 4, 5]
    run = with_test(a_run(classes=names), a_test(true, predicted, names))
    per_image = per_image_of(true, predicted, [0.5] * 4, [2.0, 3.0, 1.0, 0.1])
    page = opened(run_page(run, per_image=per_image, source=Shades(true, names)), width=360)
    assert page.locator(".matrix").count() == 0
    first = page.locator("#confusion tbody tr").first
    assert first.locator("th").text_content() == "class 7"
    first.get_by_role("button").click()
    assert shown(page) == pytest.approx([10, 0], abs=2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_explanations_show_their_pictures(opened):
    """Oracle: by hand."""
    image = Image.new("RGB", (40, 40), "teal")
    explanation = Explanation(image, [(image, "Grad-CAM <i>of</i> cat")], "Why cat & not dog")
    page = opened(a_page(explanations=[explanation]))
    assert page.locator("#explanations figcaption").text_content() == "Why cat & not dog"
    assert page.locator("#explanations img").count() == 2
    assert page.get_by_alt_text("Grad-CAM <i>of</i> cat").is_visible()


def test_a_comparison_lays_runs_side_by_side(opened):
    """Oracle: by hand: two lines of ten and four epochs; they differ in width and epochs; one is tested."""
    page = opened(comparison_page([a_run("runs/a", width=1.0), a_run("runs/b", epochs=4, tested=False, width=2.0)]))
    assert marks(page) == dict.fromkeys(("val_accuracy", "val_loss", "train_accuracy", "train_loss", "minutes"), 14)
    differing = {row.split("\t")[0].strip(): row.split("\t")[1:] for row in rows_of(page, "#differences")}
    assert differing == {"epochs": ["10", "4"], "width": ["1.0", "2.0"]}
    results = rows_of(page, "#results")
    assert [row.split("\t")[0] for row in results] == ["runs/a", "runs/b"]
    assert "70.00" in results[0]
    assert "70.00" not in results[1]


def rows_of(page, section):
    return [row.inner_text() for row in page.locator(f"{section} tbody tr").all()]


def test_tests_on_different_data_do_not_compare(opened):
    """Oracle: by hand: the note is there once the fingerprints differ."""
    same, other = a_run("a"), a_run("b")
    moved = with_test(other, a_test(fingerprint="1111111111111111"))
    assert "do not compare" not in comparison_page([same, other])
    assert "do not compare" in comparison_page([same, moved])


def test_ten_thousand_small_images_fit_into_five_megabytes():
    """Oracle: the size. Noise is what compresses worst; one answer in six is wrong, in every cell of ten classes."""
    random = np.random.default_rng(0)
    true = random.integers(0, 10, 10_000)
    predicted = np.where(random.random(10_000) < 1 / 6, random.integers(0, 10, 10_000), true)
    names = [f"class {index}" for index in range(10)]
    per_image = PerImage(
        *map(torch.from_numpy, (true, predicted, random.random(10_000), random.exponential(1, 10_000)))
    )
    source = Shades(true, names, noise=0)
    run = with_test(a_run(epochs=50, classes=names), a_test(true, predicted, names))
    assert len(run_page(run, per_image=per_image, source=source).encode()) < 5_000_000
    album = make_album(per_image, source)
    assert min(len(album.cells[cell]) for cell in album.cells) >= min(5, MISTAKES_PER_CELL)


def test_pictures_are_small_and_in_the_page_once():
    """Oracle: Pillow; image 4 is in both lists of mistakes and in a cell."""
    html = a_page()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])
    uri = data["images"]["4"]["picture"]
    assert html.count(uri) == 1
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
        assert (picture.format, picture.size) == ("WEBP", (32, 24))
        assert picture.convert("RGB").getpixel((5, 5))[0] == pytest.approx(40, abs=2)
    wide = Shades(TRUE)
    wide.read = lambda index: Image.new("RGB", (4000, 1000))
    picture = make_album(per_image_of(TRUE, PREDICTED, CONFIDENCE, LOSSES), wide).pictures[4]
    assert Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).size == (96, 24)


def test_mistakes_are_ranked(opened):
    """Oracle: by hand: by loss 4, 9, 3; by confidence 4 (0.9), 9 (0.7), 3 (0.6)."""
    album = make_album(per_image_of(TRUE, PREDICTED, [*CONFIDENCE[:3], 0.99, *CONFIDENCE[4:]], LOSSES), None)
    assert album.worst == [4, 9, 3]
    assert album.confident == [3, 4, 9]


def test_key_numbers_by_hand():
    """Oracle: by hand; Wilson's interval of 7 in 10 from the formula."""
    numbers = key_numbers(a_run())
    assert (numbers["epochs"], numbers["best_epoch"], numbers["val_accuracy"]) == (10, 10, pytest.approx(0.9))
    assert numbers["minutes"] == pytest.approx(155 / 60)
    assert numbers["images_per_second"] == pytest.approx(10_000 / 155)
    z, p, n = 1.959964, 0.7, 10
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    assert numbers["test_interval"] == pytest.approx(((middle - half) / scale, (middle + half) / scale), abs=1e-6)


def test_the_program_of_the_charts_is_made_once(monkeypatch, tmp_path):
    """Oracle: calls of the library; the page still carries what it made."""
    import vl_convert

    made = []
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path))
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda snippet: made.append(1) or "drawing = 1;")
    assert [charts.vega_script() for _ in range(2)] == ["drawing = 1;"] * 2
    assert made == [1]
