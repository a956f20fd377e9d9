"""What are the drawbacks of VGG, and what do the remedies bring? Head, overfitting, depth and memory, measured.

python -m experiments.drawbacks.run --data cifar10
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import page
from experiments.drawbacks.figure import draw_drawbacks
from experiments.drawbacks.gradients import add_skips, gradient_norms
from experiments.rows import Row, append_row, config_of, find_row, percents, read_rows, spread
from experiments.training import evaluate_run, fit_or_resume, folder_of, open_both, scores_on, train_or_resume
from vggnet.benchmarking.timing import cpu_environment
from vggnet.data.decoded import decoded
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source
from vggnet.data.splits import carve
from vggnet.errors import ConfigError, check_at_least
from vggnet.interpret.costs import count_costs
from vggnet.models.table1 import resolve
from vggnet.models.vgg import build
from vggnet.training.config import TrainConfig
from vggnet.training.inputs import make_preprocess
from vggnet.training.learner import build_model
from vggnet.training.presets import preset

ROWS = Path(__file__).with_name("rows.jsonl")
BUDGET = preset("fast").override(
    model="vgg11_bn", width=0.25, init="he", val_fraction=0.0, epochs=2, batch_size=128, optimizer="sgd", lr=0.02,
    warmup=0.2, momentum=0.9, weight_decay=5e-4, label_smoothing=0.0, flip="random",
)  # fmt: skip
HEADS = ("paper", "gap", "cifar")
SMALL_HEAD = "paper"  # on a small part of train
DROPOUTS = (0.5, 0.0)
DEPTHS = ("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg19_bn")  # columns A, B, D, E
TWINS = ("vgg19", "vgg19_bn")  # which get skips as well
INITS = ("he", "glorot")
MEMORY = "memory"  # the part that needs no images
PAPER_BATCH = 256  # images, section 3.1
SIZE = ("parameters (millions)", "of them in fully connected layers (%)", "file (MB / MiB)")  # headings
AT_FULL_SIZE = (("vgg11", "paper"), ("vgg16", "paper"), ("vgg16_bn", "paper"), ("vgg19", "paper"), ("vgg16", "gap"))


class _Job(NamedTuple):
    """One row to be: its name, its configuration, and what measures its numbers."""

    part: str
    label: str
    config: TrainConfig
    run: Callable[[TrainConfig], Row]


def main(
    data: str | None = None,
    width: float = BUDGET.model.width,
    epochs: int = BUDGET.schedule.epochs,
    images: int = 2000,
    small_epochs: int = 12,
    seeds: int = 2,
    out: Path = Path("runs/drawbacks"),
    rows: Path = ROWS,
) -> None:
    """Measure what has no row yet, then write the tables and the figure.

    Args:
        data: CIFAR-10, as `vgg train --data` takes it; without it page and figure are written from the rows.
        width: multiplies the channels of the convolutions.
        epochs: for each head, on all of train.
        images: of train, on which a network overfits with dropout and without.
        small_epochs: on these.
        seeds: runs of each.
        out: the run folders and checkpoints.
        rows: a row for each finished run; page and figure are written beside it.
    """
    if data is not None:
        small: dict[str, int] = {"images": images, "small_epochs": small_epochs}
        measure(data, **small, seeds=seeds, out=out, rows=rows, width=width, epochs=epochs)
    write_page(rows)


def measure(
    data: str | Path,
    *,
    images: int = 2000,
    small_epochs: int = 12,
    seeds: int = 2,
    out: Path,
    rows: Path,
    **fields: object,
) -> list[Row]:
    """Measure each part with seeds 0 .. seeds - 1, and append a row for each.

    heads: the same convolutions under each head, trained on all of train. overfitting: the paper's head with dropout
    and without on `images` of train for `small_epochs`, without augmentation, as many others held out to watch.
    gradients: one backward pass before the first step, for plain columns, with batch norm, and with identity skips.
    memory: what networks for 224 pixels and 1000 classes hold, counted. The test images are evaluated once a training,
    after its last epoch. `fields` replace values of BUDGET.

    Returns:
        The rows by these options on these images, of every seed.

    Raises:
        ConfigError: a value cannot work, such as more images than train has.
    """
    check_at_least(1, images=images, small_epochs=small_epochs, seeds=seeds)
    budget = BUDGET.override(**fields)
    train, _ = open_both(data)
    _two_parts(train, images, seed=0)  # what cannot work is said first
    jobs = list(_jobs(budget, data, images, small_epochs, seeds, out))
    for job in jobs:
        fingerprint = None if job.part == MEMORY else train.fingerprint
        if find_row(read_rows(rows), "label", job.label, job.config, fingerprint):
            continue
        row = job.run(job.config)
        about = {"part": job.part, "label": job.label, "seed": job.config.run.seed}
        append_row(rows, {**about, **row, "config": job.config.as_options(), "environment": cpu_environment()})
    return _rows_of(jobs, rows, train)


def write_page(path: Path) -> None:
    """Write the tables into the README.md beside the rows, and draw the figure."""
    rows = read_rows(path)
    parts = by_part(rows)
    draw_drawbacks(parts, path.with_name("figure.png"))
    last = next(row for row in reversed(rows) if row["part"] == "heads")
    small = next(row for row in reversed(rows) if row["part"] == "overfitting")
    budget = last["config"]
    facts = {
        "command": f"`python -m experiments.drawbacks.run --data $CIFAR10 --width {budget['width']:g} "
        f"--epochs {budget['epochs']} --images {small['train_images']} --small-epochs {small['config']['epochs']}`",
        "data": f"CIFAR-10, fingerprint of train {last['fingerprint']}; {last['images']:,} test images",
        "test images": "evaluated once a training, after its last epoch",
        "budget": f"{budget['model']}, width {budget['width']:g}, {budget['epochs']} epochs, batch "
        f"{budget['batch_size']}, SGD with rate {budget['lr']}, {budget['init']} initialization",
    }
    picture = "![Heads, overfitting, and gradients by depth](figure.png)"
    section = "\n\n".join([page.facts(facts, last["environment"]), tables(parts), picture])
    page.insert(path.with_name("README.md"), "drawbacks", section)


def tables(parts: dict[str, dict[str, list[Row]]]) -> str:
    """A table for each part that has rows."""
    tables = {
        "heads": _heads_table,
        "overfitting": _overfitting_table,
        "gradients": _gradients_table,
        MEMORY: _memory_table,
    }
    return "\n\n".join(tables[part](parts[part]) for part in tables if part in parts)


def by_part(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Part -> label -> its rows; only those with its newest configuration and data."""
    parts: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups, label = parts.setdefault(row["part"], {}), row["label"].partition(" on ")[0]
        groups[label] = [*(other for other in groups.get(label, []) if _recipe(other) == _recipe(row)), row]
    return parts


