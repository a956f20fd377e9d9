"""The report of a run, or the comparison of several, as one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from scipy.stats import binomtest

from vggnet.data.sources.source import Source
from vggnet.metrics import PerImage, calibration_bins
from vggnet.report.album import GALLERY, MISTAKES_PER_CELL, RIGHT_PER_CLASS, Album, encode, make_album
from vggnet.report.charts import Line, Spec, by_epoch, by_minutes, calibration, confidence, seconds_by_epoch
from vggnet.report.vega import vega_script

MAX_MATRIX = 40  # classes; more are shown as a list of confusions
EXPLAINED_SIDE = 224  # pixels, at most, of the pictures of an explanation
MOST_CONFUSIONS = 50  # in that list
TEMPLATES = Path(__file__).parent / "templates"

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What the files of one run folder say."""

    name: str
    description: Mapping[str, Any]  # config.json
    rows: Sequence[Row]  # history.jsonl, with the learning rates of each epoch under `rates`
    best: Row | None  # the row of the epoch whose weights were kept
    test: Mapping[str, Any] | None  # test.json of a test of classes
    boxes: Mapping[str, Any] | None = None  # test.json of a test of boxes


class Explanation(NamedTuple):
    """Why the network gave an answer, as pictures."""

    picture: Image.Image
    overlays: Sequence[tuple[Image.Image, str]]  # each with what it shows
    caption: str


@dataclass(frozen=True, kw_only=True)
class _Chart:
    name: str  # in the page
    title: str
    says: str  # in words
    spec: Spec


def run_page(
    run: RunData,
    *,
    answers: PerImage | None = None,
    source: Source | None = None,
    explanations: Sequence[Explanation] = (),
    notes: Sequence[str] = (),
) -> str:
    """HTML of one run.

    answers: of the run's test, to each image of `source`; without them there are counts but no images, without a source
        no pictures.  notes: what the reader must know, such as why something is missing.
    Raises: ImageError if a picture cannot be read.
    """
    charts = _training_charts(run) if run.rows else []
    album, bins = Album(), []
    if run.test and answers:
        album, bins = make_album(answers, source), calibration_bins(answers)
    classes = list(run.test["classes"]) if run.test else []
    return (
        _environment()
        .get_template("run.html.jinja")
        .render(
            title=run.name,
            run=run,
            numbers=key_numbers(run),
            notes=notes,
            training=charts,
            test=run.test,
            boxes=run.boxes,
            per_class=_per_class(run.test) if run.test else [],
            matrix=_matrix(run.test["confusion"]) if run.test and len(classes) <= MAX_MATRIX else None,
            confusions=_confusions(run.test["confusion"]) if run.test else [],
            calibration=_calibration_charts(run.test, bins) if run.test and bins else [],
            bins=bins,
            album=album,
            limits={"mistakes": MISTAKES_PER_CELL, "right": RIGHT_PER_CLASS, "gallery": GALLERY},
            explanations=[
                {
                    "caption": each.caption,
                    "picture": encode(each.picture, EXPLAINED_SIDE),
                    "overlays": [(encode(image, EXPLAINED_SIDE), text) for image, text in each.overlays],
                }
                for each in explanations
            ],
            configuration=_configuration(run.description),
            data={
                "charts": {chart.name: chart.spec for chart in [*charts, *_calibration_charts(run.test, bins)]},
                "classes": classes,
                "cells": {f"{true}-{guess}": indices for (true, guess), indices in album.cells.items()},
                "images": _images(album, answers, source),
            },
        )
    )


def comparison_page(runs: Sequence[RunData]) -> str:
    """HTML of several runs: curves over each other, results side by side, what their configurations differ in."""
    charts = _comparison_charts(runs)
    kinds = {_kind(run) for run in runs if run.test or run.boxes}
    return (
        _environment()
        .get_template("comparison.html.jinja")
        .render(
            title=f"{len(runs)} runs",
            runs=runs,
            numbers=[key_numbers(run) for run in runs],
            comparable=len(kinds) <= 1,
            training=charts,
            differences=_differences(runs),
            classes=_common_classes(runs),
            data={"charts": {chart.name: chart.spec for chart in charts}, "classes": [], "cells": {}, "images": {}},
        )
    )


def _kind(run: RunData) -> tuple[Any, ...]:
    """What a test must have in common with another for their results to compare."""
    names = ("protocol", "views") if run.test else ("scales", "flip")
    test = run.test or run.boxes or {}
    return tuple(str(test[name]) for name in ("fingerprint", "split", *names))


