"""Figures of what `vggnet.interpret` returns: attributions, feature maps, filters, top activations, visualizations."""

from vggnet.errors import require

require("matplotlib", "report")

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from vggnet.errors import check_at_least
from vggnet.report.figures import draw_gallery
from vggnet.report.plot_style import draw_frame, save_figure, write_title

if TYPE_CHECKING:
    from vggnet.interpret.explanation import Attribution, Explanation
    from vggnet.interpret.feature_visualization import Visualization
    from vggnet.interpret.layers import FeatureMaps
    from vggnet.interpret.top_activations import TopActivation

# Against and for: told apart by color-blind readers, and in gray, where what is against is darker.
AGAINST_FOR = LinearSegmentedColormap.from_list("against_for", ["#0b2f5e", "#5b8ec4", "#ffffff", "#f0a04b", "#c85a00"])
FOR = LinearSegmentedColormap.from_list("for", AGAINST_FOR(np.linspace(0.5, 1, 128)))
STRONGEST = 0.85  # opacity of the largest value, so that the picture shows through
CAM_NAMES = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "layercam": "LayerCAM", "scorecam": "Score-CAM"}
MAPS_WIDTH = 11.0  # inches


class Panel(NamedTuple):
    """One attribution."""

    title: str
    values: NDArray[np.float32]  # (H, W)
    label: str  # what the colors mean, with its unit
    signed: bool  # else no value is negative


def explanation_title(explanation: "Explanation") -> str:
    """The class and its probability; also the predicted class, if it is another one."""
    text = f"{explanation.name}, {100 * explanation.probability:.2f} %"
    if explanation.predicted == explanation.name:
        return text
    return f"{text} (predicted: {explanation.predicted}, {100 * explanation.predicted_probability:.2f} %)"


def draw_explanation(explanation: "Explanation", path: Path | str) -> None:
    """Draw the image and the attribution by each method, side by side.

    Args:
        explanation: a result of `vggnet.interpret.explain`.
        path: a PNG file.

    Raises:
        StorageError: the disk refuses.

    Example:
        >>> import vggnet
        >>> from tempfile import TemporaryDirectory
        >>> image = Image.new("RGB", (40, 32))
        >>> found = vggnet.interpret.explain("vgg8_bn-cifar10-fast", image, methods=["gradcam"])
        >>> with TemporaryDirectory() as folder:
        ...     draw_explanation(found, f"{folder}/explanation.png")
    """
    panels = [_panel(method, found) for method, found in explanation.attributions.items()]
    draw_attributions(explanation.picture, panels, Path(path), title=explanation_title(explanation))


def _panel(method: str, found: "Attribution") -> Panel:
    values, facts = found.values, found.facts
    if "layer" in facts:
        values = values / max(values.max(), np.finfo(np.float32).tiny)
        name = CAM_NAMES[method]
        zero = ", zero everywhere" if "note" in facts else ""
        return Panel(f"{name}\n{facts['layer']}{zero}", values, "share of the largest value", signed=False)
    if method == "guided-backpropagation":
        return Panel("guided\nbackpropagation", values, "guided gradient of the logit", signed=True)
    if "steps" in facts:
        how = f"{facts['steps']} steps, sum off by {facts['delta']:.2g} of {facts['rise']:.3g}"
        return Panel(f"integrated gradients\n{how}", values, "share in the logit, a pixel", signed=True)
    how = f"{facts['window']} x {facts['window']} pixels, every {facts['stride']}"
    return Panel(f"occlusion\n{how}", values, "fall of the logit when hidden", signed=True)


