"""Receptive fields as pictures: where the gradient of one output lies."""

from vggnet.errors import require

require("matplotlib", "report")

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vggnet.report.plot_style import ORANGE, save_figure, write_title


class Field(NamedTuple):
    """What one network sees."""

    label: str  # the network
    weights: int  # for each pair of channels
    extent: int  # pixels, of the square where the gradient is not zero
    strength: NDArray[np.float32]  # (size, size), size odd: mean absolute gradient, the largest value 1


def draw_receptive_fields(pairs: Sequence[tuple[Field, Field]], path: Path, *, title: str) -> None:
    """A row for each pair, which sees equally far; the square where the gradient is not zero is framed.

    Raises: StorageError if `path` cannot be written.
    """
    figure = Figure(figsize=(7.2, 3.6 * len(pairs) + 0.6), layout="constrained")
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    for axes, field in zip(grid.ravel(), (field for pair in pairs for field in pair), strict=True):
        half = len(field.strength) // 2
        # A square root scale, else the weak rim of a stack is as white as what it does not see.
        picture = axes.imshow(
            field.strength, cmap="Blues", norm=PowerNorm(0.5, 0, 1), extent=(-half - 0.5, half + 0.5) * 2
        )
        corner, side = (-field.extent / 2,) * 2, field.extent
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=ORANGE, linewidth=2))
        axes.set_title(f"{field.label}: sees {side}x{side}\n{field.weights} weights a pair of channels", fontsize=11)
        axes.set_xlabel("pixels from the middle")
        even = range(-half + half % 2, half + 1, 2)
        axes.set(xticks=even, yticks=even)
    label = "mean |gradient|, the largest is 1"
    figure.colorbar(picture, ax=grid, shrink=0.6, label=label, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
    write_title(figure, title)
    save_figure(figure, path)