def key_numbers(run: RunData) -> dict[str, Any]:
    """The results of a run; None for what is not known. Accuracies and errors are 0..1, the interval covers 95 %."""
    best, test, boxes = run.best or {}, run.test or {}, run.boxes or {}
    seconds = [row["seconds"] for row in run.rows]
    return {
        "run": run.name,
        "model": run.description["config"].get("model"),
        "epochs": len(run.rows),
        "minutes": sum(seconds) / 60,
        "images_per_second": run.description["images"] * len(seconds) / sum(seconds) if sum(seconds) else None,
        "best_epoch": best.get("epoch"),
        "val_accuracy": best.get("val_accuracy"),
        "test_accuracy": test.get("top1"),
        "test_interval": _interval(test["top1"], test["images"]) if test else None,
        "test_top5": test.get("top5"),
        "test_loss": test.get("loss"),
        "calibration_error": test.get("calibration_error"),
        "box_error": boxes.get("error_class_given"),
        "box_overlap": boxes.get("mean_overlap"),
        "test_images": (test or boxes).get("images"),
        "test_split": (test or boxes).get("split"),
    }


def _interval(accuracy: float, images: int) -> tuple[float, float]:
    """Wilson's, of 95 %."""
    found = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _training_charts(run: RunData) -> list[_Chart]:
    rows, config = run.rows, run.description["config"]
    boxes = config.get("task") == "localize"
    loss, right = ("loss (boxes)", "right boxes (%)") if boxes else ("loss (nats)", "accuracy (%)")
    kept = "" if run.best is None else f" The weights of epoch {run.best['epoch']} were kept."
    charts = []
    for name, title, axis, scale, digits in (("loss", "Loss", loss, 1, 4), ("accuracy", "Accuracy", right, 100, 2)):
        lines = [
            Line(label, [(row["epoch"], _times(scale, row.get(f"{split}_{name}"))) for row in rows])
            for split, label in (("train", "training"), ("val", "validation"))
            if any(row.get(f"{split}_{name}") is not None for row in rows)
        ]
        says = f"{title} by epoch. {' '.join(map(_in_words, lines))}{kept}"
        charts.append(_Chart(name=name, title=title, says=says, spec=by_epoch(lines, y=axis, says=says, digits=digits)))
    names = list(rows[-1]["rates"])
    if names:
        rates = [Line(name, [(row["epoch"], row["rates"].get(name)) for row in rows]) for name in names]
        says = f"Learning rate in the middle of each epoch. {' '.join(map(_in_words, rates))}"
        far = len(names) > 1 or config.get("schedule") == "step"  # apart by orders of magnitude
        spec = by_epoch(rates, y="learning rate", says=says, digits=6, log=far)
        charts.append(_Chart(name="rate", title="Learning rate", says=says, spec=spec))
    images = run.description["images"]
    times = [{"epoch": row["epoch"], "seconds": row["seconds"], "rate": images / row["seconds"]} for row in rows]
    says = _in_words(Line("Seconds an epoch, validation included", [(row["epoch"], row["seconds"]) for row in rows]))
    return [*charts, _Chart(name="time", title="Time", says=says, spec=seconds_by_epoch(times, says=says))]


def _calibration_charts(test: Mapping[str, Any] | None, bins: Sequence[Any]) -> list[_Chart]:
    if not test or not bins:
        return []
    error = 100 * test["calibration_error"]
    says = (
        f"Share of right answers at each level of confidence. Mean gap of the two (calibration error): {error:.2f} %."
    )
    many = f"Images at each level of confidence; {bins[-1].images:,} of {test['images']:,} in the highest."
    return [
        _Chart(name="calibration", title="Reliability", says=says, spec=calibration(bins, says=says)),
        _Chart(name="confidence", title="Confidence", says=many, spec=confidence(bins, says=many)),
    ]


def _comparison_charts(runs: Sequence[RunData]) -> list[_Chart]:
    charts = []
    for name, title, axis, scale, digits in (
        ("val_accuracy", "Validation accuracy", "validation accuracy (%)", 100, 2),
        ("val_loss", "Validation loss", "validation loss", 1, 4),
        ("train_accuracy", "Training accuracy", "training accuracy (%)", 100, 2),
        ("train_loss", "Training loss", "training loss", 1, 4),
    ):
        lines = [Line(run.name, [(row["epoch"], _times(scale, row.get(name))) for row in run.rows]) for run in runs]
        if any(value is not None for line in lines for _, value in line.points):
            says = f"{title} by epoch. {' '.join(map(_in_words, lines))}"
            charts.append(
                _Chart(name=name, title=title, says=says, spec=by_epoch(lines, y=axis, says=says, digits=digits))
            )
    timed = [Line(run.name, _over_minutes(run.rows)) for run in runs]
    if any(line.points for line in timed):
        says = f"Validation accuracy by minutes of training. {' '.join(map(_in_words, timed))}"
        spec = by_minutes(timed, y="validation accuracy (%)", says=says)
        charts.append(_Chart(name="minutes", title="Validation accuracy against time", says=says, spec=spec))
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


