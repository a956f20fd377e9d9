"""From run folders to a page: what lies in their files, gathered for `vggnet.report.page`.

It lies in training because the files of a run are training's and evaluation's, and a report draws from files alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError, DataError, RunError, WeightsError
from vggnet.evaluation.results import RESULT, read_per_image
from vggnet.files import write_text
from vggnet.metrics import PerImage
from vggnet.training.config import TrainConfig
from vggnet.training.console import NAMED
from vggnet.training.run import SKIPPED, Run, best_row
from vggnet.training.schedules import lr_factor

if TYPE_CHECKING:
    from vggnet.report.page import Explanation, RunData

REPORT, COMPARISON = "report.html", "comparison.html"
Folder = Run | Path | str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a report lies, and its key numbers."""

    path: Path
    runs: tuple[dict[str, Any], ...]  # see `vggnet.report.page.key_numbers`
    notes: tuple[str, ...]  # what is missing, and why

    def as_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self), default=str, ensure_ascii=False)

    def as_table(self) -> str:
        """For people; the last line is where the report lies."""
        lines = []
        for run in self.runs:
            kinds = (("validation", run["val_accuracy"]), (run["test_split"], run["test_accuracy"]))
            known = [f"{kind} accuracy {100 * value:.2f} %" for kind, value in kinds if value is not None]
            if run["box_error"] is not None:
                known.append(f"{run['test_split']} class given: error {100 * run['box_error']:.2f} %")
            lines.append(", ".join([f"{run['run']}: epochs {run['epochs']}", *known]))
        return "\n".join([*lines, *self.notes, f"report: {self.path}"])


def write_report(runs: Folder | Sequence[Folder], *, out: Path | str | None = None) -> Report:
    """Write the report of a run, or the comparison of several, as one HTML file that needs no network.

    A run that was evaluated (`vggnet.evaluate(..., out=run)`) is shown with its mistakes; their pictures are read from
    the data of that evaluation.
    out: the file; by default report.html in the run's folder, for several comparison.html in the current one.
    Raises: RunError if a folder is no run's or its files are damaged; ConfigError if a run is given twice, or none;
        DataError if its answers are damaged; StorageError.
    """
    given = [runs] if isinstance(runs, Run | Path | str) else list(runs)
    opened = [run if isinstance(run, Run) else Run.open(Path(run)) for run in given]
    _check(opened)

    if len(opened) == 1:
        return _report(opened[0], Path(out or opened[0].folder / REPORT))
    return _comparison(opened, Path(out or COMPARISON))


def _report(run: Run, path: Path) -> Report:
    from vggnet.report.page import key_numbers, run_page  # with altair and captum, which take a second
    from vggnet.training.examples import explain_examples

    data = _gather(run, run.folder.resolve().name)
    answers, source, notes = (None, None, ()) if data.boxes else _pictures(run, data.test)
    notes = (*_skipped(run), *notes)
    explanations: list[Explanation] = []
    if data.test and answers and source and run.weights.is_file():
        try:
            explanations = explain_examples(run.weights, answers, source, data.test["classes"])
        except (ConfigError, WeightsError) as error:
            notes = (*notes, f"No explanations: {error}")
    html = run_page(data, answers=answers, source=source, explanations=explanations, notes=notes)
    write_text(path, html)
    return Report(path=path, runs=(key_numbers(data),), notes=notes)


def _skipped(run: Run) -> list[str]:
    """A note of the images that were not trained on or validated on."""
    skipped = list(run.skipped.values())
    if not skipped:
        return []
    left_out = f"Left out of training and validation, as they cannot be read: {len(skipped):,} (all in {SKIPPED})."
    return [" ".join([left_out, *skipped[:NAMED]])]


def _comparison(runs: Sequence[Run], path: Path) -> Report:
    from vggnet.report.page import comparison_page, key_numbers

    data = [_gather(run, str(run.folder)) for run in runs]
    write_text(path, comparison_page(data))
    return Report(path=path, runs=tuple(map(key_numbers, data)), notes=())


def _gather(run: Run, name: str) -> "RunData":
    from vggnet.report.page import RunData

    rows, test = run.history, _read_test(run)
    of_boxes = test is not None and "error_class_given" in test
    return RunData(
        name=name,
        description=run.description,
        rows=[{**row, "rates": _rates(run.description["config"], rows[:place])} for place, row in enumerate(rows)],
        best=best_row(rows) if rows else None,
        test=None if of_boxes else test,
        boxes=test if of_boxes else None,
    )


def _check(runs: Sequence[Run]) -> None:
    """Raises: ConfigError."""
    folders = [run.folder.resolve() for run in runs]
    if not folders:
        raise ConfigError("no run was given; give the folder of one, or of several to compare them.")
    twice = next((run.folder for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1), None)
    if twice:
        raise ConfigError(f"{twice} is given twice; a run is compared with others.")


def _rates(config: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The learning rates in the middle of the epoch after those `before`; none for one with unknown options."""
    try:
        known = TrainConfig.from_dict(dict(config))
    except ConfigError:
        return {}
    names = ("lr", "kernel_lr", "norm_bias_lr") if known.optimizer == "muon" else ("lr",)
    factor = lr_factor(known, 2, 2 * len(before) + 1, before)
    return {name: factor * getattr(known, name) for name in names}


def _read_test(run: Run) -> dict[str, Any] | None:
    """test.json, or None before a test.  Raises: RunError if it is damaged."""
    path = run.folder / RESULT
    if not path.is_file():
        return None
    try:
        test: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). Remove it, and test again.") from error
    return test


def _pictures(run: Run, test: Mapping[str, Any] | None) -> tuple[PerImage | None, Source | None, tuple[str, ...]]:
    """The answers of the test and the images that they are of, or a note that says what is missing.

    Raises: DataError if the answers are damaged.
    """
    again = f"To see it: vgg test {run.folder}"
    if test is None:
        return None, None, (f"Not tested yet. {again}",)
    answers = read_per_image(run.folder)
    if answers is None or not _belong(answers, test["confusion"]):
        return None, None, (f"The answers to each image are not saved beside the result of the test. {again}",)
    try:
        source = open_source(test["data"], test["split"])
        if source.fingerprint == test["fingerprint"]:
            return answers, source, ()
        found = "other images are there now"
    except DataError as error:
        found = str(error)
    return answers, None, (f"No pictures, as the tested images cannot be read: {found}",)


def _belong(answers: PerImage, confusion: Sequence[Sequence[int]]) -> bool:
    """Whether the answers are those that were counted."""
    classes = len(confusion)
    counts = (answers.labels * classes + answers.predicted).bincount(minlength=classes * classes)
    return counts.tolist() == [count for row in confusion for count in row]
