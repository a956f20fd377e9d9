"""Write the report of a run folder, or the comparison of several: gather what lies in their files for the page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source, Subset
from vggnet.errors import ConfigError, DataError, MissingDependencyError, RunError, WeightsError
from vggnet.files import write_text
from vggnet.metrics import PerImage
from vggnet.report.run_data import RunData, key_numbers
from vggnet.tasks.results import RESULT, read_per_image
from vggnet.training.config import TrainConfig
from vggnet.training.console import NAMED
from vggnet.training.inputs import configured_columns
from vggnet.training.run import SKIPPED, Run, best_row
from vggnet.training.schedules import lr_factor
from vggnet.weights.checkpoint import load

if TYPE_CHECKING:
    from vggnet.report.page import Explanation

REPORT, COMPARISON = "report.html", "comparison.html"
NUM_WRONG = NUM_CORRECT = 4  # predictions that are explained
Folder = Run | Path | str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a report was written, and its key numbers."""

    path: Path
    runs: tuple[dict[str, Any], ...]  # see `vggnet.report.run_data.key_numbers`
    notes: tuple[str, ...]  # what is missing, and why


def write_report(runs: Folder | Sequence[Folder], *, out: Path | str | None = None) -> Report:
    """Write the report of a run, or the comparison of several, as one HTML file that works offline.

    The report of a run that was evaluated (`vggnet.evaluate(run, ..., out=run)`) shows its mistakes, with the pictures
    from the data of that evaluation.

    Args:
        runs: a run or its folder, or several to compare.
        out: the file; by default report.html in the run's folder, for several comparison.html in the current folder.

    Returns:
        The path of the file, and key numbers.

    Raises:
        RunError: a folder is not a run's, or its files are damaged.
        ConfigError: a run is given twice, or none is given.
        DataError: the predictions of the evaluation are damaged.
        StorageError: the file cannot be written.
        MissingDependencyError: the extra `report` is not installed.
    """
    given = [runs] if isinstance(runs, Run | Path | str) else list(runs)
    opened = [run if isinstance(run, Run) else Run.open(Path(run).expanduser()) for run in given]
    _check(opened)
    if len(opened) == 1:
        return _report(opened[0], Path(out or opened[0].folder / REPORT).expanduser())
    return _comparison(opened, Path(out or COMPARISON).expanduser())


def _report(run: Run, path: Path) -> Report:
    from vggnet.report.page import run_page  # altair takes a second

    data = _gather(run, run.folder.resolve().name)
    per_image, source, notes = _predictions(run, data.test)
    notes = (*_seen_in_training(data), *_skipped(run), *notes)
    explanations: list[Explanation] = []
    if data.test and per_image and source and run.weights.is_file():
        try:
            explanations = list(_explanations(run.weights, per_image, source, data.test["classes"]))
        except (ConfigError, MissingDependencyError, WeightsError) as error:
            notes = (*notes, f"No explanations: {error}")
    html = run_page(data, per_image=per_image, source=source, explanations=explanations, notes=notes)
    write_text(path, html)
    return Report(path=path, runs=(key_numbers(data),), notes=notes)


def _comparison(runs: Sequence[Run], path: Path) -> Report:
    from vggnet.report.page import comparison_page

    data = [_gather(run, str(run.folder)) for run in runs]
    write_text(path, comparison_page(data))
    return Report(path=path, runs=tuple(map(key_numbers, data)), notes=())


def _gather(run: Run, name: str) -> RunData:
    rows, test, task, config = run.history, _read_test(run), run.task, _known(run)
    options = dict(run.description["config"]) if config is None else config.as_options()
    return RunData(
        name=name,
        description={**run.description, "config": options},
        rows=[{**row, "rates": _rates(config, rows[:place])} for place, row in enumerate(rows)],
        best=best_row(task, rows) if rows else None,
        test=test,
        axes=task.axes,
        examples=_examples(run, test, task.examples),
        headline=task.headline(test) if test else (),
        facts=task.facts(test) if test else (),
        conditions=(task.name, *(str(test[name]) for name in task.conditions)) if test else (),
    )


def _examples(run: Run, test: Mapping[str, Any] | None, name: str | None) -> str | None:
    """The figure of the evaluation as a data URI, if there is one."""
    if test is None or name is None or not (run.folder / name).is_file():
        return None
    from vggnet.report.album import encode

    with Image.open(run.folder / name, formats=("PNG",)) as picture:
        return encode(picture, max(picture.size))


def _known(run: Run) -> TrainConfig | None:
    """The configuration, or None if it has options that are not known here."""
    try:
        return run.config
    except ConfigError:
        return None


def _skipped(run: Run) -> list[str]:
    """A note of the images that were not trained on or validated on."""
    skipped = list(run.skipped.values())
    if not skipped:
        return []
    left_out = f"Left out of training and validation, as they cannot be read: {len(skipped):,} (all in {SKIPPED})."
    return [" ".join([left_out, *skipped[:NAMED]])]


