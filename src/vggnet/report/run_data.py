"""The files of run folders as data for a page: key numbers, and the rows of its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vggnet.metrics import wilson_interval
from vggnet.report.text import Fact

MOST_CONFUSIONS = 50  # in a list of confusions

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What the files of one run folder hold, and how the run's task presents it."""

    name: str
    description: Mapping[str, Any]  # config.json
    rows: Sequence[Row]  # history.jsonl, with the learning rates of each epoch under `rates`
    best: Row | None  # the row of the epoch whose weights were kept
    test: Mapping[str, Any] | None  # test.json
    axes: Mapping[str, str]  # "loss" and the metric that epochs are compared by -> the title of the axis, with its unit
    examples: str | None = None  # a figure of the evaluation, as data URI
    headline: Sequence[Fact] = ()  # numbers of the evaluation to compare runs by; those with a hint are shown first
    facts: Sequence[Fact] = ()  # of the evaluation
    conditions: tuple[Any, ...] = ()  # of the evaluation; those of two runs must be equal if they are to be compared


def options(run: RunData) -> dict[str, Any]:
    """The options of the training by name.

    Since version 0.2 config.json has them in groups; the field `name` of a group has the group's name.
    """
    flat: dict[str, Any] = {}
    for group, value in run.description["config"].items():
        fields = value.items() if isinstance(value, Mapping) else [(group, value)]
        flat |= {group if name == "name" else name: field for name, field in fields}
    return flat


def without_unit(axis: str) -> str:
    """The title of an axis without its unit.

    Example:
        >>> without_unit("accuracy (%)")
        'accuracy'
    """
    return axis.partition(" (")[0]


def key_numbers(run: RunData) -> dict[str, Any]:
    """The results of a run; None for what is not known. Accuracies and errors are 0..1, the interval covers 95 %."""
    best, test = run.best or {}, run.test or {}
    metric = list(run.axes)[-1]
    seconds = [row["seconds"] for row in run.rows]
    return {
        "run": run.name,
        "model": options(run).get("model"),
        "epochs": len(run.rows),
        "minutes": sum(seconds) / 60,
        "images_per_second": run.description["images"] * len(seconds) / sum(seconds) if sum(seconds) else None,
        "best_epoch": best.get("epoch"),
        "metric": without_unit(run.axes[metric]),
        "val_metric": best.get(f"val_{metric}"),
        "val_accuracy": best.get("val_accuracy"),
        "test_accuracy": test.get("top1"),
        "test_interval": wilson_interval(test["top1"], test["images"]) if "top1" in test else None,
        "test_top5": test.get("top5"),
        "test_loss": test.get("loss"),
        "calibration_error": test.get("calibration_error"),
        "box_error": test.get("error_class_given"),
        "box_overlap": test.get("mean_overlap"),
        "test_images": test.get("images"),
        "test_split": test.get("split"),
    }


def per_class(test: Mapping[str, Any]) -> list[dict[str, Any]]:
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
                "correct": row[index],
                "accuracy": row[index] / sum(row) if sum(row) else None,
                "precision": row[index] / columns[index] if columns[index] else None,
                "wrong": wrong,
                "other": -other,
            }
        )
    return rows


def matrix(confusion: Sequence[Sequence[int]]) -> list[list[dict[str, Any]]]:
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


def most_confused(confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """The mistakes that were made most often."""
    cells = [
        {"true": i, "predicted": j, "count": count, "share": count / sum(row)}
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(cells, key=lambda cell: -cell["count"])[:MOST_CONFUSIONS]


def configuration(run: RunData) -> dict[str, dict[str, Any]]:
    """config.json as tables of names and values."""
    description = run.description
    names = ("data", "images", "train_images", "val_images", "val_split", "fingerprint", "preset", "init_from")
    data = {name: description.get(name) for name in names}
    data["classes"] = len(description["classes"])
    return {
        "Configuration": options(run),
        "Data": {**data, **{f"preprocess {name}": value for name, value in description["preprocess"].items()}},
        "Environment": dict(description.get("environment", {})),
    }


def differences(runs: Sequence[RunData]) -> list[tuple[str, list[Any]]]:
    """Names with the value of each run, of all that is not the same in all."""
    flat = [{name: value for table in configuration(run).values() for name, value in table.items()} for run in runs]
    names = list(dict.fromkeys(name for each in flat for name in each))
    rows = [(name, [each.get(name) for each in flat]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def common_classes(runs: Sequence[RunData]) -> list[tuple[str, list[float | None]]]:
    """The accuracy of each run on each class, if all were tested on the same classes."""
    tests = [run.test["per_class"] for run in runs if run.test and "per_class" in run.test]
    if len(tests) < len(runs) or any(set(test) != set(tests[0]) for test in tests):
        return []
    return [(name, [test[name] for test in tests]) for name in tests[0]]
