"""A network as a drawing to scale, and as a page with the drawing and the table of its layers."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from markupsafe import Markup

from vggnet.report.html import render

Row = Mapping[str, Any]  # of `vggnet.interpret.summary`
DRAWN = ("input", "conv", "pool", "fc", "average")  # layers with an output of their own
MARGIN, GAP = 16, 4  # units of the drawing, about a pixel each
LEAST_SLOT, LEAST_STAGE, LEAST_WIDTH = 33, 90, 640  # width of a layer; of the last stage's text; of all layers
HEADER, BOXES, LABELS, BARS = 66, 224, 132, 90  # heights
WIDEST_MAP, WIDEST = 26, 200  # boxes: of the blocks, and of all
CLASSES = {"input": "input", "conv": "conv", "pool": "pool", "average": "pool", "fc": "fc"}
# Key of a row -> the title of its panel.
PANELS = {
    "parameters": "parameters of each layer, and the share of all",
    "macs": "multiply-adds of each layer for one image, and the share of all",
}
LEGEND = (("conv", "convolution"), ("pool", "pool"), ("fc", "fully connected"))


class Slot(NamedTuple):
    """A row and its place."""

    row: Row
    left: float
    width: float

    @property
    def middle(self) -> float:
        """The horizontal center."""
        return self.left + self.width / 2


class Box(NamedTuple):
    """A filled rectangle."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    tooltip: str = ""


class Rule(NamedTuple):
    """A thin line."""

    x1: float
    y1: float
    x2: float
    y2: float


class Text(NamedTuple):
    """A line of text; if `upright`, it is read from below."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    strong: bool = False
    upright: bool = False


Mark = Box | Rule | Text


def network_svg(rows: Sequence[Row], *, title: str) -> str:
    """The drawing of a network.

    Args:
        rows: the layers, as in the layer table and in its order.
        title: above the drawing.

    Returns:
        The text of an SVG file. Boxes have the height of the output (pixels) and the width of its channels, each on one
        scale; bars below show parameters and multiply-adds.
    """
    drawn = [row for row in rows if row["kind"] in DRAWN]
    per_channel = _per_channel(drawn)
    slots = list(_slots(drawn, per_channel))
    *_, (_, last) = _stages(slots)
    width = max(slots[-1].left + slots[-1].width, last[0].left + LEAST_STAGE) + MARGIN
    marks = [Text(MARGIN, 22, title, strong=True), *_legend(), *_layers(slots, per_channel)]
    top = HEADER + BOXES + LABELS + 20
    for key, heading in PANELS.items():
        marks += _bars(slots, top, key, heading)
        top += BARS + 70
    return render(
        "network.svg.jinja",
        title=title,
        width=f"{width:.0f}",
        height=top - 12,
        boxes=[mark for mark in marks if isinstance(mark, Box)],
        rules=[mark for mark in marks if isinstance(mark, Rule)],
        texts=[mark for mark in marks if isinstance(mark, Text)],
    )


def network_page(
    *,
    title: str,
    summary: Sequence[tuple[str, str]],
    drawing: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    totals: Sequence[str],
    text_columns: Sequence[int],
    notes: Sequence[str],
) -> str:
    """The page of a network, which has no script and works offline.

    Args:
        title: the heading.
        summary: names and values.
        drawing: SVG, inserted as it is; all else is escaped.
        headings: of the table.
        rows: of the table; the first cell names the stage.
        totals: the last row of the table.
        text_columns: the columns of the table that hold words; the others, numbers, are aligned right.
        notes: below the table.

    Returns:
        The text of an HTML file.
    """
    return render(
        "network.html.jinja",
        title=title,
        summary=summary,
        drawing=Markup(drawing),
        headings=headings,
        rows=rows,
        totals=totals,
        text_columns=text_columns,
        notes=notes,
    )


def _per_channel(rows: Sequence[Row]) -> float:
    """Width of a channel: the widest map of the blocks, and the widest layer of all, must not be too wide."""
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


def _legend() -> Iterator[Mark]:
    left = MARGIN
    for kind, text in LEGEND:
        yield Box(kind, left, 32, 9, 9)
        yield Text(left + 13, 40, text)
        left += 30 + 5 * len(text)
    yield Text(left, 40, "height: pixels of the map, width: channels")


def _layers(slots: Sequence[Slot], per_channel: float) -> Iterator[Mark]:
    """A box for each layer around one middle line; names of stages above, of layers below."""
    scale = BOXES / slots[0].row["output"][-1]  # the image is the highest
    for stage, members in _stages(slots):
        left = members[0].left
        if left > MARGIN:
            yield Rule(left, HEADER - 10, left, HEADER + BOXES + LABELS)
        yield Text(left + GAP, HEADER, stage)
    for slot in slots:
        output = slot.row["output"]
        height = max(1.0, scale * output[-1] if len(output) == 3 else scale)
        width = max(1.0, output[0] * per_channel)
        left, top = slot.middle - width / 2, HEADER + 6 + (BOXES - height) / 2
        yield Box(CLASSES[slot.row["kind"]], left, top, width, height, _tooltip(slot.row))
        label = f"{slot.row['layer']} · {'x'.join(map(str, output))}"
        yield Text(slot.middle + 3, HEADER + BOXES + 12, label, anchor="end", upright=True)


def _bars(slots: Sequence[Slot], top: float, key: str, heading: str) -> Iterator[Mark]:
    """A bar for each layer that has some, the sum and share of each stage below."""
    amounts = [slot.row[key] for slot in slots]
    base = top + 22 + BARS
    yield Text(MARGIN, top, heading, strong=True)
    yield Rule(MARGIN, base, slots[-1].left + slots[-1].width, base)
    for slot, amount in zip(slots, amounts, strict=True):
        if amount:
            height = max(0.5, BARS * amount / max(amounts))
            yield Box(CLASSES[slot.row["kind"]], slot.middle - 9, base - height, 18, height, _tooltip(slot.row))
            yield Text(slot.middle, base - height - 3, _short(amount), anchor="middle")
    for stage, members in _stages(slots):
        amount = sum(slot.row[key] for slot in members)
        if amount:
            left = members[0].left
            yield Rule(left, base, left, base + 28)
            yield Text(left + GAP, base + 13, stage)
            yield Text(left + GAP, base + 25, f"{_short(amount)}, {100 * amount / sum(amounts):.1f} %")


def _tooltip(row: Row) -> str:
    output = "x".join(map(str, row["output"]))
    return f"{row['layer']}: {output}, {row['parameters']:,} parameters, {row['macs'] / 1e6:,.1f} M MACs"


def _short(amount: float) -> str:
    """Three digits and a unit: 1.79k, 103M, 15.5G."""
    for unit in ("", "k", "M"):
        if amount < 999.5:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.3g}G"
