"""Pictures with boxes around their objects, in one color a class."""

from vggnet.errors import require

require("matplotlib", "report")

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from vggnet.report.plot_style import name_classes, picture_grid, save_figure, thumbnail, write_title

MAX_PICTURES = 16
COLORS = ("#e6550d", "#1f77b4", "#2ca02c", "#9467bd", "#d4a900", "#17becf", "#e377c2", "#8c564b")  # of classes, in turn


class DrawnBox(NamedTuple):
    """A box to draw."""

    box: Sequence[float]  # left, top, right, bottom in pixels of the picture
    label: int  # index of the class
    score: float | None = None  # 0..1; None for a true box


Drawn = tuple[Image.Image, Sequence[DrawnBox], str]  # picture, boxes, caption


def draw_found_objects(
    examples: Sequence[tuple[Image.Image, Sequence[DrawnBox], Sequence[DrawnBox], str]],
    classes: Sequence[str],
    path: Path,
    *,
    title: str,
) -> None:
    """A row for each image: its true boxes, and those that were found.

    Args:
        examples: image, true boxes, predicted boxes, and caption.
        classes: names, by the labels of the boxes.
        path: the PNG file.
        title: above the figure.

    Raises:
        StorageError: the file cannot be written.
    """
    figure = Figure(figsize=(9.6, 3.6 * len(examples) + 1.2), layout="constrained")
    grid = figure.subplots(len(examples), 2, squeeze=False)
    for row, (image, true, predicted, caption) in zip(grid, examples, strict=True):
        _show(row[0], (image, true, f"{caption}\ntrue"))
        _show(row[1], (image, predicted, "predicted"))
    _name_classes(figure, classes, {one.label for _, *both, _ in examples for boxes in both for one in boxes})
    write_title(figure, title)
    save_figure(figure, path)


def draw_objects(pictures: Sequence[Drawn], classes: Sequence[str], path: Path) -> None:
    """One to sixteen pictures with the boxes of their objects, three a row.

    Args:
        pictures: image, boxes and caption.
        classes: names, by the labels of the boxes.
        path: the PNG file.

    Raises:
        StorageError: the file cannot be written.
    """
    assert 1 <= len(pictures) <= MAX_PICTURES
    figure, grid = picture_grid(len(pictures), columns=3, width=4.4, height=3.6)
    for axes, picture in zip(grid, pictures, strict=True):
        _show(axes, picture)
    _name_classes(figure, classes, {one.label for _, boxes, _ in pictures for one in boxes})
    save_figure(figure, path)


def _show(axes: Axes, drawn: Drawn) -> None:
    image, boxes, caption = drawn
    small = thumbnail(image)
    across, down = small.width / image.width, small.height / image.height
    axes.imshow(small, interpolation="nearest")
    stroke = [withStroke(linewidth=2.6, foreground="white")]
    for (left, top, right, bottom), label, score in boxes:
        color = COLORS[label % len(COLORS)]
        corner = (left * across - 0.5, top * down - 0.5)
        frame = Rectangle(corner, (right - left) * across, (bottom - top) * down, fill=False, clip_on=False)
        frame.set(edgecolor=color, linewidth=1.3, path_effects=stroke)
        axes.add_patch(frame)
        if score is not None:
            axes.text(*corner, f"{100 * score:.0f}", color=color, fontsize=6, va="bottom", path_effects=stroke)
    axes.set_title(caption, fontsize=9, parse_math=False)
    axes.set(xticks=[], yticks=[])


def _name_classes(figure: Figure, classes: Sequence[str], present: set[int]) -> None:
    name_classes(figure, {classes[index]: COLORS[index % len(COLORS)] for index in sorted(present)})
