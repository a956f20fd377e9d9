"""A network drawn to scale: every output as a box, and below each where parameters and work lie."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

from vggnet.report.plot_style import BLUE, GRAY, ORANGE

Row = Mapping[str, Any]  # of `vggnet.layer_table`
DRAWN = ("input", "conv", "pool", "fc", "average")  # what gives an output of its own
MARGIN, GAP = 16, 4  # units of the drawing, about a pixel each
LEAST_SLOT, LEAST_STAGE, LEAST_WIDTH = 33, 90, 640  # breadth of a layer; of the last stage's text; of all layers
HEADER, BOXES, LABELS, BARS = 66, 224, 132, 90  # heights
WIDEST_MAP, WIDEST = 26, 200  # boxes: of the blocks, and of all
CLASSES = {"input": "input", "conv": "conv", "pool": "pool", "average": "pool", "fc": "fc"}
STYLE = f"""
.network {{ --paper: #ffffff; --ink: #1c2733; --line: #d5dade; font: 10px system-ui, sans-serif; }}
.network text {{ fill: var(--ink); }}
.network .sheet {{ fill: var(--paper); }}
.network .rule {{ stroke: var(--line); }}
.network .strong {{ font-size: 12px; font-weight: 600; }}
.network .conv {{ fill: {BLUE}; }}
.network .fc {{ fill: {ORANGE}; }}
.network .pool {{ fill: {GRAY}; opacity: 0.45; }}
.network .input {{ fill: {GRAY}; }}
@media (prefers-color-scheme: dark) {{
  .network {{ --paper: #14191f; --ink: #e3e7ea; --line: #3a444d; }}
  .network .conv {{ fill: #5aa2df; }}
  .network .fc {{ fill: #f09a45; }}
  .network .pool, .network .input {{ fill: #a3adb6; }}
}}
"""


class Slot(NamedTuple):
    """A row and its place."""

    row: Row
    left: float
    width: float

    @property
    def middle(self) -> float:
        """Of its breadth."""
        return self.left + self.width / 2


# Key of a row -> the title of its panel.
PANELS = {
    "parameters": "where the parameters lie: number, share of all",
    "macs": "where the work lies: multiply-adds for one image, share of all",
}
LEGEND = (("conv", "convolution"), ("pool", "pool"), ("fc", "fully connected"))


def network_svg(rows: Sequence[Row], *, title: str) -> str:
    """The drawing as the text of an SVG file. `rows` are those of a layer table, in its order.

    Boxes have the height of the output (pixels) and the breadth of its channels, each on one scale of its own.
    """
    drawn = [row for row in rows if row["kind"] in DRAWN]
    per_channel = _per_channel(drawn)
    slots = list(_slots(drawn, per_channel))
    *_, (_, last) = _stages(slots)
    width = max(slots[-1].left + slots[-1].width, last[0].left + LEAST_STAGE) + MARGIN
    parts = [_text(MARGIN, 22, title, "strong")]
    parts += _legend()
    parts += _boxes(slots, per_channel)
    top = HEADER + BOXES + LABELS + 20
    for key, heading in PANELS.items():
        parts += _bars(slots, top, key, heading)
        top += BARS + 70
    height = top - 12
    parts.insert(0, f'<rect class="sheet" width="{width:.0f}" height="{height}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="network" viewBox="0 0 {width:.0f} {height}" '
        f'width="{width:.0f}" height="{height}" role="img" aria-label="{escape(title)}">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _per_channel(rows: Sequence[Row]) -> float:
    """Breadth of a channel: the widest map of the blocks, and the widest layer of all, must not be too wide."""
    of_all: int = max(row["output"][0] for row in rows)
    of_maps: int = max(row["output"][0] for row in rows if row["stage"] != "head")
    return min(WIDEST_MAP / of_maps, WIDEST / of_all)


def _slots(rows: Sequence[Row], per_channel: float) -> Iterator[Slot]:
    """Side by side, each as wide as its box needs, and its label."""
    left: float = MARGIN
    least = max(LEAST_SLOT, LEAST_WIDTH / len(rows))
    for row in rows:
        width = max(least, row["output"][0] * per_channel + GAP)
        yield Slot(row, left, width)
        left += width


def _stages(slots: Sequence[Slot]) -> Iterator[tuple[str, list[Slot]]]:
    for stage, members in groupby(slots, key=lambda slot: str(slot.row["stage"])):
        yield stage, list(members)


def _legend() -> Iterator[str]:
    left = MARGIN
    for kind, text in LEGEND:
        yield f'<rect class="{kind}" x="{left}" y="32" width="9" height="9"/>'
        yield _text(left + 13, 40, text)
        left += 30 + 5 * len(text)
    yield _text(left, 40, "height: pixels of the map, breadth: channels")


def _boxes(slots: Sequence[Slot], per_channel: float) -> Iterator[str]:
    """Around one middle line; names of stages above, of layers below."""
    scale = BOXES / slots[0].row["output"][-1]  # the image is the highest
    for stage, members in _stages(slots):
        left = members[0].left
        if left > MARGIN:
            yield _rule(left, HEADER - 10, left, HEADER + BOXES + LABELS)
        yield _text(left + GAP, HEADER, stage)
    for slot in slots:
        output = slot.row["output"]
        height = max(1.0, scale * output[-1] if len(output) == 3 else scale)
        breadth = max(1.0, output[0] * per_channel)
        yield (
            f'<rect class="{CLASSES[slot.row["kind"]]}" x="{slot.middle - breadth / 2:.1f}" '
            f'y="{HEADER + 6 + (BOXES - height) / 2:.1f}" width="{breadth:.1f}" height="{height:.1f}">'
            f"<title>{escape(_told(slot.row))}</title></rect>"
        )
        label = f"{slot.row['layer']} · {'x'.join(map(str, output))}"
        yield _upright(slot.middle, HEADER + BOXES + 12, label)


def _bars(slots: Sequence[Slot], top: float, key: str, heading: str) -> Iterator[str]:
    """A bar for each layer that has some, the sum and share of each stage below."""
    amounts = [slot.row[key] for slot in slots]
    base = top + 22 + BARS
    yield _text(MARGIN, top, heading, "strong")
    yield _rule(MARGIN, base, slots[-1].left + slots[-1].width, base)
    for slot, amount in zip(slots, amounts, strict=True):
        if amount:
            height = max(0.5, BARS * amount / max(amounts))
            yield (
                f'<rect class="{CLASSES[slot.row["kind"]]}" x="{slot.middle - 9:.1f}" y="{base - height:.1f}" '
                f'width="18" height="{height:.1f}"><title>{escape(_told(slot.row))}</title></rect>'
            )
            yield _text(slot.middle, base - height - 3, _short(amount), anchor="middle")
    for stage, members in _stages(slots):
        amount = sum(slot.row[key] for slot in members)
        if amount:
            left = members[0].left
            yield _rule(left, base, left, base + 28)
            yield _text(left + GAP, base + 13, stage)
            yield _text(left + GAP, base + 25, f"{_short(amount)}, {100 * amount / sum(amounts):.1f} %")


def _told(row: Row) -> str:
    """What a pointer at rest shows."""
    output = "x".join(map(str, row["output"]))
    return f"{row['layer']}: {output}, {row['parameters']:,} parameters, {row['macs'] / 1e6:,.1f} M MACs"


def _short(amount: float) -> str:
    """Three digits and a unit: 1.79k, 103M, 15.5G."""
    for unit in ("", "k", "M"):
        if amount < 999.5:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.3g}G"


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{chosen}>{escape(text)}</text>'


def _upright(x: float, y: float, text: str) -> str:
    """Read from below, ending at (x, y)."""
    place = f'x="{x + 3:.1f}" y="{y:.1f}" transform="rotate(-90 {x + 3:.1f} {y:.1f})"'
    return f'<text {place} text-anchor="end">{escape(text)}</text>'
