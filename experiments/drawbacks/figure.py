"""The four panels of the experiment `drawbacks`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vggnet.report.plot_style import BLUE, GRAY, ORANGE, save_figure

GRID = "#e4e7ea"
# Of the gradients: color and line of a kind of network, marker of a column.
PLAIN, NORM, RESIDUAL = (BLUE, "-"), (ORANGE, "--"), (GRAY, ":")
MARKERS = {"A": "o", "B": "s", "D": "^", "E": "D"}


def draw_drawbacks(parts: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Four panels: heads, overfitting by epochs, and gradients by depth for two initializations.

    parts: "heads", "overfitting", "gradients" -> label -> its rows. A part may be missing.
    Raises: StorageError if `path` cannot be written.
    """
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    heads, overfitting, he = (figure.add_subplot(2, 2, place) for place in (1, 2, 3))
    glorot = figure.add_subplot(2, 2, 4, sharey=he)
    _draw_heads(heads, parts.get("heads", {}))
    _draw_overfitting(overfitting, parts.get("overfitting", {}))
    for axes, init in ((he, "he"), (glorot, "glorot")):
        groups = parts.get("gradients", {})
        _draw_gradients(axes, {label: rows for label, rows in groups.items() if rows[0]["config"]["init"] == init})
        axes.set_title(f"{axes.get_title()}{init} initialization", fontsize=11)
    for axes in (heads, overfitting, he, glorot):
        _plain(axes)
    for axes in (heads, overfitting):
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=9)
    lines, labels = he.get_legend_handles_labels()
    if labels:
        figure.legend(lines, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_heads(axes: Axes, groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    labels = []
    for place, rows in enumerate(groups.values()):
        percents = [100 * row["top1"] for row in rows]
        axes.scatter([place] * len(percents), percents, color=BLUE, s=22, label=None if place else "one seed")
        axes.plot([place - 0.25, place + 0.25], [np.mean(percents)] * 2, color=ORANGE, label=None if place else "mean")
        minutes = np.mean([row["seconds"] for row in rows]) / 60
        labels.append(f"{rows[0]['config']['head']}\n{rows[0]['parameters'] / 1e6:.1f} M weights\n{minutes:.1f} min")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, max(len(labels), 1) - 0.4)
    some = next(iter(groups.values()), None)
    axes.set_ylabel(f"accuracy on {some[0]['images']:,} test images (%)" if some else "accuracy (%)")
    axes.set_title("heads: weights and minutes of a run", fontsize=11)


def _draw_overfitting(axes: Axes, groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for rows, color, marker in zip(groups.values(), (BLUE, ORANGE), "os", strict=False):
        epochs = [row["epoch"] for row in rows[0]["history"]]
        dropout = f"dropout {rows[0]['config']['dropout']:g}"
        for key, name, line in (("train_accuracy", "training", "-"), ("val_accuracy", "held out", "--")):
            percents = 100 * np.array([[epoch[key] for epoch in row["history"]] for row in rows])  # (seeds, epochs)
            label = f"{dropout}, {name}"
            axes.plot(epochs, percents.mean(0), color=color, marker=marker, markersize=4, linestyle=line, label=label)
            axes.fill_between(epochs, percents.min(0), percents.max(0), color=color, alpha=0.15, linewidth=0)
        title = f"overfitting on {rows[0]['train_images']:,} images; mean and range, seeds: {len(rows)}"
        axes.set_title(title, fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy (%)")


def _draw_gradients(axes: Axes, groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for rows in groups.values():
        name, images = rows[0]["network"], rows[0]["images"]
        color, line = RESIDUAL if "residual" in name else NORM if "norm" in name else PLAIN
        inside = "white" if "residual" in name and "norm" in name else color
        norms = np.array([row["norms"] for row in rows])  # (seeds, convolutions)
        depth = np.arange(norms.shape[1]) + 1
        middle, marker = np.exp(np.log(norms).mean(0)), MARKERS[name[0]]
        axes.plot(
            depth, middle, color=color, linestyle=line, marker=marker, markersize=5, markerfacecolor=inside, label=name
        )
        axes.fill_between(depth, norms.min(0), norms.max(0), color=color, alpha=0.15, linewidth=0)
        axes.set_title(f"before the first step, {images} images, seeds: {len(rows)}; ")
    axes.set_yscale("log")
    axes.set_xlabel("convolution, counted from the input")
    axes.set_ylabel("L2 norm of the loss's gradient for its weights")


def _plain(axes: Axes) -> None:
    axes.grid(color=GRID, which="major")
    axes.spines[["top", "right"]].set_visible(False)
