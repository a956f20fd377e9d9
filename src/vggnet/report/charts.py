"""Interactive charts of a report, as Vega-Lite. Their colors are the page's CSS variables, so dark mode applies.

Two parameters of a chart by epoch, `first` and `last`, are the epochs in view. An interval that is drawn with the
pointer is the parameter `drawn`; the page makes it the epochs in view.
"""

from vggnet.errors import require

require("altair", "report")
require("vl_convert", "report")

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, NamedTuple

import altair as alt

from vggnet.errors import StorageError
from vggnet.files import cache_folder, write_text
from vggnet.metrics import Bin

Spec = dict[str, Any]
NUM_COLORS = 8  # of the page's variables --series-0, ...; later lines are dashed
MOST_POINTS = 40  # epochs up to which each is a point of its line
IN_VIEW = "datum.epoch >= first && datum.epoch <= last"


class Line(NamedTuple):
    """One line of a chart: its points are (x, y); one of unknown y is left out."""

    label: str
    points: Sequence[tuple[float, float | None]]


def by_epoch(lines: Sequence[Line], *, y: str, description: str, digits: int = 4, log: bool = False) -> Spec:
    """Lines over epochs; a tooltip shows the values of all at the epoch under the pointer.

    y: title of the axis, with its unit.  description: in words.  digits: after the point, in the tooltip.
    """
    table = _table(lines)
    last = max((row["epoch"] for row in table), default=1)
    x = alt.X("epoch:Q", title="epoch", scale=alt.Scale(zero=False, nice=False), axis=_epochs())
    lines_of = alt.Chart(_long(lines, "epoch")).mark_line(point=last <= MOST_POINTS)
    lines_of = lines_of.encode(x=x, y=_logarithmic(y, lines) if log else _linear(y), **_styles(lines))
    tips = [alt.Tooltip("epoch:Q")]
    tips += [alt.Tooltip(f"line{place}:Q", title=line.label, format=f".{digits}f") for place, line in enumerate(lines)]
    near = alt.selection_point(name="near", on="pointerover", fields=["epoch"], nearest=True, empty=False)
    rule = alt.Chart(_data(table)).mark_rule(color="var(--muted)")
    rule = rule.encode(x=x, tooltip=tips, opacity=alt.condition(near, alt.value(0.7), alt.value(0), empty=False))
    shade = alt.BrushConfig(fill="currentColor", fillOpacity=0.2, stroke="currentColor")
    drawn = alt.selection_interval(name="drawn", encodings=["x"], zoom=False, mark=shade)
    layers = (lines_of.add_params(drawn), rule.add_params(near))
    return _finish(alt.layer(*(_in_view(layer, last) for layer in layers)), description)


def seconds_by_epoch(rows: Sequence[Mapping[str, float]], *, description: str) -> Spec:
    """Bars. Each row has `epoch`, `seconds`, and `rate`, images a second."""
    bars = alt.Chart(_data(rows)).mark_rect(color="var(--series-0)")
    bars = bars.transform_calculate(left="datum.epoch - 0.4", right="datum.epoch + 0.4")
    bars = bars.encode(
        x=alt.X("left:Q", title="epoch", scale=alt.Scale(zero=False, nice=False), axis=_epochs()),
        x2="right:Q",
        y=alt.Y("seconds:Q", title="time (seconds)", scale=alt.Scale(zero=True)),
        y2=alt.datum(0),
        tooltip=[
            alt.Tooltip("epoch:Q"),
            alt.Tooltip("seconds:Q", format=".1f"),
            alt.Tooltip("rate:Q", title="images a second", format=",.0f"),
        ],
    )
    return _finish(_in_view(bars, rows[-1]["epoch"]), description)


def by_minutes(lines: Sequence[Line], *, y: str, description: str) -> Spec:
    """Lines over minutes of training, a point for each epoch."""
    chart = alt.Chart(_long(lines, "minutes")).mark_line(point=True)
    chart = chart.encode(
        x=alt.X("minutes:Q", title="minutes of training"),
        y=_linear(y),
        tooltip=[
            alt.Tooltip("series:N", title="run"),
            alt.Tooltip("minutes:Q", format=".1f"),
            alt.Tooltip("value:Q", title=y, format=".2f"),
        ],
        **_styles(lines),
    )
    return _finish(chart, description)


def calibration(bins: Iterable[Bin], *, description: str) -> Spec:
    """Accuracy by confidence, and the line on which a calibrated network lies."""
    percents = alt.Scale(domain=[0, 100])
    known = ("low", "high", "confidence", "accuracy")
    rows = [{"images": b.images, **{name: 100 * getattr(b, name) for name in known}} for b in bins if b.images]
    bars = alt.Chart(_data(rows)).mark_rect(color="var(--series-0)", stroke="var(--page)")
    bars = bars.encode(
        x=alt.X("low:Q", title="confidence (%)", scale=percents),
        x2="high:Q",
        y=alt.Y("accuracy:Q", title="accuracy (%)", scale=percents),
        y2=alt.datum(0),
        tooltip=[
            alt.Tooltip("images:Q", format=","),
            alt.Tooltip("confidence:Q", title="mean confidence (%)", format=".1f"),
            alt.Tooltip("accuracy:Q", title="accuracy (%)", format=".1f"),
        ],
    )
    ends = _data([{"low": 0, "accuracy": 0}, {"low": 100, "accuracy": 100}])
    diagonal = alt.Chart(ends).mark_line(color="currentColor", strokeDash=[5, 4]).encode(x="low:Q", y="accuracy:Q")
    return _finish(alt.layer(bars, diagonal), description)