def _recipe(row: Row) -> tuple[str, TrainConfig | None, str | None]:
    """The whole label, which says how many images; the configuration but for the seed; the data."""
    config = config_of(row)
    return row["label"], None if config is None else config.override(seed=0), row.get("fingerprint")


def _rows_of(jobs: Sequence[_Job], path: Path, train: Source) -> list[Row]:
    """The rows of these jobs by any seed, on these images or none."""
    asked = [(job.label, job.config.override(seed=0)) for job in jobs]
    fingerprints = (train.fingerprint, None)  # memory needs no images
    found = [(row, *_recipe(row)) for row in read_rows(path)]
    return [row for row, label, config, data in found if (label, config) in asked and data in fingerprints]


def _jobs(
    budget: TrainConfig, data: str | Path, images: int, small_epochs: int, seeds: int, out: Path
) -> Iterator[_Job]:
    """The cheapest first."""

    def with_(**fields: object) -> TrainConfig:
        return budget.override(**fields)

    for model, head in AT_FULL_SIZE:
        config = with_(model=model, head=head, width=1.0, resize=256, crop=224)
        yield _Job(MEMORY, f"{_network(model)}, head {head}", config, _memory)
    for seed in range(seeds):
        for init in INITS:
            for model, skips in (*((model, False) for model in DEPTHS), *((model, True) for model in TWINS)):
                network = f"{_network(model)}{', residual' if skips else ''}"
                run = partial(_gradients, data=data, network=network, skips=skips)
                config = with_(model=model, init=init, seed=seed)
                yield _Job("gradients", f"{network}, init {init}", config, run)
    small: dict[str, object] = {"head": SMALL_HEAD, "epochs": small_epochs, "shift": 0, "flip": "none"}
    for seed in range(seeds):
        for dropout in DROPOUTS:
            overfit = partial(_overfitting, data=data, images=images, out=out)
            config = with_(**small, dropout=dropout, seed=seed)
            yield _Job("overfitting", f"dropout {dropout:g} on {images} images", config, overfit)
        for head in HEADS:
            train_head = partial(_head, data=data, out=out)
            yield _Job("heads", f"head {head}", with_(head=head, seed=seed), train_head)


def _network(model: str) -> str:
    """The paper's letter."""
    network = resolve(model)
    return f"{network.column} with batch norm" if network.batch_norm else network.column


def _memory(config: TrainConfig) -> Row:
    return {"network": _network(config.model.name), **_costs(config, 1000), "pixels": config.data.crop}


def _costs(config: TrainConfig, num_classes: int) -> Row:
    model = config.model
    network = build(model.name, num_classes=num_classes, head=model.head, width=model.width, init=None)
    return count_costs(network, config.data.crop)._asdict()


def _gradients(config: TrainConfig, *, data: str | Path, network: str, skips: bool) -> Row:
    source = open_source(data, "train")
    chosen = np.random.default_rng(config.run.seed).permutation(len(source))[: config.optimizer.batch_size]
    images, labels = _batch(config, source, chosen)
    model = build_model(config, len(source.classes))
    norms = gradient_norms(add_skips(model) if skips else model, images, labels)
    return {"network": network, "norms": norms, "images": len(chosen), "fingerprint": source.fingerprint}


