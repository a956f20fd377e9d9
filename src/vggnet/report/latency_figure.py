"""Accuracy against latency of networks side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from vggnet.report.plot_style import BLUE, GRAY, ORANGE, save_figure, write_title

GRID = "#e4e7ea"


class Point(NamedTuple):
    """One network: its accuracy and its latency."""

    name: str
    is_vgg: bool
    accuracy: float  # percent, top-1
    seconds: Sequence[float]  # for one image, a value a round, by the fastest way
    stock_seconds: Sequence[float]  # the same by stock PyTorch, in its better memory format


def draw_accuracy_against_latency(networks: Sequence[Point], path: Path, *, title: str) -> None:
    """A point a network at its median latency, with a bar from the fastest to the slowest round.

    A hollow point is a VGG by stock PyTorch.  Raises: StorageError if `path` cannot be written.
    """
    figure = Figure(figsize=(9.5, 5.6), layout="constrained")
    axes = figure.subplots()
    placed: list[tuple[float, float]] = []
    for network in networks:
        color, marker, kind = (BLUE, "o", "VGG") if network.is_vgg else (ORANGE, "s", "others")
        ms, accuracy = 1e3 * np.array(network.seconds), network.accuracy
        place = float(np.median(ms))
        span = [[place - ms.min()], [ms.max() - place]]
        axes.errorbar(place, accuracy, xerr=span, fmt=marker, color=color, capsize=3, label=_new(axes, kind))
        if network.is_vgg:
            stock = 1e3 * float(np.median(network.stock_seconds))
            axes.plot([place, stock], [accuracy] * 2, color=GRAY, linewidth=1, linestyle=":", zorder=1)
            label = _new(axes, "VGG by stock PyTorch")
            axes.plot(stock, accuracy, "o", markerfacecolor="white", color=BLUE, label=label)
            _name(axes, network.name, (max(place, stock), accuracy), (9, 0))
        else:
            crowded = any(_is_near((place, accuracy), other) for other in placed)
            _name(axes, network.name, (place, accuracy), (0, -13 if crowded else 13))
        placed.append((place, accuracy))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latency of one image (ms), the fastest way; bars from the fastest to the slowest round")
    axes.set_ylabel("top-1 accuracy on ImageNet (%), published")
    axes.margins(0.12)
    axes.set_xlim(right=2 * axes.get_xlim()[1])  # names stand beside the last points
    axes.grid(color=GRID, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    write_title(figure, title)
    save_figure(figure, path)


def _new(axes: Axes, label: str) -> str | None:
    """The label, if the legend does not have it yet."""
    return None if label in axes.get_legend_handles_labels()[1] else label


def _name(axes: Axes, name: str, point: tuple[float, float], offset: tuple[float, float]) -> None:
    """Above, below or beside a point; the offset is in units of 1/72 inch."""
    side = "left" if offset[0] else "center"
    axes.annotate(name, point, offset, textcoords="offset points", ha=side, va="center", fontsize=9, parse_math=False)


def _is_near(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two names, both above their points (ms, %), would overlap."""
    return abs(np.log(one[0] / other[0])) < 0.5 and abs(one[1] - other[1]) < 0.7
