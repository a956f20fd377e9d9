"""The figure of the experiment `speed`: test accuracy against minutes of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vggnet.report.plot_style import BLUE, GRAY, ORANGE, save_figure


def draw_speed(groups: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Accuracy against minutes: mean and standard deviation of each preset, one image at a time and by six views.

    groups: preset -> its rows. What was not tested (an estimate of time) is a line at its minutes.
    Raises: StorageError if `path` cannot be written.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    kinds = (("top1", "one view", BLUE, "o"), ("top1_six_views", "six views", ORANGE, "s"))
    for name, rows in groups.items():
        minutes = np.array([row["seconds"] for row in rows]) / 60
        if rows[0]["top1"] is None:
            axes.axvline(minutes.mean(), color=GRAY, linestyle=":")
            label = f"{name}, an estimate "
            axes.text(minutes.mean(), 0.5, label, ha="right", transform=axes.get_xaxis_transform())
            continue
        for key, label, color, marker in kinds:
            percents = 100 * np.array([row[key] for row in rows])
            text = None if label in axes.get_legend_handles_labels()[1] else label
            place = (minutes.mean(), percents.mean())
            xerr, yerr = (values.std(ddof=1) if len(rows) > 1 else 0 for values in (minutes, percents))
            axes.errorbar(*place, xerr=xerr, yerr=yerr, fmt=marker, color=color, capsize=3, label=text)
        axes.annotate(f"{name}, seeds: {len(rows)}", place, (0, 10), textcoords="offset points", ha="center")
    axes.margins(y=0.12)
    axes.set_xscale("log")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(color="#e4e7ea", which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, path)
