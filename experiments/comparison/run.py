"""How does VGG compare with AlexNet, GoogLeNet, ResNet, MobileNet and SqueezeNet? Costs, speed, and training.

python -m experiments.comparison.run --measure
python -m experiments.comparison.run --train --data cifar10
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments import page
from experiments.rows import Row, append_row, budget_of, find_row, percents, read_rows, spread
from experiments.training import fit_or_resume, folder_of, open_both, scores_on
from vggnet.benchmarking.comparison import OTHERS, VGGS, NetworkSpeed, compare_speed, draw_comparison, full_names
from vggnet.benchmarking.timing import build_network, cpu_environment
from vggnet.cli import compare
from vggnet.errors import ConfigError, NonFiniteError, RunError, check_at_least
from vggnet.models.table1 import MODEL_NAMES
from vggnet.report.text import to_plain
from vggnet.training.config import TrainConfig
from vggnet.training.learner import build_model
from vggnet.training.presets import preset

ROWS = Path(__file__).with_name("rows.jsonl")
SPEED, TRAINING = "speed", "training"  # kinds of rows
BUDGET = preset("fast").override(
    width=1.0, init="he", val_fraction=0.0, epochs=5, batch_size=128, optimizer="sgd", lr=0.02, warmup=0.2,
    momentum=0.9, weight_decay=5e-4, label_smoothing=0.0, flip="random",
)  # fmt: skip
ENLARGED = 64  # pixels; AlexNet's pools leave nothing of less


class Enlarged(nn.Module):
    """A network made for larger images, behind a bilinear enlargement to 64 pixels; the network itself is not changed.

    Shapes: images (N, 3, 32, 32) -> logits (N, num_classes).
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, num_classes)."""
        logits: Tensor = self.network(F.interpolate(images, size=(ENLARGED, ENLARGED), mode="bilinear"))
        return logits


def main(
    models: tuple[str, ...] = (*VGGS, *OTHERS),
    measure: bool = False,
    train: bool = False,
    data: str | None = None,
    epochs: int = BUDGET.schedule.epochs,
    seeds: int = 1,
    out: Path = Path("runs/comparison"),
    rows: Path = ROWS,
) -> None:
    """Measure or train the networks that have no row yet, then write the table and the figure.

    Args:
        models: VGGs, or torchvision's names.
        measure: count costs and time inference (ten minutes for all).
        train: measure, then train each network with the same budget on the data (hours for all).
        data: CIFAR-10, as `vgg train --data` takes it; with --train.
        epochs: of each training.
        seeds: trainings of each network.
        out: checkpoints of the trainings.
        rows: a row for each measurement and training; page and figure are written beside it.
    """
    if train != (data is not None):
        raise ConfigError("--train and --data go together: add the other one, as in --train --data cifar10.")
    if data is not None:
        open_both(data)  # what is missing is said first
    if measure or train:
        measure_speed(models, rows=rows)
    if data is not None:
        measure_training(data, models, epochs=epochs, seeds=seeds, out=out, rows=rows)
    write_page(rows)


def measure_speed(models: Sequence[str], *, rows: Path, size: int = 224, batch: int = 16, rounds: int = 9) -> list[Row]:
    """Append a row for each network; what has a row from these versions and this hardware is not measured again.

    Args:
        models: VGGs, or torchvision's names.
        rows: where the rows are.
        size: pixels of both sides of the images.
        batch: images at a time, for the throughput.
        rounds: batches that are timed for each way.

    Returns:
        All rows.
    """
    job = {"size": size, "batch": batch, "rounds": rounds}
    here = _measurement({**job, "environment": cpu_environment()})
    there = {row["model"] for row in read_rows(rows) if row["kind"] == SPEED and _measurement(row) == here}
    if wanted := [name for name in full_names(models) if name not in there]:
        for network in compare_speed(wanted, **job, progress=True):
            append_row(rows, {"kind": SPEED, **to_plain(network)})
    return read_rows(rows)


def measure_training(
    data: str | Path, models: Sequence[str], *, seeds: int = 1, out: Path, rows: Path, **fields: object
) -> list[Row]:
    """Train each network with seeds 0 .. seeds - 1 on all of train, and test its last epoch once.

    VGGs have the `cifar` head and see 32 pixels; of the others only the number of classes is changed, and they see the
    same images enlarged to 64 (`Enlarged`). A loss that becomes NaN is a row that says so. `fields` replace values of
    BUDGET.

    Returns:
        The rows of trainings with this budget on these images.

    Raises:
        ConfigError: a network does not exist, or a value cannot work.
    """
    check_at_least(1, seeds=seeds)
    names, budget = full_names(models), BUDGET.override(**fields)
    fingerprint = open_both(data)[0].fingerprint
    for seed in range(seeds):
        for name in names:
            config = budget.override(model=name, seed=seed)
            there = [row for row in read_rows(rows) if row["kind"] == TRAINING]
            if not find_row(there, "model", name, config, fingerprint):
                append_row(rows, _training_row(config, data, out))
    ours = budget_of({"config": budget.as_options(), "fingerprint": fingerprint})
    return [row for row in read_rows(rows) if row["kind"] == TRAINING and budget_of(row) == ours]


def write_page(path: Path) -> None:
    """Write the table and its notes into the README.md beside the rows, and draw the figure."""
    rows = read_rows(path)
    networks = measured(rows)
    if not networks:
        raise RunError(f"{path} has no measurements; add --measure.")
    draw_comparison(networks, path.with_name("figure.png"))
    trained_last = next((row for row in reversed(rows) if row["kind"] == TRAINING), None)
    facts = {"command": "`python -m experiments.comparison.run --measure`"}
    if trained_last is not None:
        options = f"--train --data $CIFAR10 --epochs {trained_last['config']['epochs']}"
        facts = {
            "command": f"`python -m experiments.comparison.run {options}`",
            "data": f"CIFAR-10, fingerprint of train {trained_last['fingerprint']}",
        }
    notes = [*compare.notes(networks), *_training_notes(rows)]
    section = [
        page.facts(facts, networks[-1].environment),
        table(rows),
        "\n".join(f"- {note}" for note in notes),
        "![Accuracy on ImageNet against latency](figure.png)",
    ]
    page.insert(path.with_name("README.md"), "comparison", "\n\n".join(section))


def table(rows: Sequence[Row]) -> str:
    """A line for each network, the most accurate on ImageNet first."""
    runs = trained(rows)
    lines = [
        [*compare.cells(network), *_learned(runs.get(network.model, []))]
        for network in sorted(measured(rows), key=compare.published, reverse=True)
    ]
    return page.markdown([*compare.HEADINGS, "trained here (%)", "minutes a run", "seeds"], lines)


def measured(rows: Sequence[Row]) -> list[NetworkSpeed]:
    """The newest measurement of each network, if it was made as the newest of all and on the same machine."""
    found = [row for row in rows if row["kind"] == SPEED]
    newest = {row["model"]: row for row in found if _measurement(row) == _measurement(found[-1])}
    return [NetworkSpeed(**{name: row[name] for name in row if name != "kind"}) for row in newest.values()]


def trained(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The trainings of each network with the budget and on the data of the newest of them."""
    found = [row for row in rows if row["kind"] == TRAINING]
    groups: dict[str, list[Row]] = {}
    for row in found:
        if budget_of(row) == budget_of(found[-1]):
            groups.setdefault(row["model"], []).append(row)
    return groups


