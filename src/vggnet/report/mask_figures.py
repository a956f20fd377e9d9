"""Pictures with the classes of their pixels over them, in one color a class."""

from vggnet.errors import require

require("matplotlib", "report")

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.masks import IGNORED, class_colors
from vggnet.report.plot_style import name_classes, picture_grid, save_figure, thumbnail, write_title

MAX_OVERLAYS = 16
OPACITY = 0.55  # of the colors

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
        shown = (image, _overlaid(image, true, len(classes)), _overlaid(image, predicted, len(classes)))
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
    figure, grid = picture_grid(len(pictures), columns=4, width=3.2, height=2.8)
    present: set[int] = set()
    for axes, (image, mask, caption) in zip(grid, pictures, strict=True):
        _show(axes, _overlaid(image, mask, len(classes)), caption)
        present |= set(np.unique(mask).tolist())
    _name_classes(figure, classes, present)
    save_figure(figure, path)


def _overlaid(image: Image.Image, mask: Mask, count: int) -> Image.Image:
    """An RGB image with the colors of its `count` classes over it; pixels that are IGNORED show the image alone."""
    palette = np.zeros((IGNORED + 1, 3), np.uint8)
    palette[:count] = class_colors(count)
    pixels = np.array(image)
    blended = (1 - OPACITY) * pixels + OPACITY * palette[mask]
    return Image.fromarray(np.where((mask == IGNORED)[..., None], pixels, blended.round()).astype(np.uint8))


def _show(axes: Axes, picture: Image.Image, text: str) -> None:
    axes.imshow(thumbnail(picture), interpolation="nearest")
    axes.set_title(text, fontsize=9, parse_math=False)
    axes.set(xticks=[], yticks=[])


def _name_classes(figure: Figure, classes: Sequence[str], present: set[int]) -> None:
    colors = class_colors(len(classes)) / 255
    name_classes(figure, {classes[index]: colors[index] for index in range(len(classes)) if index in present})
