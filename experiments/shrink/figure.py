"""The figure of the experiment `shrink`: accuracy of each network against the multiply-adds that it has left."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from vggnet.report.plot_style import BLUE, GRAY, save_figure


def draw_shrink(ours: Sequence[tuple[float, float]], published: Sequence[tuple[float, float]], path: Path) -> None:
    """Test accuracy against the multiply-adds that remain, both in percent.

    Args:
        ours: accuracy and share of each network, means over seeds.
        published: those of papers.
        path: the PNG file to write.

    Raises:
        StorageError: it cannot be written.
    """
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for points, color, marker, label in ((published, GRAY, "s", "published"), (ours, BLUE, "o", "vgg shrink")):
        axes.plot([left for _, left in points], [accuracy for accuracy, _ in points], marker, color=color, label=label)
    axes.set_xlim(left=0)
    axes.set_xlabel("multiply-adds that remain (%)")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(color="#e4e7ea")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, path)