def draw_attributions(picture: NDArray[np.uint8], panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """The picture, (H, W, 3) or (H, W) gray, then each attribution over a pale gray copy of it, with its color bar."""
    columns = 1 + len(panels)
    figure = Figure(figsize=(2.9 * columns, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.12))  # inches
    grid = figure.subplots(2, columns, height_ratios=(1, 0.05), squeeze=False)
    _show(grid[0, 0], picture)
    grid[0, 0].set_title("the image\nas the network saw it", fontsize=10)
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


def draw_feature_maps(found: "FeatureMaps", path: Path | str, *, top: int = 64) -> list[int]:
    """Draw an image and the strongest channels of a layer as a grid, all with one color scale.

    The scale is that of square roots if nothing is negative, because a few places are far above all others.

    Args:
        found: a result of `vggnet.interpret.feature_maps`.
        path: a PNG file.
        top: number of channels, those with the largest absolute values.

    Returns:
        The channels drawn, in the order of the layer.

    Raises:
        ConfigError: `top` is below 1. StorageError: the disk refuses.

    Example:
        >>> import vggnet
        >>> from tempfile import TemporaryDirectory
        >>> found = vggnet.interpret.feature_maps("vgg8_bn-cifar10-fast", Image.new("RGB", (40, 32)), "relu1_1")
        >>> with TemporaryDirectory() as folder:
        ...     shown = draw_feature_maps(found, f"{folder}/maps.png", top=2)
        >>> len(shown)
        2
    """
    check_at_least(1, top=top)
    shown = found.strongest(top)
    maps = found.maps[shown]
    signed = bool(maps.min() < 0)
    scale = float(np.abs(maps).max()) or 1.0
    columns, rows = _grid(1 + len(maps))
    figure = Figure(figsize=(MAPS_WIDTH, MAPS_WIDTH / columns * rows * 1.15 + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    norm = Normalize(-scale, scale) if signed else PowerNorm(0.5, 0, scale)
    colors = ScalarMappable(norm, AGAINST_FOR if signed else "magma")
    first, *others = _filled(grid, 1 + len(maps))
    _show(first, found.picture)
    first.set_title("the image", fontsize=8, pad=2)
    for axes, values, channel in zip(others, maps, shown, strict=True):
        axes.imshow(values, norm=norm, cmap=colors.get_cmap())
        axes.set_title(str(channel), fontsize=8, pad=2)
        axes.set(xticks=[], yticks=[])
    bar = figure.colorbar(colors, ax=grid, orientation="horizontal", shrink=0.4, aspect=40, pad=0.01)
    bar.set_label("activation")
    if not signed:
        ticks = [scale * (place / 4) ** 2 for place in range(5)]
        bar.set_ticks(ticks, labels=[f"{tick:.4g}" for tick in ticks])
    count, height, width = found.maps.shape
    which = "all" if len(shown) == count else f"the {len(shown)} strongest of"
    title = f"{found.layer} of {Path(found.image).name}: {which} {count} channels, {height} x {width} places"
    write_title(figure, title)
    save_figure(figure, Path(path))
    return shown


def draw_filters(filters: NDArray[np.float32], path: Path | str) -> None:
    """Draw one RGB tile for each filter; for other than three input channels one gray tile for each of them.

    All have one scale: mid-gray is a weight of 0, white (or the full color) the largest of all, black its negative.

    Args:
        filters: (K, C, k, k), a result of `vggnet.interpret.first_filters`.
        path: a PNG file.

    Raises:
        StorageError: the disk refuses.

    Example:
        >>> import vggnet
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     draw_filters(vggnet.interpret.first_filters("vgg8_bn-cifar10-fast")[:4], f"{folder}/filters.png")
    """
    count, channels = filters.shape[:2]
    tiles = 0.5 + filters / (2 * max(np.abs(filters).max(), np.finfo(np.float32).tiny))
    names = [str(index) for index in range(count)]
    if channels == 3:
        tiles = np.moveaxis(tiles, 1, 3)
    else:
        tiles = tiles.reshape(-1, *filters.shape[2:])
        if channels > 1:
            names = [f"{index}, input {channel}" for index in range(count) for channel in range(channels)]
    columns, rows = _grid(len(tiles))
    figure = Figure(figsize=(0.9 * columns + 0.2, 1.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, tile, name in zip(_filled(grid, len(tiles)), tiles, names, strict=True):
        axes.imshow(tile, cmap="gray", vmin=0, vmax=1)
        axes.set_title(name, fontsize=8, pad=2, parse_math=False)
        axes.set(xticks=[], yticks=[])
    write_title(figure, f"conv1_1: {count} filters of {filters.shape[2]} x {filters.shape[3]} weights; mid-gray is 0")
    save_figure(figure, Path(path))


def draw_top_activations(found: "Mapping[str, Sequence[TopActivation]]", path: Path | str, *, title: str = "") -> None:
    """Draw for each channel its images with the receptive field framed, and below each the field, enlarged.

    Args:
        found: a result of `vggnet.interpret.find_top_activations`.
        path: a PNG file.
        title: of the figure.

    Raises:
        StorageError: the disk refuses.
    """
    columns = max(map(len, found.values()))
    figure = Figure(figsize=(1.5 * columns + 0.6, 3.5 * len(found) + 0.5), layout="constrained")
    grid = figure.subplots(2 * len(found), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, (name, images) in enumerate(found.items()):
        for whole, part, one in zip(grid[2 * number], grid[2 * number + 1], images, strict=False):
            left, top, right, bottom = one.box
            _show(whole, one.picture)
            draw_frame(whole, one.box)
            whole.set_xlabel(f"{one.activation:.3g}, {one.label}", fontsize=8, parse_math=False)
            _show(part, one.picture[top:bottom, left:right])
        grid[2 * number, 0].set_ylabel(name, fontsize=10, parse_math=False)
    write_title(figure, title)
    save_figure(figure, Path(path))


def draw_visualizations(found: "Sequence[Visualization]", path: Path | str) -> None:
    """Draw six images a row, each under its channel and its activation before and after.

    Args:
        found: a result of `vggnet.interpret.visualize_channels`.
        path: a PNG file.

    Raises:
        StorageError: the disk refuses.
    """
    cells = [(Image.fromarray(one.picture), f"{one.channel}\n{one.before:.3g} → {one.after:.3g}") for one in found]
    draw_gallery([cells[start : start + 6] for start in range(0, len(cells), 6)], Path(path))


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
