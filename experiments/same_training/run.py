"""Is training with the engine the same as training with PyTorch's convolutions? Accuracy and time of both.

python -m experiments.same_training.run --data cifar10
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

from experiments import page
from experiments.rows import Row, append_row, percents, read_rows
from vggnet.benchmarking.timing import cpu_environment
from vggnet.training.run import Run

ROWS = Path(__file__).with_name("rows.jsonl")
SEEDS = (0, 1, 2)
CONVOLUTIONS = {"vggnet": "", "PyTorch": "direct"}  # name -> $VGGNET_CONV
# VGG-11 with batch norm at half width, for three epochs
OPTIONS = (
    "--preset fast --model vgg11_bn --width 0.5 --epochs 3 --optimizer sgd --lr 0.1 --momentum 0.9 --batch-size 128 "
    "--shift 4 --label-smoothing 0.1"
)


def main(data: str | None = None, rows: Path = ROWS) -> None:
    """Train with each kind of convolutions and seed that has no row yet, then write the table.

    Args:
        data: CIFAR-10, as `vgg train --data` takes it; without it the page is written from the rows.
        rows: a row for each finished run; the page is written beside it.
    """
    for seed in SEEDS if data else ():
        for convolutions in CONVOLUTIONS:
            done = {(row["convolutions"], row["seed"]) for row in read_rows(rows)}
            if (convolutions, seed) not in done:
                append_row(rows, train(str(data), convolutions, seed))
    write_page(rows)


def train(data: str, convolutions: str, seed: int) -> Row:
    """Train in a process of its own, which reads $VGGNET_CONV; returns the row."""
    with tempfile.TemporaryDirectory() as folder:
        vgg = str(Path(sys.executable).with_name("vgg"))
        command = [vgg, "train", "--data", data, *OPTIONS.split(), "--seed", str(seed), "--out", f"{folder}/run"]
        subprocess.run(command, check=True, env={**os.environ, "VGGNET_CONV": CONVOLUTIONS[convolutions]})
        history = Run.open(Path(folder) / "run").history
    return {
        "convolutions": convolutions,
        "seed": seed,
        "options": OPTIONS,
        "train_loss": history[-1]["train_loss"],
        "val_accuracy": history[-1]["val_accuracy"],
        "seconds": sum(row["seconds"] for row in history),
        "environment": cpu_environment(),
    }


def write_page(path: Path) -> None:
    """Write the table into the README.md beside the rows."""
    rows = read_rows(path)
    lines = []
    for convolutions in dict.fromkeys(row["convolutions"] for row in rows):
        runs = [row for row in rows if row["convolutions"] == convolutions]
        accuracies = percents(runs, "val_accuracy")
        lines.append([
            convolutions,
            ", ".join(f"{value:.2f}" for value in accuracies),
            f"{mean(accuracies):.2f}",
            f"{stdev(accuracies):.2f}" if len(accuracies) > 1 else None,
            f"{mean(row['train_loss'] for row in runs):.4f}",
            f"{mean(row['seconds'] for row in runs) / 60:.1f}",
        ])  # fmt: skip
    facts = {
        "command": "`python -m experiments.same_training.run --data $CIFAR10`",
        "work": f"`vgg train --data $CIFAR10 {rows[0]['options']}`, with `VGGNET_CONV=direct` for PyTorch's",
        "seeds": ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows})),
    }
    headings = ["convolutions", "validation accuracy after 3 epochs (%)", "mean", "standard deviation"]
    table = page.markdown([*headings, "train loss", "minutes"], lines)
    section = f"{page.facts(facts, rows[-1]['environment'])}\n\n{table}"
    page.insert(path.with_name("README.md"), "same-training", section)


if __name__ == "__main__":
    page.run(main)
