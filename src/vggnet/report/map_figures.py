"""Pictures with maps over them, in one color a map."""

from vggnet.errors import require

require("matplotlib", "report")

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from vggnet.report.plot_style import name_classes, picture_grid, save_figure, thumbnail

MAX_PICTURES = 16
COLORS = ("tab:red", "tab:blue", "tab:green", "tab:orange")  # of the maps, in turn
PALER = 0.5  # how much of a picture is left beside white where no map is


def draw_maps(pictures: Sequence[tuple[Image.Image, Mapping[str, NDArray[np.float32]], str]], path: Path) -> None:
    """One to sixteen pictures, two a row, paler and with their maps in color.

    Args:
        pictures: image, its maps by name (H, W), of which 0 is not shown and 1 covers the image, and caption.
        path: the PNG file.

    Raises:
        StorageError: the file cannot be written.
    """
    assert 1 <= len(pictures) <= MAX_PICTURES
    figure, grid = picture_grid(len(pictures), columns=2, width=4.8, height=4.0)
    colors: dict[str, str] = {}
    for axes, (image, maps, caption) in zip(grid, pictures, strict=True):
        small = thumbnail(image)
        shown = 1 - PALER + PALER * np.array(small, np.float32) / 255
        for name, values in maps.items():
            colors.setdefault(name, COLORS[len(colors) % len(COLORS)])
            resized = Image.fromarray(values).resize(small.size, Image.Resampling.BILINEAR)
            opacity = np.array(resized).clip(0, 1)[..., None]
            shown = (1 - opacity) * shown + opacity * np.array(to_rgb(colors[name]), np.float32)
        axes.imshow(shown)
        axes.set_title(caption, fontsize=9, parse_math=False)
        axes.set(xticks=[], yticks=[])
    name_classes(figure, colors)
    save_figure(figure, path)