def confidence(bins: Iterable[Bin], *, description: str) -> Spec:
    """Number of images by confidence."""
    rows = [{"low": 100 * b.low, "high": 100 * b.high, "images": b.images} for b in bins]
    bars = alt.Chart(_data(rows)).mark_rect(color="var(--series-1)", stroke="var(--page)")
    bars = bars.encode(
        x=alt.X("low:Q", title="confidence (%)", scale=alt.Scale(domain=[0, 100])),
        x2="high:Q",
        y=alt.Y("images:Q", title="images", axis=alt.Axis(tickCount=5)),
        y2=alt.datum(0),
        tooltip=[
            alt.Tooltip("images:Q", format=","),
            alt.Tooltip("low:Q", title="confidence from (%)", format=".1f"),
            alt.Tooltip("high:Q", title="to (%)", format=".1f"),
        ],
    )
    return _finish(bars, description)


def _table(lines: Sequence[Line]) -> list[dict[str, float]]:
    """A row for each epoch, with the value of each line under line0, ...: a name that is no field of Vega's grammar."""
    rows: dict[float, dict[str, float]] = {}
    for place, line in enumerate(lines):
        for epoch, value in line.points:
            if value is not None:
                rows.setdefault(epoch, {"epoch": epoch})[f"line{place}"] = value
    return list(rows.values())


def _long(lines: Sequence[Line], x: str) -> alt.InlineData:
    points = [(line.label, at, value) for line in lines for at, value in line.points if value is not None]
    return _data([{"series": label, x: at, "value": value} for label, at, value in points])


def _data(rows: Iterable[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _in_view(chart: alt.Chart, last: float) -> alt.Chart:
    bounds = (alt.param(name="first", value=1), alt.param(name="last", value=last))
    return chart.transform_filter(IN_VIEW).add_params(*bounds)


def _styles(lines: Sequence[Line]) -> dict[str, Any]:
    """The color of each line, and dashes once the colors are used up."""
    labels = [line.label for line in lines]
    colors = [f"var(--series-{place % NUM_COLORS})" for place in range(len(lines))]
    dashes = [[1, 0] if place < NUM_COLORS else [5, 4] for place in range(len(lines))]
    columns = 1 if max(map(len, labels)) > 14 else 3
    legend = alt.Legend(title=None, orient="top", columns=columns, labelLimit=250) if len(lines) > 1 else None
    return {
        "color": alt.Color("series:N", scale=alt.Scale(domain=labels, range=colors), legend=legend),
        "strokeDash": alt.StrokeDash("series:N", scale=alt.Scale(domain=labels, range=dashes), legend=legend),
    }


def _epochs() -> alt.Axis:
    """Between whole numbers there is nothing."""
    whole = "datum.value == round(datum.value)"
    ticks = alt.condition(whole, alt.value(1), alt.value(0))
    return alt.Axis(grid=False, labelExpr=f"{whole} ? format(datum.value, 'd') : ''", tickOpacity=ticks)


def _linear(title: str) -> alt.Y:
    return alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))


def _logarithmic(title: str, lines: Sequence[Line]) -> alt.Y:
    """Ticks at powers of ten."""
    logs = [math.log10(value) for line in lines for _, value in line.points if value]
    powers = [10.0**power for power in range(math.floor(min(logs)), math.ceil(max(logs)) + 1)]
    axis = alt.Axis(values=powers, format="~g")
    return alt.Y("value:Q", title=f"{title} (log scale)", scale=alt.Scale(type="log"), axis=axis)


def _finish(chart: alt.Chart | alt.LayerChart | alt.FacetChart, description: str) -> Spec:
    text: Spec = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12}
    axis = text | {"gridColor": "var(--line)", "domainColor": "var(--muted)", "tickColor": "var(--muted)"}
    chart = chart.properties(width="container", height=230, background="transparent", description=description)
    chart = chart.configure(
        font="system-ui, sans-serif",
        view={"stroke": None},
        axis=axis | {"titleFontWeight": "normal"},
        legend=text,
    )
    spec: Spec = chart.to_dict()
    return spec


def vega_script() -> str:
    """The JavaScript that draws the charts: Vega, Vega-Lite and Vega-Embed, about 900 kB, for use offline.

    It takes seconds to make, and is then kept in the cache.
    """
    path = cache_folder() / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError):  # it is not there, or this user may not read it
        return path.read_text(encoding="utf-8")
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    assert "</script" not in script.lower()
    with suppress(StorageError):  # made again next time
        write_text(path, script)
    return script
