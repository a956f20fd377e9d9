"""The charts of a page: of one run, and of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vggnet.metrics import Bin
from vggnet.report.charts import Line, Spec, by_epoch, by_minutes, calibration, confidence, seconds_by_epoch
from vggnet.report.run_data import Row, RunData, options, without_unit


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its place in the page."""

    name: str  # in the page
    title: str
    description: str  # in words, for screen readers
    spec: Spec


def training_charts(run: RunData) -> list[Chart]:
    """Loss, the metric that epochs are compared by, learning rate and time by epoch."""
    rows, config = run.rows, options(run)
    kept = "" if run.best is None else f" The weights of epoch {run.best['epoch']} were kept."
    charts = []
    for name, axis in run.axes.items():
        scale, digits = (1, 4) if name == "loss" else (100, 2)
        title = without_unit(axis)
        title = title[0].upper() + title[1:]
        lines = [
            Line(label, [(row["epoch"], _times(scale, row.get(f"{split}_{name}"))) for row in rows])
            for split, label in (("train", "training"), ("val", "validation"))
            if any(row.get(f"{split}_{name}") is not None for row in rows)
        ]
        words = f"{title} by epoch. {' '.join(map(_in_words, lines))}{kept}"
        spec = by_epoch(lines, y=axis, description=words, digits=digits)
        charts.append(Chart(name=name, title=title, description=words, spec=spec))
    names = list(rows[-1]["rates"])
    if names:
        rates = [Line(name, [(row["epoch"], row["rates"].get(name)) for row in rows]) for name in names]
        words = f"Learning rate in the middle of each epoch. {' '.join(map(_in_words, rates))}"
        far = len(names) > 1 or config.get("schedule") == "step"  # apart by orders of magnitude
        spec = by_epoch(rates, y="learning rate", description=words, digits=6, log=far)
        charts.append(Chart(name="rate", title="Learning rate", description=words, spec=spec))
    images = run.description["images"]
    times = [{"epoch": row["epoch"], "seconds": row["seconds"], "rate": images / row["seconds"]} for row in rows]
    words = _in_words(Line("Seconds an epoch, validation included", [(row["epoch"], row["seconds"]) for row in rows]))
    spec = seconds_by_epoch(times, description=words)
    return [*charts, Chart(name="time", title="Time", description=words, spec=spec)]


def calibration_charts(test: Mapping[str, Any] | None, bins: Sequence[Bin]) -> list[Chart]:
    """Accuracy and number of images by confidence; none without bins."""
    if not test or not bins:
        return []
    error = 100 * test["calibration_error"]
    words = f"Accuracy at each level of confidence. Mean gap of the two (calibration error): {error:.2f} %."
    many = f"Images at each level of confidence; {bins[-1].images:,} of {test['images']:,} in the highest."
    return [
        Chart(name="calibration", title="Reliability", description=words, spec=calibration(bins, description=words)),
        Chart(name="confidence", title="Confidence", description=many, spec=confidence(bins, description=many)),
    ]


def comparison_charts(runs: Sequence[RunData]) -> list[Chart]:
    """A line for each run: losses and accuracies by epoch, and validation accuracy by minutes."""
    charts = []
    for name, title, axis, scale, digits in (
        ("val_accuracy", "Validation accuracy", "validation accuracy (%)", 100, 2),
        ("val_loss", "Validation loss", "validation loss", 1, 4),
        ("train_accuracy", "Training accuracy", "training accuracy (%)", 100, 2),
        ("train_loss", "Training loss", "training loss", 1, 4),
    ):
        lines = [Line(run.name, [(row["epoch"], _times(scale, row.get(name))) for row in run.rows]) for run in runs]
        if any(value is not None for line in lines for _, value in line.points):
            words = f"{title} by epoch. {' '.join(map(_in_words, lines))}"
            spec = by_epoch(lines, y=axis, description=words, digits=digits)
            charts.append(Chart(name=name, title=title, description=words, spec=spec))
    timed = [Line(run.name, _over_minutes(run.rows)) for run in runs]
    if any(line.points for line in timed):
        words = f"Validation accuracy by minutes of training. {' '.join(map(_in_words, timed))}"
        spec = by_minutes(timed, y="validation accuracy (%)", description=words)
        charts.append(Chart(name="minutes", title="Validation accuracy against time", description=words, spec=spec))
    return charts


def _over_minutes(rows: Sequence[Row]) -> list[tuple[float, float | None]]:
    minutes, points = 0.0, []
    for row in rows:
        minutes += row["seconds"] / 60
        if row.get("val_accuracy") is not None:
            points.append((minutes, 100 * row["val_accuracy"]))
    return points


def _times(scale: float, value: float | None) -> float | None:
    return None if value is None else scale * value


def _in_words(line: Line) -> str:
    values = [value for _, value in line.points if value is not None]
    if not values:
        return f"{line.label}: none."
    return (
        f"{line.label}: from {values[0]:.4g} to {values[-1]:.4g}, lowest {min(values):.4g}, highest {max(values):.4g}."
    )
