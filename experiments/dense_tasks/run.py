"""How well do ImageNet's features find classes of pixels, and objects? Rows and tables of finished runs.

vgg train --data camvid --preset segment --init-from vgg16:features --ignore-index 11 --val-fraction 0 --out RUN
python -m experiments.dense_tasks.run RUN
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from experiments import page
from experiments.rows import Row, append_row, percents, read_rows, spread
from experiments.training import run_columns
from vggnet.errors import OnError
from vggnet.evaluation.evaluate import evaluate
from vggnet.training.run import Run

ROWS = Path(__file__).with_name("rows.jsonl")
# The metrics of a task, by their names in a result: a heading each, and the one that the task is known by first.
METRICS: Mapping[str, Mapping[str, str]] = {
    "segment": {
        "mean_iou": "mean IoU (%)",
        "pixel_accuracy": "pixel accuracy (%)",
        "mean_accuracy": "mean accuracy (%)",
    },
    "detect": {"map_50": "mAP at IoU 0.5 (%)", "map": "mAP at 0.5 to 0.95 (%)", "recall": "recall (%)"},
}
OF_CLASSES = {"segment": ("iou", "IoU (%)"), "detect": ("ap_50", "AP at IoU 0.5 (%)")}


def main(run: Positional[Path | None] = None, rows: Path = ROWS) -> None:
    """Test a finished run on the split val and add a row, then write the tables.

    Args:
        run: a run folder; without it the page is written from the rows.
        rows: a row for each run; the page is written beside it.
    """
    if run is not None:
        append_row(rows, row_of(Run.open(run)))
    write_page(rows)


def row_of(run: Run) -> Row:
    """A run and its test on the split val, which the training must not have seen, without what the run left out."""
    data = run.config.data
    on_error: OnError = "return" if data.on_bad_image == "skip" else "raise"
    result = evaluate(run.folder, run.data, split="val", on_error=on_error, ignore_index=data.ignore_index)
    folder = f"{Path(run.data)}/"  # is another one elsewhere
    unreadable = {index: message.replace(folder, "") for index, message in result.unreadable.items()}
    return {
        "data": Path(run.data).name,
        "test": {**asdict(result), "data": Path(run.data).name, "model": "RUN", "unreadable": unreadable},
        **run_columns(run),
    }


def write_page(path: Path) -> None:
    """Write a table for each task into the README.md beside the rows."""
    rows = read_rows(path)
    for task, metrics in METRICS.items():
        tests = [row for row in rows if row["config"]["task"] == task]
        if tests:
            page.insert(path.with_name("README.md"), task, _section(tests, metrics, OF_CLASSES[task]))


def _section(rows: list[Row], metrics: Mapping[str, str], of_classes: tuple[str, str]) -> str:
    newest: dict[str, Any] = rows[-1]
    test = newest["test"]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(page.train_command(row | {"config": row["config"] | {"seed": 0}}), []).append(row)
    facts = {
        "data": f"{test['data']}: {newest['images']:,} images of train (fingerprint {newest['fingerprint']}), "
        f"{test['images']:,} of val (fingerprint {test['fingerprint']}), evaluated once a run",
    }
    lines = [
        [
            f"`{command}`",
            len(runs),
            ", ".join(f"{sum(epoch['seconds'] for epoch in run['history']) / 60:.0f}" for run in runs),
            *(spread(percents([run["test"] for run in runs], metric)) for metric in metrics),
        ]
        for command, runs in groups.items()
    ]
    field, heading = of_classes
    of_runs = [run["test"][field] for run in list(groups.values())[-1]]
    classes = [[name, spread(percents(of_runs, name))] for name in of_runs[0]]
    return "\n\n".join([
        page.facts(facts, newest["environment"]),
        page.markdown(["command", "seeds", "minutes", *metrics.values()], lines),
        page.markdown(["class", heading], classes),
    ])  # fmt: skip


if __name__ == "__main__":
    page.run(main)