def _measurement(row: Row) -> dict[str, Any]:
    """What must be the same for two times to be compared: how they were measured, versions, hardware."""
    place = {key: value for key, value in row["environment"].items() if key != "date"}
    return {**place, **{key: row[key] for key in ("size", "batch", "rounds")}}


def _training_notes(rows: Sequence[Row]) -> Iterator[str]:
    for row in [runs[0] for runs in trained(rows).values()][:1]:
        config = row["config"]
        yield (
            f"Trained here: {config['epochs']} epochs of the same images, batch {config['batch_size']}, SGD with rate "
            f"{config['lr']}, the same for all and tuned for none; accuracy on {row['images']:,} test images, "
            f"evaluated once a run. VGGs see 32 pixels with a head of one layer, the others the same images enlarged "
            f"to {ENLARGED}."
        )


def _learned(rows: Sequence[Row]) -> list[str | None]:
    """Accuracy, minutes, and seeds; those whose loss became NaN are counted apart."""
    if not rows:
        return [None, None, None]
    ended = [row for row in rows if row["top1"] is not None]
    lost = f" and {len(rows) - len(ended)} diverged" if len(rows) > len(ended) else ""
    minutes = f"{mean(row['seconds'] for row in ended) / 60:.1f}" if ended else None
    return [spread(percents(rows, "top1")), minutes, f"{len(ended)}{lost}"]


def _training_row(config: TrainConfig, data: str | Path, out: Path) -> Row:
    """Train and test."""
    train, test = open_both(data)
    network = _trainable(config, len(train.classes))
    everything, folder = torch.arange(len(train)).numpy(), folder_of(out, config.model.name, config, train.fingerprint)
    about = {
        "kind": TRAINING, "model": config.model.name, "seed": config.run.seed, "config": config.as_options(),
        "images": len(test), "fingerprint": train.fingerprint, "environment": cpu_environment(),
    }  # fmt: skip
    try:
        history = fit_or_resume(network, config, train, everything, folder)
    except NonFiniteError:
        return {**about, "top1": None, "seconds": 0.0}
    last, seconds = history[-1], sum(row["seconds"] for row in history)
    learned = {"train_loss": last["train_loss"], "train_accuracy": last["train_accuracy"]}
    return {**about, "top1": scores_on(network, config, train, test).top1, **learned, "seconds": seconds}


def _trainable(config: TrainConfig, num_classes: int) -> nn.Module:
    if config.model.name in MODEL_NAMES:
        return build_model(config, num_classes)
    torch.manual_seed(config.run.seed)
    return Enlarged(build_network(config.model.name, num_classes, config.model.width, config.model.head), num_classes)


if __name__ == "__main__":
    page.run(main)
