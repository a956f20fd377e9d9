"""Pictures of what a network sees: attributions, feature maps, filters, exciting pictures; drawn from arrays alone."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from vggnet.report.plot_style import draw_frame, save_figure, write_title

# Against and for: told apart by color-blind readers, and in gray, where what is against is darker.
AGAINST_FOR = LinearSegmentedColormap.from_list("against_for", ["#0b2f5e", "#5b8ec4", "#ffffff", "#f0a04b", "#c85a00"])
FOR = LinearSegmentedColormap.from_list("for", AGAINST_FOR(np.linspace(0.5, 1, 128)))
STRONGEST = 0.85  # opacity of the largest value, so that the picture shows through
MAPS_WIDTH = 11.0  # inches


class Panel(NamedTuple):
    """One attribution."""

    title: str
    values: NDArray[np.float32]  # (H, W)
    label: str  # what the colors mean, with its unit
    signed: bool  # else no value is negative


class Excitement(NamedTuple):
    """A picture with the part that a place of a layer sees."""

    picture: NDArray[np.uint8]  # (H, W, 3), or (H, W) gray
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not included
    caption: str


def draw_attributions(picture: NDArray[np.uint8], panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """The picture, then each attribution over a pale gray copy of it, with its color bar.

    picture: (H, W, 3), or (H, W) gray.  Raises: StorageError if `path` cannot be written.
    """
    columns = 1 + len(panels)
    figure = Figure(figsize=(2.9 * columns, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.12))  # inches
    grid = figure.subplots(2, columns, height_ratios=(1, 0.05), squeeze=False)
    _show(grid[0, 0], picture)
    grid[0, 0].set_title("the picture\nas the network saw it", fontsize=10)
    grid[1, 0].set_axis_off()
    pale = _pale(picture)
    for axes, bar, panel in zip(grid[0, 1:], grid[1, 1:], panels, strict=True):
        scale = _scale(panel)
        axes.imshow(_over(pale, panel, scale))
        axes.set(xticks=[], yticks=[])
        axes.set_title(panel.title, fontsize=10, parse_math=False)
        colors = ScalarMappable(Normalize(-scale if panel.signed else 0, scale), AGAINST_FOR if panel.signed else FOR)
        label = f"{panel.label}\nagainst  ←  0  →  for" if panel.signed else panel.label
        figure.colorbar(colors, cax=bar, orientation="horizontal", label=label, extend=_beyond(panel, scale))
        bar.xaxis.label.set_size(9)
        bar.tick_params(labelsize=8)
        bar.locator_params(nbins=4)
    write_title(figure, title)
    save_figure(figure, path)


def overlaid(picture: NDArray[np.uint8], panel: Panel) -> Image.Image:
    """The attribution over a pale gray copy of the picture, as `draw_attributions` shows it."""
    pixels = _over(_pale(picture), panel, _scale(panel))
    return Image.fromarray((255 * pixels).round().astype(np.uint8))


def draw_maps(
    picture: NDArray[np.uint8], maps: NDArray[np.float32], names: Sequence[str], path: Path, *, title: str
) -> None:
    """The picture, then its feature maps (K, h, w) as a grid, all by one scale, each under its name.

    The scale is that of square roots if nothing is negative, as a few places are far above all others.

    Raises: StorageError if `path` cannot be written.
    """
    signed = bool(maps.min() < 0)
    scale = float(np.abs(maps).max()) or 1.0
    columns, rows = _grid(1 + len(maps))
    figure = Figure(figsize=(MAPS_WIDTH, MAPS_WIDTH / columns * rows * 1.15 + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    norm = Normalize(-scale, scale) if signed else PowerNorm(0.5, 0, scale)
    colors = ScalarMappable(norm, AGAINST_FOR if signed else "magma")
    first, *others = _filled(grid, 1 + len(maps))
    _show(first, picture)
    first.set_title("the picture", fontsize=8, pad=2)
    for axes, values, name in zip(others, maps, names, strict=True):
        axes.imshow(values, norm=norm, cmap=colors.get_cmap())
        axes.set_title(name, fontsize=8, pad=2, parse_math=False)
        axes.set(xticks=[], yticks=[])
    bar = figure.colorbar(colors, ax=grid, orientation="horizontal", shrink=0.4, aspect=40, pad=0.01)
    bar.set_label("activation")
    if not signed:
        ticks = [scale * (place / 4) ** 2 for place in range(5)]
        bar.set_ticks(ticks, labels=[f"{tick:.4g}" for tick in ticks])
    write_title(figure, title)
    save_figure(figure, path)


def draw_tiles(tiles: NDArray[np.float32], names: Sequence[str], path: Path, *, title: str) -> None:
    """Pictures in [0, 1], (K, h, w, 3) or (K, h, w) gray, as a grid, each under its name.

    Raises: StorageError if `path` cannot be written.
    """
    columns, rows = _grid(len(tiles))
    figure = Figure(figsize=(0.9 * columns + 0.2, 1.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, tile, name in zip(_filled(grid, len(tiles)), tiles, names, strict=True):
        axes.imshow(tile, cmap="gray", vmin=0, vmax=1)
        axes.set_title(name, fontsize=8, pad=2, parse_math=False)
        axes.set(xticks=[], yticks=[])
    write_title(figure, title)
    save_figure(figure, path)


def draw_exciting(rows: Sequence[tuple[str, Sequence[Excitement]]], path: Path, *, title: str) -> None:
    """For each channel its pictures with the field framed and the caption, and below each the field itself, enlarged.

    rows: the channel's name and its pictures, the most exciting first.
    Raises: StorageError if `path` cannot be written.
    """
    columns = max(len(found) for _, found in rows)
    figure = Figure(figsize=(1.5 * columns + 0.6, 3.5 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(2 * len(rows), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, (name, found) in enumerate(rows):
        for whole, part, one in zip(grid[2 * number], grid[2 * number + 1], found, strict=False):
            left, top, right, bottom = one.box
            _show(whole, one.picture)
            draw_frame(whole, one.box)
            whole.set_xlabel(one.caption, fontsize=8, parse_math=False)
            _show(part, one.picture[top:bottom, left:right])
        grid[2 * number, 0].set_ylabel(name, fontsize=10, parse_math=False)
    write_title(figure, title)
    save_figure(figure, path)


def _show(axes: Axes, picture: NDArray[np.uint8]) -> None:
    """Small ones are enlarged without blur (matplotlib's default)."""
    axes.set_axis_on()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])


