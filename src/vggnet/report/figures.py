"""Pictures of a run, drawn from saved rows and counts alone: curves, predictions, confusion."""

from vggnet.errors import require

require("matplotlib", "report")

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vggnet.report.plot_style import (
    BLUE,
    GRAY,
    ORANGE,
    RIGHT,
    WRONG,
    draw_frame,
    save_figure,
    short,
    thumbnail,
    write_title,
)

MAX_PREDICTIONS = 16

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def draw_curves(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    title: str,
    metric: str = "accuracy",
    labels: Sequence[str] = ("loss (nats)", "accuracy (%)"),
) -> None:
    """Loss and a metric against epoch, two panels, the epoch of the best validation metric marked.

    Each row has `epoch` (from 1), `train_loss`, `train_accuracy` (0..1; of another `metric` its name), and possibly
    `val_loss` and `val_accuracy`, absent or None where nothing was validated. `labels` are those of the two axes.
    Raises: StorageError if `path` cannot be written.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    _draw_lines(loss, rows, "loss", scale=1)
    _draw_lines(accuracy, rows, metric, scale=100)
    loss.set_ylabel(labels[0])
    accuracy.set_ylabel(labels[1])
    validated = [row for row in rows if row.get(f"val_{metric}") is not None]
    if validated:
        best = max(reversed(validated), key=lambda row: row[f"val_{metric}"])
        for axes, value in ((loss, best["val_loss"]), (accuracy, 100 * best[f"val_{metric}"])):
            axes.axvline(best["epoch"], color=GRAY, linewidth=1, linestyle=":", zorder=1)
            label = f"best: epoch {best['epoch']}, {value:.4g}{' %' if axes is accuracy else ''}"
            axes.plot(best["epoch"], value, "*", color=ORANGE, markersize=13, markeredgecolor="white", label=label)
    loss.legend(frameon=False, loc="upper right")
    accuracy.legend(frameon=False, loc="lower right")
    write_title(figure, title)
    save_figure(figure, path)


def draw_steps(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """A network before and after each step of a shrinking: a panel for each number, a bar for each step.

    Each row has `step`, `parameters`, `macs`, `weights_bytes`, `latency` (seconds), and `val_accuracy` and
    `test_accuracy` (0..1 or None).  Raises: StorageError if `path` cannot be written.
    """
    panels = [
        ("parameters (millions)", 1e-6, "parameters"), ("multiply-adds (millions)", 1e-6, "macs"),
        ("weights (MB)", 1e-6, "weights_bytes"), ("ms for one image", 1e3, "latency"),
        ("validation accuracy (%)", 100, "val_accuracy"), ("test accuracy (%)", 100, "test_accuracy"),
    ]  # fmt: skip
    shown = [panel for panel in panels if any(row[panel[2]] is not None for row in rows)]
    figure = Figure(figsize=(2.6 * len(shown), 0.9 + 0.42 * len(rows)), layout="constrained")
    for axes, (label, scale, name) in zip(figure.subplots(1, len(shown), sharey=True), shown, strict=True):
        values = [None if row[name] is None else scale * row[name] for row in rows]
        bars = axes.barh(range(len(rows)), [value or 0 for value in values], color=BLUE)
        axes.bar_label(bars, ["" if value is None else f"{value:.4g}" for value in values], padding=3, fontsize=9)
        axes.set_xlabel(label)
        axes.margins(x=0.28)  # room for the numbers
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    first = figure.axes[0]
    first.set_yticks(range(len(rows)), [row["step"] for row in rows])
    first.invert_yaxis()
    write_title(figure, title)
    save_figure(figure, path)


def draw_predictions(
    images: Sequence[Image.Image],
    true: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    path: Path,
    *,
    title: str = "",
) -> None:
    """One to sixteen images, four a row, each under its predicted class and confidence (0..1).

    A mistake is framed in another color and names the true class.  Raises: StorageError if `path` cannot be written.
    """
    assert 1 <= len(images) <= MAX_PREDICTIONS
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    spacing = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.09)  # inches
    figure = Figure(figsize=(2.7 * columns + 0.4, 3.0 * rows + 0.5), layout=spacing)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    for axes, image, truth, guess, sure in zip(grid, images, true, predicted, confidence, strict=False):
        color = RIGHT if guess == truth else WRONG
        verdict = "correct" if guess == truth else f"wrong, it is {short(truth, 18)}"
        axes.imshow(thumbnail(image), interpolation="nearest")
        axes.set_title(f"{short(guess, 20)}, {100 * sure:.0f} %", color=color, weight="bold", parse_math=False)
        axes.set_xlabel(verdict, color=color, parse_math=False)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(edgecolor=color, linewidth=3)
    write_title(figure, title)
    save_figure(figure, path)


def draw_boxes(images: Sequence[Image.Image], boxes: Sequence[Box], captions: Sequence[str], path: Path) -> None:
    """One to sixteen images, four a row, each with its box, in its own pixels, under its caption.

    Raises: StorageError if `path` cannot be written.
    """
    assert 1 <= len(images) <= MAX_PREDICTIONS
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.7 * columns + 0.4, 3.0 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    for axes, image, box, caption in zip(grid, images, boxes, captions, strict=False):
        small = thumbnail(image)
        axes.imshow(small, interpolation="nearest")
        draw_frame(axes, [edge * small.width / image.width for edge in box])
        axes.set_title(caption, fontsize=9, parse_math=False)
        axes.set(xticks=[], yticks=[])
    save_figure(figure, path)


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], path: Path, *, title: str) -> None:
    """Heat map of counts (C, C), rows true, columns predicted, each row as percent of its true class.

    Up to 20 classes have the percents written in the cells, up to 60 every class is named, beyond that a few are.
    Raises: StorageError if `path` cannot be written.
    """
    counts = np.asarray(confusion)
    num_images = counts.sum(axis=1, keepdims=True)
    percents = 100 * counts / np.maximum(num_images, 1)
    num_classes = len(classes)
    side = min(max(0.62 * num_classes + 2.2, 5), 12)  # inches
    figure = Figure(figsize=(side + 1.2, side), layout="compressed")
    axes = figure.subplots()
    # A square root scale, else the mistakes of a good network are all white.
    picture = axes.imshow(percents, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100), interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.8, label="images of the true class (%)", ticks=[0, 1, 5, 20, 50, 100])
    _name_classes(axes, classes, num_images[:, 0])
    if num_classes <= 20:
        _write_cells(axes, counts, percents)
    write_title(figure, title)
    save_figure(figure, path)


def draw_gallery(rows: Sequence[Sequence[tuple[Image.Image | None, str]]], path: Path) -> None:
    """Rows of pictures over their captions, all rows of one length; None is an empty frame.

    Raises: StorageError if `path` cannot be written.
    """
    columns = max(map(len, rows))
    figure = Figure(figsize=(1.9 * columns, 2.1 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, across in zip(rows, grid, strict=True):
        for axes in across[len(row) :]:
            axes.set_axis_off()
        for axes, (image, caption) in zip(across, row, strict=False):
            if image is not None:
                axes.imshow(thumbnail(image))
            axes.set_title(caption, fontsize=9, parse_math=False)
            axes.set(xticks=[], yticks=[])
    save_figure(figure, path)


def _draw_lines(axes: Axes, rows: Sequence[Mapping[str, Any]], quantity: str, *, scale: float) -> None:
    marker = "o" if len(rows) <= 30 else ""
    for split, label, color in (("train", "training", BLUE), ("val", "validation", ORANGE)):
        key = f"{split}_{quantity}"
        points = [(row["epoch"], scale * row[key]) for row in rows if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
    axes.grid(color="#e4e7ea")
    axes.spines[["top", "right"]].set_visible(False)


def _name_classes(axes: Axes, classes: Sequence[str], num_images: Sequence[int]) -> None:
    if len(classes) <= 60:
        ticks, size = range(len(classes)), 10 if len(classes) <= 20 else 7
        down = [f"{short(name, 24)} ({n:,})" for name, n in zip(classes, num_images, strict=True)]
        across = [short(name, 24) for name in classes]
    else:
        ticks, size = range(0, len(classes), -(-len(classes) // 10)), 9
        down = across = [f"{short(classes[tick], 20)} [{tick}]" for tick in ticks]
    axes.set_yticks(ticks, down, fontsize=size, parse_math=False)
    axes.set_xticks(ticks, across, fontsize=size, parse_math=False, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("true class (images)" if len(classes) <= 60 else "true class [index]")
    axes.set_xlabel("predicted class")


def _write_cells(axes: Axes, counts: np.ndarray, percents: np.ndarray) -> None:
    decimals = 1 if len(counts) <= 10 else 0
    for row, column in zip(*counts.nonzero(), strict=True):
        percent = percents[row, column]
        color = "white" if percent > 30 else "#12324f"
        axes.text(column, row, f"{percent:.{decimals}f}", ha="center", va="center", color=color, fontsize=9)
