"""How well does a network find the object? Localization error of finished runs (appendix A of the paper).

vgg train --data BOXES --preset boxes --init-from vgg16:features --out RUN
python -m experiments.localization.run RUN
"""

from dataclasses import asdict
from pathlib import Path

from tyro.conf import Positional

from experiments import page
from experiments.rows import Row, append_row, read_rows
from experiments.training import run_columns
from vggnet.evaluation.evaluate import evaluate
from vggnet.training.run import Run

ROWS = Path(__file__).with_name("rows.jsonl")


def main(run: Positional[Path | None] = None, rows: Path = ROWS) -> None:
    """Test a finished run and add a row, then write the table.

    Args:
        run: a run folder; without it the page is written from the rows.
        rows: a row for each run; the page is written beside it.
    """
    if run is not None:
        append_row(rows, row_of(Run.open(run)))
    write_page(rows)


def row_of(run: Run) -> Row:
    """A run that predicts boxes, tested on the split `validation`, on the images and their mirror images."""
    result = evaluate(run.folder, run.data, split="validation", flip=True)
    return {
        "test": {**asdict(result), "data": Path(run.data).name, "model": "RUN"},
        **run_columns(run),
    }


def write_page(path: Path) -> None:
    """Write the table into the README.md beside the rows; the newest row says on what machine."""
    rows = read_rows(path)
    newest, test = rows[-1], rows[-1]["test"]
    facts = {
        "data": f"{test['data']}: {newest['images']:,} images of train (fingerprint {newest['fingerprint']}), "
        f"{test['images']:,} of {test['split']} (fingerprint {test['fingerprint']}), evaluated once a run",
        "whole image as a box": f"{100 * test['error_whole_image']:.1f} % error",
        "best constant box of train": f"{100 * test['error_constant_box']:.1f} % error",
    }
    lines = [
        [
            f"`{page.train_command(row, '$BOXES')}`, then `vgg test RUN --split validation --flip`",
            row["config"]["seed"],
            f"{sum(epoch['seconds'] for epoch in row['history']) / 60:.0f}",
            f"**{100 * row['test']['error_class_given']:.1f}**",
            f"{row['test']['mean_overlap']:.3f}",
        ]
        for row in rows
    ]
    table = page.markdown(["command", "seed", "minutes", "error, class given (%)", "mean overlap"], lines)
    page.insert(path.with_name("README.md"), "localization", f"{page.facts(facts, newest['environment'])}\n\n{table}")


if __name__ == "__main__":
    page.run(main)