def _pale(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The picture in light grays, (H, W, 3) in [0.55, 1]."""
    gray = picture @ (0.299, 0.587, 0.114) if picture.ndim == 3 else picture.astype(np.float64)
    return np.repeat(0.55 + 0.45 * gray[..., None] / 255, 3, axis=2)


def _scale(panel: Panel) -> float:
    """The value with the strongest color: of single pixels, which have outliers, one that 0.5 % are beyond."""
    sizes = np.abs(panel.values)
    scale = float(np.quantile(sizes, 0.995)) if panel.signed else float(sizes.max())
    return scale or float(sizes.max()) or 1.0


def _beyond(panel: Panel, scale: float) -> str:
    low, high = panel.values.min() < -scale, panel.values.max() > scale
    return "both" if low and high else "min" if low else "max" if high else "neither"


def _over(pale: NDArray[np.float64], panel: Panel, scale: float) -> NDArray[np.float64]:
    """Colors, the more opaque the larger the value, over the pale picture."""
    share = np.clip(panel.values / scale, -1, 1)
    colors = AGAINST_FOR((share + 1) / 2)[..., :3]
    opacity = STRONGEST * np.sqrt(np.abs(share))[..., None]
    blended: NDArray[np.float64] = opacity * colors + (1 - opacity) * pale
    return blended


def _grid(count: int) -> tuple[int, int]:
    """Columns and rows, about as many of both, but not more than 16 a row."""
    columns = min(16, max(4, ceil(count**0.5)))
    return columns, -(-count // columns)


def _filled(grid: NDArray[np.object_], count: int) -> list[Axes]:
    """The first axes of a grid; the others are not drawn."""
    cells = list(grid.ravel())
    for axes in cells[count:]:
        axes.set_axis_off()
    return cells[:count]
