"""Pictures with the classes of their pixels over them, in one color a class."""

from vggnet.errors import require

require("matplotlib", "report")

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from vggnet.report.colors import class_colors, overlaid_mask
from vggnet.report.plot_style import save_figure, short, thumbnail, write_title

MAX_OVERLAYS = 16
MAX_NAMED = 30  # classes in the legend

Mask = NDArray[np.uint8]


def draw_examples(
    examples: Sequence[tuple[Image.Image, Mask, Mask, str]], classes: Sequence[str], path: Path, *, title: str
) -> None:
    """A row for each image: itself, its mask, what was predicted.

    Args:
        examples: image, true mask, predicted mask, and caption.
        classes: names, by the indices of the masks.
        path: the PNG file.
        title: above the figure.

    Raises:
        StorageError: the file cannot be written.
    """
    figure = Figure(figsize=(9.6, 2.6 * len(examples) + 1.2), layout="constrained")
    grid = figure.subplots(len(examples), 3, squeeze=False)
    present: set[int] = set()
    for row, (image, true, predicted, caption) in zip(grid, examples, strict=True):
        shown = (image, overlaid_mask(image, true, len(classes)), overlaid_mask(image, predicted, len(classes)))
        for axes, picture, text in zip(row, shown, (caption, "true", "predicted"), strict=True):
            _show(axes, picture, text)
        present |= {*np.unique(true).tolist(), *np.unique(predicted).tolist()}
    _name_classes(figure, classes, present)
    write_title(figure, title)
    save_figure(figure, path)


def draw_overlays(pictures: Sequence[tuple[Image.Image, Mask, str]], classes: Sequence[str], path: Path) -> None:
    """One to sixteen pictures, four a row, with the colors of their classes over them.

    Args:
        pictures: image, mask and caption.
        classes: names, by the indices of the masks.
        path: the PNG file.

    Raises:
        StorageError: the file cannot be written.
    """
    assert 1 <= len(pictures) <= MAX_OVERLAYS
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.4, 2.8 * rows + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(pictures) :]:
        axes.set_axis_off()
    present: set[int] = set()
    for axes, (image, mask, caption) in zip(grid, pictures, strict=False):
        _show(axes, overlaid_mask(image, mask, len(classes)), caption)
        present |= set(np.unique(mask).tolist())
    _name_classes(figure, classes, present)
    save_figure(figure, path)


def _show(axes: Axes, picture: Image.Image, text: str) -> None:
    axes.imshow(thumbnail(picture), interpolation="nearest")
    axes.set_title(text, fontsize=9, parse_math=False)
    axes.set(xticks=[], yticks=[])


def _name_classes(figure: Figure, classes: Sequence[str], present: set[int]) -> None:
    """A legend of the classes that occur, below the pictures."""
    colors = class_colors(len(classes)) / 255
    named = [index for index in range(len(classes)) if index in present][:MAX_NAMED]
    patches = [Patch(facecolor=colors[index], edgecolor="gray", label=short(classes[index], 24)) for index in named]
    if patches:
        figure.legend(
            handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=8, frameon=False
        )
