import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vggnet.errors import StorageError
from vggnet.report import figures, plot_style


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, unsaved."""
    caught = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: caught.append(figure))
    return caught


def history(epochs, **changes):
    return [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch,
            "train_accuracy": 1 - 0.9 / epoch,
            "val_loss": 2.1 / epoch,
            "val_accuracy": 0.95 - 0.002 * abs(epoch - 0.6 * epochs),
            **changes,
        }
        for epoch in range(1, epochs + 1)
    ]


def words(figure):
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("epochs", [1, 5, 200])
def test_curves_show_the_rows(drawn, tmp_path, epochs):
    """Oracle: the rows."""
    rows = history(epochs)
    figures.draw_curves(rows, tmp_path / "results.png", title="run")
    loss, accuracy = drawn[0].axes
    assert list(loss.lines[0].get_ydata()) == [row["train_loss"] for row in rows]
    assert list(loss.lines[1].get_ydata()) == [row["val_loss"] for row in rows]
    assert list(accuracy.lines[0].get_ydata()) == [100 * row["train_accuracy"] for row in rows]
    assert list(accuracy.lines[1].get_ydata()) == [100 * row["val_accuracy"] for row in rows]
    assert list(accuracy.lines[1].get_xdata()) == list(range(1, epochs + 1))
    assert "accuracy (%)" in words(drawn[0])


def test_curves_mark_the_best_epoch(drawn, tmp_path):
    """Oracle: by hand; `history` peaks at 0.6 of its length."""
    figures.draw_curves(history(10), tmp_path / "results.png", title="run")
    assert {"best: epoch 6, 95 %", "best: epoch 6, 0.35"} <= set(words(drawn[0]))


@pytest.mark.parametrize("rows", [history(3, val_loss=None, val_accuracy=None), history(3)])
def test_curves_without_validation(drawn, tmp_path, rows):
    """Oracle: None and absence mean the same: one line a panel, and no best epoch."""
    if rows[0]["val_loss"] is not None:
        rows = [{key: row[key] for key in ("epoch", "train_loss", "train_accuracy")} for row in rows]
    figures.draw_curves(rows, tmp_path / "results.png", title="run")
    assert [len(axes.lines) for axes in drawn[0].axes] == [1, 1]
    assert not any(word.startswith("best") for word in words(drawn[0]))


def test_predictions_name_the_mistakes(drawn, tmp_path):
    """Oracle: by hand."""
    images = [Image.new("RGB", (32, 32)), Image.new("L", (900, 300)), Image.new("RGBA", (20, 50))]
    path = tmp_path / "predictions.png"
    figures.draw_predictions(images, ["cat", "dog", "$5 or $6"], ["cat", "ship", "dog"], [0.991, 0.4, 1.0], path)
    axes = drawn[0].axes
    assert [a.get_title() for a in axes] == ["cat, 99 %", "ship, 40 %", "dog, 100 %"]
    assert [a.get_xlabel() for a in axes] == ["correct", "wrong, it is dog", "wrong, it is $5 or $6"]
    colors = [a.title.get_color() for a in axes]
    assert colors[1] == colors[2] != colors[0]


@pytest.mark.parametrize("count", [1, 5, 8, 16])
def test_predictions_stand_four_a_row(drawn, tmp_path, count):
    """Oracle: by hand."""
    images = [Image.new("RGB", (32, 32))] * count
    figures.draw_predictions(images, ["a"] * count, ["a"] * count, [0.5] * count, tmp_path / "predictions.png")
    grid = drawn[0].axes[0].get_gridspec()
    assert (grid.ncols, grid.nrows) == (min(count, 4), -(-count // 4))
    assert sum(axes.axison for axes in drawn[0].axes) == count


def test_confusion_rows_are_percents(drawn, tmp_path):
    """Oracle: by hand; a class without images stays empty."""
    counts = [[3, 1, 0], [0, 0, 0], [0, 2, 6]]
    figures.draw_confusion(counts, ["a", "b", "c"], tmp_path / "confusion.png", title="test")
    axes = drawn[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[75, 25, 0], [0, 0, 0], [0, 25, 75]]
    assert [(cell.get_position(), cell.get_text()) for cell in axes.texts] == [
        ((0, 0), "75.0"),
        ((1, 0), "25.0"),
        ((1, 2), "25.0"),
        ((2, 2), "75.0"),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (4)", "b (0)", "c (8)"]


@pytest.mark.parametrize(
    ("classes", "cells", "most_names"),
    [(2, True, 2), (20, True, 20), (21, False, 21), (100, False, 10), (1000, False, 10)],
)
def test_many_classes_have_no_cells_and_few_names(drawn, tmp_path, classes, cells, most_names):
    """Oracle: by hand."""
    names = [f"class {index}" for index in range(classes)]
    figures.draw_confusion(np.eye(classes, dtype=int), names, tmp_path / "confusion.png", title="test")
    axes = drawn[0].axes[0]
    assert bool(axes.texts) is cells
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == most_names


def test_files_are_pngs_and_come_out_the_same(tmp_path):
    """Oracle: Pillow reads them; the same rows give the same bytes; nothing else is left in the folder.

    The names hold what Matplotlib takes for mathematics, and a script that its font lacks.
    """
    names = ["$a_$", "猫", "a_{very} long name that would not fit beside a heat map"]
    images = [Image.new("RGB", (40, 30), "teal")] * 3

    def draw(folder):
        figures.draw_curves(history(3), folder / "results.png", title="$a_$")
        figures.draw_predictions(images, names, names[::-1], [0.5] * 3, folder / "predictions.png", title="$a_$ 猫")
        figures.draw_confusion(np.eye(3, dtype=int), names, folder / "confusion.png", title="$a_$")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = draw(tmp_path)
    assert sorted(first) == ["confusion.png", "predictions.png", "results.png"]
    for name in first:
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
            image.load()
    assert draw(tmp_path) == first


def test_characters_that_no_font_has_are_named(tmp_path, monkeypatch):
    """Oracle: DejaVu Sans, which Matplotlib brings along, has Greek and no Chinese."""
    monkeypatch.setattr(plot_style, "_fonts", lambda: ["DejaVu Sans"])
    names = ["βήτα", "向日葵", "猫"]
    with pytest.warns(UserWarning, match="no font on this machine has 向 日 猫 葵; .*fonts-noto-cjk") as caught:
        figures.draw_confusion(np.eye(3, dtype=int), names, tmp_path / "confusion.png", title="test")
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings(action="error"):
        figures.draw_confusion(np.eye(1, dtype=int), ["βήτα\n"], tmp_path / "confusion.png", title="test")


def test_a_font_of_the_machine_has_the_characters(tmp_path, monkeypatch):
    """Oracle: a font made here, which has 猫 as a filled square: no warning, and the figure holds the square."""
    fonttools = pytest.importorskip("fontTools.fontBuilder")
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    for number, place in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if number else pen.moveTo)(place)
    pen.closePath()
    square = pen.glyph()
    font = fonttools.FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "cat"])
    font.setupCharacterMap({ord("猫"): "cat"})
    font.setupGlyf({".notdef": type(square)(), "cat": square})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": "WenQuanYi Zen Hei", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "cat.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(tmp_path / "cat.ttf")
    plot_style._fonts.cache_clear()
    figure = Figure(figsize=(1, 1))
    figure.text(0.1, 0.1, "猫", fontsize=40)
    try:
        with warnings.catch_warnings(action="error"):
            plot_style.save_figure(figure, tmp_path / "cat.png")
    finally:
        plot_style._fonts.cache_clear()
    dark = np.asarray(Image.open(tmp_path / "cat.png").convert("L")) < 50
    rows, columns = (np.flatnonzero(dark.any(axis)) for axis in (1, 0))
    assert dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.95
    assert len(rows) > 50


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    """Oracle: the contract."""
    (tmp_path / "results.png").mkdir()
    with pytest.raises(StorageError, match=r"results\.png: cannot be written"):
        figures.draw_curves(history(2), tmp_path / "results.png", title="run")
    assert [path.name for path in tmp_path.iterdir()] == ["results.png"]


@pytest.mark.parametrize("name", ["cow", "class 10", "MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM"])
@pytest.mark.parametrize(("count", "pictures"), [(2, 1), (11, 1), (30, 1), (11, 4)])
def test_no_class_of_a_legend_is_cut_off(name, count, pictures):
    """Oracle: the places that Matplotlib gives the texts."""
    figure, _ = plot_style.picture_grid(pictures, columns=4, width=3.2, height=2.8)
    plot_style.name_classes(figure, {f"{name}{number}": "red" for number in range(count)})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.legends[0].get_texts()]
    assert len(boxes) == count
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
