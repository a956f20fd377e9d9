"""The figure of the experiment `depth`: test error of each network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vggnet.report.plot_style import BLUE, ORANGE, save_figure


def draw_depth(groups: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Top-1 error of each network: a point a seed, and their mean; a cross at the top where nothing was learnt.

    groups: label -> its rows.  Raises: StorageError if `path` cannot be written.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, rows in enumerate(groups.values()):
        percents = [100 * row["top1_error"] for row in rows if not row["diverged"]]
        axes.scatter([place] * len(percents), percents, color=BLUE, s=18, label=None if place else "one seed")
        if percents:
            height = [np.mean(percents)] * 2
            axes.plot([place - 0.3, place + 0.3], height, color=ORANGE, label=None if place else "mean")
        if lost := len(rows) - len(percents):
            axes.text(place, 0.98, f"× {lost}", ha="center", va="top", transform=axes.get_xaxis_transform())
    labels = [f"{label}\n{rows[0]['weight_layers']} layers" for label, rows in groups.items()]
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.margins(y=0.12)  # room for the counts
    axes.set_ylabel("top-1 test error (%)")
    axes.set_title("× counts runs that learnt nothing", fontsize=10)
    axes.grid(color="#e4e7ea", axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)
