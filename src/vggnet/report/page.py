"""The report of a run, or the comparison of several, as one HTML page that works offline."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

from vggnet.data.sources.source import Source
from vggnet.metrics import PerImage, calibration_bins
from vggnet.report import charts
from vggnet.report.album import GALLERY, MISTAKES_PER_CELL, RIGHT_PER_CLASS, Album, encode, make_album
from vggnet.report.html import render
from vggnet.report.page_charts import Chart, calibration_charts, comparison_charts, training_charts
from vggnet.report.run_data import (
    RunData,
    common_classes,
    configuration,
    differences,
    key_numbers,
    matrix,
    most_confused,
    options,
    per_class,
)

MAX_MATRIX = 40  # classes; more are shown as a list of confusions
EXPLAINED_SIDE = 224  # pixels, at most, of the pictures of an explanation


class Explanation(NamedTuple):
    """Why the network made a prediction, as pictures."""

    picture: Image.Image
    overlays: Sequence[tuple[Image.Image, str]]  # each with what it shows
    caption: str


def run_page(
    run: RunData,
    *,
    per_image: PerImage | None = None,
    source: Source | None = None,
    explanations: Sequence[Explanation] = (),
    notes: Sequence[str] = (),
) -> str:
    """The HTML of the report of one run.

    Args:
        run: its data.
        per_image: the predictions of the evaluation of a classifier, for each image of `source`; without them the page
            has counts, but neither images nor calibration.
        source: the images; without it the page has no pictures.
        explanations: shown in this order.
        notes: what the reader must know, such as why something is missing.

    Raises:
        ImageError: a picture cannot be read.
    """
    test = run.test if run.test and "confusion" in run.test else None  # of a classifier
    album, bins = Album(), []
    if test and per_image:
        album, bins = make_album(per_image, source), calibration_bins(per_image)
    classes = list(test["classes"]) if test else []
    training = training_charts(run) if run.rows else []
    calibration = calibration_charts(test, bins)
    return _render(
        "run.html.jinja",
        [*training, *calibration],
        title=run.name,
        run=run,
        numbers=key_numbers(run),
        metric=list(run.axes)[-1],
        epochs=options(run)["epochs"],
        notes=notes,
        training=training,
        test=test,
        per_class=per_class(test) if test else [],
        matrix=matrix(test["confusion"]) if test and len(classes) <= MAX_MATRIX else None,
        confusions=most_confused(test["confusion"]) if test else [],
        calibration=calibration,
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
        configuration=configuration(run),
        classes=classes,
        cells={f"{true}-{guess}": indices for (true, guess), indices in album.cells.items()},
        images=_images(album, per_image, source),
    )


def comparison_page(runs: Sequence[RunData]) -> str:
    """The HTML of several runs: curves in one chart, results side by side, and how their configurations differ."""
    training = comparison_charts(runs)
    headlines = [{fact.name: fact.value for fact in run.headline} for run in runs]
    return _render(
        "comparison.html.jinja",
        training,
        title=f"{len(runs)} runs",
        runs=runs,
        numbers=[key_numbers(run) for run in runs],
        headlines=headlines,
        columns=list(dict.fromkeys(name for headline in headlines for name in headline)),
        comparable=len({run.conditions for run in runs if run.test}) <= 1,
        training=training,
        differences=differences(runs),
        accuracies=common_classes(runs),
    )


def _render(template: str, shown: Sequence[Chart], **values: Any) -> str:
    """Fill the template; the page's script gets the charts and, of a classifier, classes, cells and images."""
    data = {name: values.get(name, {}) for name in ("classes", "cells", "images")}
    data["charts"] = {chart.name: chart.spec for chart in shown}
    return render(template, data=data, vega=charts.vega_script(), **values)


def _images(album: Album, per_image: PerImage | None, source: Source | None) -> dict[int, dict[str, Any]]:
    """What the page says about each image that it shows."""
    if per_image is None:
        return {}
    shown = {*album.pictures, *album.worst, *album.confident}
    return {
        index: {
            "picture": album.pictures.get(index),
            "true": int(per_image.labels[index]),
            "predicted": int(per_image.predicted[index]),
            "confidence": round(float(per_image.confidence[index]), 4),
            "loss": round(float(per_image.losses[index]), 3),
            "name": _place(source, index),
        }
        for index in sorted(shown)
    }


def _place(source: Source | None, index: int) -> str:
    """Where the image lies in its data set."""
    return f"image {index}" if source is None else source.describe(index).removeprefix(source.name).lstrip("/\\, ")
