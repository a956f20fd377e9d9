"""Whether training with the engine is the same as training with PyTorch's convolutions.

    python benchmarks/same_training.py $CIFAR10

Trains VGG-11 with batch norm at half width for three epochs with each, three seeds each, and compares the accuracies on
the validation split. Every finished run adds a row to docs/same_training.jsonl, and what is there already is not run
again; `python scripts/record.py same-training` writes the table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from vggnet.devices import environment
from vggnet.training.run import Run

ROWS = Path(__file__).resolve().parent.parent / "docs" / "same_training.jsonl"
SEEDS = (0, 1, 2)
CONVOLUTIONS = {"vggnet": "", "PyTorch": "direct"}  # name -> $VGGNET_CONV
RECIPE = {
    "preset": "fast", "model": "vgg11_bn", "width": "0.5", "epochs": "3", "optimizer": "sgd", "lr": "0.1",
    "momentum": "0.9", "batch-size": "128", "shift": "4", "label-smoothing": "0.1",
}  # fmt: skip
OPTIONS = [word for option, value in RECIPE.items() for word in (f"--{option}", value)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="CIFAR-10, as vgg train --data takes it")
    data = parser.parse_args().data
    for seed in SEEDS:
        for convolutions in CONVOLUTIONS:
            if not is_done(convolutions, seed):
                append(train(data, convolutions, seed))


def is_done(convolutions: str, seed: int) -> bool:
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.is_file() else []
    return any((row["convolutions"], row["seed"]) == (convolutions, seed) for row in map(json.loads, lines))


def train(data: str, convolutions: str, seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        vgg = str(Path(sys.executable).with_name("vgg"))
        command = [vgg, "train", "--data", data, *OPTIONS, "--seed", str(seed), "--out", f"{folder}/run"]
        subprocess.run(command, check=True, env={**os.environ, "VGGNET_CONV": CONVOLUTIONS[convolutions]})
        history = Run.open(Path(folder) / "run").history
    return {
        "convolutions": convolutions,
        "seed": seed,
        "options": " ".join(OPTIONS),
        "train_loss": history[-1]["train_loss"],
        "val_accuracy": history[-1]["val_accuracy"],
        "seconds": sum(row["seconds"] for row in history),
        "environment": environment(torch.device("cpu")),
    }


def append(row: dict[str, object]) -> None:
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