def _per_class(test: Mapping[str, Any]) -> list[dict[str, Any]]:
    """In the order of the classes: counts, accuracy, precision, and the class most often mistaken for."""
    confusion = test["confusion"]
    columns = [sum(column) for column in zip(*confusion, strict=True)]
    rows = []
    for index, (name, row) in enumerate(zip(test["classes"], confusion, strict=True)):
        wrong, other = max(((count, -guess) for guess, count in enumerate(row) if guess != index), default=(0, 0))
        rows.append(
            {
                "index": index,
                "name": name,
                "images": sum(row),
                "right": row[index],
                "accuracy": row[index] / sum(row) if sum(row) else None,
                "precision": row[index] / columns[index] if columns[index] else None,
                "wrong": wrong,
                "other": -other,
            }
        )
    return rows


def _matrix(confusion: Sequence[Sequence[int]]) -> list[list[dict[str, Any]]]:
    """Each cell with its count, its share of the true class, and how dark it is (0..1, the square root of a share)."""
    shares = [[count / sum(row) if sum(row) else 0.0 for count in row] for row in confusion]
    most = max((share for i, row in enumerate(shares) for j, share in enumerate(row) if i != j), default=0) or 1
    return [
        [
            {"count": count, "share": share, "heat": (share if i == j else share / most) ** 0.5}
            for j, (count, share) in enumerate(zip(counts, row, strict=True))
        ]
        for i, (counts, row) in enumerate(zip(confusion, shares, strict=True))
    ]


def _confusions(confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """The mistakes that were made most often."""
    cells = [
        {"true": i, "predicted": j, "count": count, "share": count / sum(row)}
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(cells, key=lambda cell: -cell["count"])[:MOST_CONFUSIONS]


def _images(album: Album, answers: PerImage | None, source: Source | None) -> dict[int, dict[str, Any]]:
    """What the page tells of each image that it shows."""
    if answers is None:
        return {}
    shown = {*album.pictures, *album.worst, *album.confident}
    return {
        index: {
            "picture": album.pictures.get(index),
            "true": int(answers.labels[index]),
            "predicted": int(answers.predicted[index]),
            "confidence": round(float(answers.confidence[index]), 4),
            "loss": round(float(answers.losses[index]), 3),
            "name": _place(source, index),
        }
        for index in sorted(shown)
    }


def _place(source: Source | None, index: int) -> str:
    """Where the image lies in its data set."""
    return f"image {index}" if source is None else source.describe(index).removeprefix(source.name).lstrip("/\\, ")


def _configuration(description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """config.json as tables of names and values."""
    data = {name: description.get(name) for name in ("data", "images", "fingerprint", "preset", "init_from")}
    data["classes"] = len(description["classes"])
    return {
        "Configuration": dict(description["config"]),
        "Data": {**data, **{f"preprocess {name}": value for name, value in description["preprocess"].items()}},
        "Environment": dict(description.get("environment", {})),
    }


def _differences(runs: Sequence[RunData]) -> list[tuple[str, list[Any]]]:
    """Names with the value of each run, of all that is not the same in all."""
    flat = [
        {name: value for table in _configuration(run.description).values() for name, value in table.items()}
        for run in runs
    ]
    names = list(dict.fromkeys(name for each in flat for name in each))
    rows = [(name, [each.get(name) for each in flat]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def _common_classes(runs: Sequence[RunData]) -> list[tuple[str, list[float | None]]]:
    """The accuracy of each run on each class, if all were tested on the same classes."""
    tests = [run.test for run in runs if run.test]
    if len(tests) < len(runs) or any(set(test["per_class"]) != set(tests[0]["per_class"]) for test in tests):
        return []
    return [(name, [test["per_class"][name] for test in tests]) for name in tests[0]["per_class"]]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value, digits=2: (
        "–" if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"
    )
    environment.filters["number"] = lambda value, digits=0: "–" if value is None else f"{value:,.{digits}f}"
    environment.filters["plain"] = _plain
    environment.globals["vega"] = vega_script
    for name in ("page.css", "page.js"):
        environment.globals[name.replace(".", "_")] = (TEMPLATES / name).read_text(encoding="utf-8")
    return environment


def _plain(value: Any) -> str:
    """A value of a configuration."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)
