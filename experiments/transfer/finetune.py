"""How well do fine-tuned networks do on the same photos? Rows and tables of finished and tested runs.

vgg train --data flowers17 --preset finetune --init-from vgg16:features --val-fraction 0 --out RUN
vgg test RUN --protocol single --flip
python -m experiments.transfer.finetune RUN
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from tyro.conf import Positional

from experiments import page
from experiments.rows import Row, append_row, read_rows, spread
from experiments.training import run_columns
from vggnet.training.run import Run

ROWS = Path(__file__).with_name("finetuned.jsonl")


def main(run: Positional[Path | None] = None, rows: Path = ROWS) -> None:
    """Add a row for a finished and tested run, then write the table.

    Args:
        run: a run folder; without it the page is written from the rows.
        rows: a row for each run; the page is written beside it.
    """
    if run is not None:
        append_row(rows, row_of(Run.open(run)))
    write_page(rows)


def row_of(run: Run) -> Row:
    """A run that started from other weights, and the result of its test."""
    test = json.loads((run.folder / "test.json").read_text(encoding="utf-8"))
    return {
        "data": Path(run.data).name,
        "test": test | {"data": Path(run.data).name, "model": "RUN"},
        **run_columns(run),
    }


def write_page(path: Path) -> None:
    """Write the table into the README.md beside the rows: a line for all seeds of a command."""
    rows = read_rows(path)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        seedless = row | {"config": row["config"] | {"seed": 0}}
        test = f"vgg test RUN --protocol {row['test']['protocol']}{' --flip' if row['test']['views'] == 2 else ''}"
        groups.setdefault(f"`{page.train_command(seedless)}`, then `{test}`", []).append(row)
    lines = []
    for name, runs in groups.items():
        accuracies = [100 * mean(row["test"]["per_class"].values()) for row in runs]
        minutes = mean(sum(epoch["seconds"] for epoch in row["history"]) / 60 for row in runs)
        learned = runs[0]["images"] * (1 - runs[0]["config"]["val_fraction"]) / len(runs[0]["test"]["classes"])
        seeds = ", ".join(str(row["config"]["seed"]) for row in runs)
        lines.append([name, f"{learned:.0f}", seeds, f"{minutes:.0f}", spread(accuracies)])
    test = rows[-1]["test"]
    facts = {
        "data": f"{rows[-1]['data']}: train has fingerprint {rows[-1]['fingerprint']}, test {test['fingerprint']}; "
        f"{test['images']:,} test images, evaluated once a run",
    }
    headings = ["command, with the seeds", "training images a class", "seeds", "minutes a run"]
    table = page.markdown([*headings, "mean class accuracy (%)"], lines)
    section = f"{page.facts(facts, rows[-1]['environment'])}\n\n{table}"
    page.insert(path.with_name("README.md"), "finetuned", section)


if __name__ == "__main__":
    page.run(main)