def _batch(config: TrainConfig, source: Source, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    preprocess = make_preprocess(config, source)
    pixels = decoded(source, preprocess)[torch.from_numpy(indices)]
    return preprocess.normalize(pixels), torch.from_numpy(source.labels[indices])


def _overfitting(config: TrainConfig, *, data: str | Path, images: int, out: Path) -> Row:
    source, test_source = open_both(data)
    chosen, held_out = _two_parts(source, images, config.run.seed)
    network = build_model(config, len(source.classes))

    def watch(network: torch.nn.Module) -> Row:
        scores = scores_on(network, config, source, source, held_out)
        return {"val_loss": scores.loss, "val_accuracy": scores.top1}

    folder = folder_of(out, f"dropout {config.model.dropout:g} {images}", config, source.fingerprint)
    history = fit_or_resume(network, config, source, chosen, folder, validate=watch)
    learnt, tested = scores_on(network, config, source, source, chosen), scores_on(network, config, source, test_source)
    return {
        "train_images": len(chosen), "held_out": len(held_out), "train_accuracy": learnt.top1, "top1": tested.top1,
        "images": tested.images, "seconds": sum(row["seconds"] for row in history), "history": history,
        "fingerprint": source.fingerprint,
    }  # fmt: skip


def _two_parts(source: Source, images: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two parts of train of this size, each with the same share of every class.  Raises: ConfigError."""
    if len(source) <= 2 * images:
        raise ConfigError(
            f"images is {images}, and as many are held out, but {source.name} has {len(source)} training images; "
            "choose fewer than half of them."
        )
    rest, chosen = carve(source.labels, images / len(source), seed)
    _, held_out = carve(source.labels[rest], images / len(rest), seed)
    return chosen, rest[held_out]


def _head(config: TrainConfig, *, data: str | Path, out: Path) -> Row:
    folder = folder_of(out, f"head {config.model.head}", config, open_source(data, "train").fingerprint)
    run = train_or_resume(data, folder, config)
    result = evaluate_run(run, data)
    return {
        **_costs(config, len(run.description["classes"])), "top1": result.top1, "images": result.images,
        "train_accuracy": run.history[-1]["train_accuracy"], "seconds": sum(row["seconds"] for row in run.history),
        "fingerprint": run.description["fingerprint"],
    }  # fmt: skip


def _heads_table(groups: dict[str, list[Row]]) -> str:
    headings = ["head", *SIZE, "seeds", "test accuracy (%)", "minutes a run"]
    lines = []
    for rows in groups.values():
        accuracy, minutes = spread(percents(rows, "top1")), mean(row["seconds"] for row in rows) / 60
        lines.append([rows[0]["config"]["head"], *_size(rows[0]), len(rows), accuracy, f"{minutes:.1f}"])
    return page.markdown(headings, lines)


def _overfitting_table(groups: dict[str, list[Row]]) -> str:
    headings = [
        "dropout", "training images", "epochs", "seeds", "accuracy on them (%)", "test accuracy (%)",
        "difference (points)", "minutes a run",
    ]  # fmt: skip
    lines = []
    for rows in groups.values():
        learned, tested = percents(rows, "train_accuracy"), percents(rows, "top1")
        gaps = [ours - theirs for ours, theirs in zip(learned, tested, strict=True)]
        config, minutes = rows[0]["config"], mean(row["seconds"] for row in rows) / 60
        about = [f"{config['dropout']:g}", f"{rows[0]['train_images']:,}", config["epochs"], len(rows)]
        lines.append([*about, spread(learned), spread(tested), spread(gaps), f"{minutes:.1f}"])
    return page.markdown(headings, lines)


def _gradients_table(groups: dict[str, list[Row]]) -> str:
    headings = ["network", "initialization", "seeds", "first convolution", "last convolution", "first to last"]
    lines = []
    for rows in groups.values():
        first, last = ([row["norms"][place] for row in rows] for place in (0, -1))
        ratios = [one / other for one, other in zip(first, last, strict=True)]
        norms = [f"{mean(values):.2e} ({min(values):.1e} to {max(values):.1e})" for values in (first, last)]
        lines.append([rows[0]["network"], rows[0]["config"]["init"], len(rows), *norms, f"{mean(ratios):.2g}"])
    return page.markdown(headings, lines, left=2)


def _memory_table(groups: dict[str, list[Row]]) -> str:
    headings = ["network", "head", *SIZE, "activations of an image (MB)", f"of a batch of {PAPER_BATCH} (GB)"]
    lines = []
    for *_, row in groups.values():
        activations = row["activation_bytes"]
        amounts = [f"{activations / 1e6:.1f}", f"{PAPER_BATCH * activations / 1e9:.1f}"]
        lines.append([row["network"], row["config"]["head"], *_size(row), *amounts])
    return page.markdown(headings, lines, left=2)


def _size(row: Row) -> list[str]:
    """Below SIZE."""
    share = 100 * row["fully_connected"] / row["parameters"]
    file = f"{row['file_bytes'] / 1e6:.1f} / {row['file_bytes'] / 2**20:.1f}"
    return [f"{row['parameters'] / 1e6:.2f}", f"{share:.1f}", file]


if __name__ == "__main__":
    page.run(main)
