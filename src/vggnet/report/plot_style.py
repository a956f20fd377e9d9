"""What all figures share: colors, fonts, and how they are saved."""

from vggnet.errors import require

require("matplotlib", "report")

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from PIL import Image

from vggnet.files import escaped, replacing

# Told apart by color-blind readers, and by lightness in gray.
BLUE, ORANGE, GRAY = "#1f6fb4", "#d9730d", "#5f6b76"
RIGHT, WRONG = "#1b7f4b", "#b3261e"
# Scripts that the default font lacks, by whichever of these fonts the machine has.
MORE_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "AR PL UMing CN", "AR PL UKai CN"),
    *("Microsoft YaHei", "SimHei", "SimSun", "PingFang SC", "Heiti SC", "Hiragino Sans GB", "Hiragino Sans"),
    *(
        "Noto Sans CJK TC",
        "Noto Sans CJK KR",
        "Noto Sans CJK HK",
        "Noto Serif CJK JP",
        "Noto Serif CJK SC",
        "Noto Sans JP",
    ),
    *("PingFang HK", "PingFang TC", "STHeiti", "Songti SC", "Microsoft JhengHei", "Yu Gothic", "MS Gothic"),
    *("Malgun Gothic", "Apple SD Gothic Neo", "Nanum Gothic", "NanumGothic"),
    *("Arial Unicode MS", "Noto Sans", "Unifont"),
)
SHOWN = 8  # characters in the warning
MAX_NAMED = 30  # classes in a legend


def save_figure(figure: Figure, path: Path) -> None:
    """As PNG, whole or not at all; a warning names characters that no font has.

    Raises: StorageError if `path` cannot be written.
    """
    texts = figure.findobj(Text)
    for text in texts:
        text.set_fontfamily(_fonts())
        text.set_text(escaped(text.get_text()))
    if lacking := _lacking({character for text in texts for character in text.get_text()}):
        warnings.warn(
            f"no font on this machine has {' '.join(lacking[:SHOWN])}{' ...' if len(lacking) > SHOWN else ''}; figures "
            "show empty boxes there. Install Noto Sans CJK (apt install fonts-noto-cjk), then draw them again.",
            stacklevel=1,  # the same line, so that Python shows it once, not for each figure
        )
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # one for each glyph
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": "vggnet"})


def picture_grid(count: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure and the axes of its pictures, row by row; those of places that are left over show nothing.

    Args:
        count: of pictures.
        columns: pictures a row, at most.
        width: inches for a picture.
        height: inches for a picture and its caption.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def name_classes(figure: Figure, colors: Mapping[str, Any]) -> None:
    """A legend of classes below the pictures, the first thirty; the figure becomes higher by what it needs.

    Args:
        figure: with a constrained layout.
        colors: of each class, as Matplotlib takes them.
    """
    named = list(colors.items())[:MAX_NAMED]
    patches = [Patch(facecolor=color, edgecolor="gray", label=short(name, 24)) for name, color in named]
    for columns in range(min(6, len(patches)), 0, -1):
        legend = figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + legend.get_window_extent().height / figure.dpi)
            return
        legend.remove()


def write_title(figure: Figure, title: str) -> None:
    """Above the whole figure; nothing if it is empty."""
    if title:
        figure.suptitle(title, parse_math=False)


def draw_frame(axes: Axes, box: Sequence[float]) -> None:
    """Around left, top, right, bottom, the edges of pixels, so that the whole picture is (0, 0, width, height)."""
    left, top, right, bottom = box
    frame = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, clip_on=False)
    frame.set(edgecolor=ORANGE, linewidth=2, path_effects=[withStroke(linewidth=4, foreground="white")])
    axes.add_patch(frame)


def thumbnail(image: Image.Image) -> Image.Image:
    """An RGB copy of at most 400 pixels a side."""
    small = image.convert("RGB")  # a copy
    small.thumbnail((400, 400))
    return small


def short(name: str, length: int) -> str:
    """Cut out the middle, since names often differ at either end."""
    name, tail = escaped(name), length // 3
    return name if len(name) <= length else f"{name[: length - tail - 1]}…{name[-tail:]}"


@cache
def _fonts() -> list[str]:
    return ["DejaVu Sans", *(name for name in MORE_FONTS if name in font_manager.get_font_names())]


def _lacking(characters: Iterable[str]) -> list[str]:
    """Those that none of the fonts has."""
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in _fonts()]
    wanted = [character for character in characters if character.isprintable() and not character.isspace()]
    return sorted(one for one in wanted if not any(font.get_char_index(ord(one)) for font in fonts))