def _seen_in_training(run: RunData) -> Iterator[str]:
    """Notes of images to test or validate on that are among those that were trained on, or look like them."""
    test = run.test or {}
    if count := test.get("trained_on"):
        yield (
            f"{count:,} of the {test['images']:,} tested images were trained on: the result does not say how well new "
            "images are recognized."
        )
    copies = run.description.get("near_copies") or {}
    if copies:
        found = " and ".join(f"{number:,} {split} images" for split, number in copies.items())
        yield f"Near-copies: {found} look like images that were trained on."


def _check(runs: Sequence[Run]) -> None:
    """Raises: ConfigError."""
    folders = [run.folder.resolve() for run in runs]
    if not folders:
        raise ConfigError("no run was given; give the folder of one, or of several to compare them.")
    twice = next((run.folder for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1), None)
    if twice:
        raise ConfigError(f"{twice} is given twice; a run is compared with others.")


def _rates(config: TrainConfig | None, before: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The learning rates in the middle of the epoch after those `before`; none if the configuration is not known."""
    if config is None:
        return {}
    names = ("lr", "kernel_lr", "norm_bias_lr") if config.optimizer.name == "muon" else ("lr",)
    factor = lr_factor(config, 2, 2 * len(before) + 1, before)
    return {name: factor * getattr(config.optimizer, name) for name in names}


def _read_test(run: Run) -> dict[str, Any] | None:
    """test.json, or None before a test.  Raises: RunError if it is damaged."""
    path = run.folder / RESULT
    if not path.is_file():
        return None
    try:
        test: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). Remove it, and run vgg test again.") from error
    return test


def _predictions(run: Run, test: Mapping[str, Any] | None) -> tuple[PerImage | None, Source | None, tuple[str, ...]]:
    """The predictions of the evaluation of a classifier and its images, or a note that says what is missing.

    Raises: DataError if the predictions are damaged.
    """
    again = f"To see it: vgg test {run.folder}"
    if test is None:
        return None, None, (f"Not tested yet. {again}",)
    if "confusion" not in test:
        return None, None, ()
    per_image = read_per_image(run.folder)
    if per_image is None or not _belong(per_image, test["confusion"]):
        return None, None, (f"The predictions for each image are not saved beside the result of the test. {again}",)
    try:
        source = open_source(test["data"], test["split"], columns=configured_columns(run.config))
        fingerprint, unreadable = source.fingerprint, [int(index) for index in test.get("unreadable", ())]
        if unreadable and len(source) > max(unreadable):
            source = Subset(source, np.setdiff1d(np.arange(len(source)), unreadable))
        if fingerprint == test["fingerprint"]:
            return per_image, source, ()
        found = "other images are there now"
    except DataError as error:
        found = str(error)
    return per_image, None, (f"No pictures, as the tested images cannot be read: {found}",)


def _belong(per_image: PerImage, confusion: Sequence[Sequence[int]]) -> bool:
    """Whether the predictions are those that were counted."""
    classes = len(confusion)
    counts = (per_image.labels * classes + per_image.predicted).bincount(minlength=classes * classes)
    return counts.tolist() == [count for row in confusion for count in row]


def _explanations(
    weights: Path, per_image: PerImage, source: Source, classes: Sequence[str]
) -> "Iterator[Explanation]":
    """Grad-CAM of the mistakes with the highest loss, for both of their classes, and of confident correct predictions.

    Raises: WeightsError; ConfigError for a network that cannot be explained; ImageError.
    """
    from vggnet.interpret.explanation import explain
    from vggnet.report.explanation_figures import Panel, overlaid
    from vggnet.report.page import Explanation

    network = load(weights)
    wrong = per_image.predicted != per_image.labels
    worst = per_image.losses.masked_fill(~wrong, -1).argsort(descending=True)[: min(NUM_WRONG, int(wrong.sum()))]
    confident = per_image.confidence.masked_fill(wrong, -1).argsort(descending=True)
    for index in (*worst.tolist(), *confident[: min(NUM_CORRECT, int((~wrong).sum()))].tolist()):
        true, predicted = int(per_image.labels[index]), int(per_image.predicted[index])
        overlays = []
        for target in dict.fromkeys((predicted, true)):
            found = explain(network, source.read(index), target=target, methods=("gradcam",))
            cam = Panel("Grad-CAM", found.attributions["gradcam"].values, "", signed=False)
            overlays.append((overlaid(found.picture, cam), f"for {classes[target]}, {100 * found.probability:.1f} %"))
        verdict = "predicted correctly" if true == predicted else f"predicted {classes[predicted]}"
        yield Explanation(Image.fromarray(found.picture), overlays, f"True {classes[true]}, {verdict}")
