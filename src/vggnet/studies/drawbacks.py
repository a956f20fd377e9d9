"""What is held against VGG, each point measured beside its remedy: head, overfitting, depth, memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.decoded import decoded
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source
from vggnet.data.splits import carve
from vggnet.errors import ConfigError, check_at_least
from vggnet.evaluation.evaluate import test
from vggnet.models.table1 import resolve
from vggnet.models.vgg import build
from vggnet.studies.bench import cpu_environment
from vggnet.studies.costs import count_costs
from vggnet.studies.fitting import fit_or_resume, folder_of, open_both, scores_on
from vggnet.studies.gradients import add_skips, gradient_norms
from vggnet.studies.rows import Row, Study, append_row, config_of, find_row, read_rows, spread, train_or_resume
from vggnet.training.config import FAST, TrainConfig
from vggnet.training.inputs import make_preprocess
from vggnet.training.learner import build_model

BUDGET = replace(
    FAST,
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
AT_FULL_SIZE = (("vgg11", "paper"), ("vgg16", "paper"), ("vgg16_bn", "paper"), ("vgg19", "paper"), ("vgg16", "gap"))


class DrawbacksStudy(Study):
    """Rows of four parts: "memory", "gradients", "overfitting", "heads"."""

    def as_table(self) -> str:
        """Markdown: a table for each part that has rows."""
        tables = {"heads": _heads_table, "overfitting": _overfitting_table, "gradients": _gradients_table,
                  MEMORY: _memory_table}  # fmt: skip
        parts = by_part(self.rows)
        return "\n\n".join("\n".join(tables[part](parts[part])) for part in tables if part in parts)


class _Job(NamedTuple):
    """One row to be: what it is called, how it is configured, and what makes its numbers, or None at Ctrl-C."""

    part: str
    label: str
    config: TrainConfig
    run: Callable[[TrainConfig], Row | None]


def study_drawbacks(
    data: str | Path,
    *,
    images: int = 2000,
    small_epochs: int = 12,
    seeds: int = 2,
    out: Path | str = "runs/drawbacks",
    rows: Path | str = "docs/drawbacks.jsonl",
    progress: bool = False,
    **fields: object,
) -> DrawbacksStudy:
    """Measure each point with seeds 0 .. seeds - 1, and append a row to `rows` for each.

    heads: the same convolutions under each head, trained on all of train. overfitting: the paper's head with dropout
    and without on `images` of train for `small_epochs`, without augmentation, as many others held out to watch.
    gradients: one backward pass before the first step, for plain columns, with batch norm, and with identity skips.
    memory: what networks for 224 pixels and 1000 classes hold, counted. Test is touched once a training, after its
    last epoch. What `rows` has is not run again, and a stopped run goes on from its folder in `out`. `fields` replace
    single values of BUDGET. The study has the rows by these options on these images alone, of every seed.
    Raises: ConfigError for an impossible value, such as more images than train has; otherwise as `train` and `test`.
    """
    check_at_least(1, images=images, small_epochs=small_epochs, seeds=seeds)
    budget, path = TrainConfig.from_dict({**BUDGET.as_dict(), **fields}), Path(rows)
    train, _ = open_both(data)
    _two_parts(train, images, seed=0)  # what cannot work is said first
    jobs = list(_jobs(budget, data, images, small_epochs, seeds, Path(out), progress))
    for job in jobs:
        fingerprint = None if job.part == MEMORY else train.fingerprint
        if find_row(read_rows(path), "label", job.label, job.config, fingerprint):
            continue
        row = job.run(job.config)
        if row is None:
            return DrawbacksStudy(rows=_rows_of(jobs, path, train), finished=False)
        about = {"part": job.part, "label": job.label, "seed": job.config.seed}
        append_row(path, {**about, **row, "config": job.config.as_dict(), "environment": cpu_environment()})
    return DrawbacksStudy(rows=_rows_of(jobs, path, train), finished=True)


def by_part(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Part -> label -> its rows, those of its newest configuration and data alone."""
    parts: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups, label = parts.setdefault(row["part"], {}), row["label"].partition(" on ")[0]
        groups[label] = [*(other for other in groups.get(label, []) if _recipe(other) == _recipe(row)), row]
    return parts


def _recipe(row: Row) -> tuple[str, TrainConfig | None, str | None]:
    """The whole label, which says how many images; the configuration but for the seed; the data."""
    config = config_of(row)
    return row["label"], None if config is None else replace(config, seed=0), row.get("fingerprint")


def _rows_of(jobs: Sequence[_Job], path: Path, train: Source) -> list[Row]:
    """The rows of these jobs by any seed, on these images or none."""
    asked = [(job.label, replace(job.config, seed=0)) for job in jobs]
    fingerprints = (train.fingerprint, None)  # memory needs no images
    found = [(row, *_recipe(row)) for row in read_rows(path)]
    return [row for row, label, config, data in found if (label, config) in asked and data in fingerprints]


def _jobs(
    budget: TrainConfig, data: str | Path, images: int, small_epochs: int, seeds: int, out: Path, progress: bool
) -> Iterator[_Job]:
    """The cheapest first."""

    def with_(**fields: object) -> TrainConfig:
        return TrainConfig.from_dict({**budget.as_dict(), **fields})

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
            overfit = partial(_overfitting, data=data, images=images, out=out, progress=progress)
            config = with_(**small, dropout=dropout, seed=seed)
            yield _Job("overfitting", f"dropout {dropout:g} on {images} images", config, overfit)
        for head in HEADS:
            train_head = partial(_head, data=data, out=out, progress=progress)
            yield _Job("heads", f"head {head}", with_(head=head, seed=seed), train_head)


def _network(model: str) -> str:
    """The paper's letter."""
    network = resolve(model)
    return f"{network.column} with batch norm" if network.batch_norm else network.column


def _memory(config: TrainConfig) -> Row:
    return {"network": _network(config.model), **_costs(config, 1000), "pixels": config.crop}


def _costs(config: TrainConfig, num_classes: int) -> Row:
    network = build(config.model, num_classes=num_classes, head=config.head, width=config.width, init=None)
    return count_costs(network, config.crop)._asdict()


def _gradients(config: TrainConfig, *, data: str | Path, network: str, skips: bool) -> Row:
    source = open_source(data, "train")
    chosen = np.random.default_rng(config.seed).permutation(len(source))[: config.batch_size]
    images, labels = _batch(config, source, chosen)
    model = build_model(config, len(source.classes))
    norms = gradient_norms(add_skips(model) if skips else model, images, labels)
    return {"network": network, "norms": norms, "images": len(chosen), "fingerprint": source.fingerprint}


def _batch(config: TrainConfig, source: Source, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    preprocess = make_preprocess(config, source)
    pixels = decoded(source, preprocess)[torch.from_numpy(indices)]
    return preprocess.normalize(pixels), torch.from_numpy(source.labels[indices])


def _overfitting(config: TrainConfig, *, data: str | Path, images: int, out: Path, progress: bool) -> Row | None:
    source, test_source = open_both(data)
    chosen, held_out = _two_parts(source, images, config.seed)
    network = build_model(config, len(source.classes))

    def watch(network: torch.nn.Module) -> Row:
        scores = scores_on(network, config, source, source, held_out)
        return {"val_loss": scores.loss, "val_accuracy": scores.top1}

    folder = folder_of(out, f"dropout {config.dropout:g} {images}", config, source.fingerprint)
    history = fit_or_resume(network, config, source, chosen, folder, validate=watch, progress=progress)
    if history is None:
        return None
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


def _head(config: TrainConfig, *, data: str | Path, out: Path, progress: bool) -> Row | None:
    folder = folder_of(out, f"head {config.head}", config, open_source(data, "train").fingerprint)
    run = train_or_resume(data, folder, progress=progress, preset="fast", **config.as_dict())
    if not run.finished:
        return None
    result = test(run.weights, data=data)
    return {
        **_costs(config, len(run.description["classes"])), "top1": result.top1, "images": result.images,
        "train_accuracy": run.history[-1]["train_accuracy"], "seconds": sum(row["seconds"] for row in run.history),
        "fingerprint": run.description["fingerprint"],
    }  # fmt: skip


def _heads_table(groups: dict[str, list[Row]]) -> Iterator[str]:
    yield (
        "| head | parameters (millions) | of them in fully connected layers (%) | file (MB / MiB) | seeds "
        "| test accuracy (%) | minutes a run |"
    )
    yield "|" + "---|" * 7
    for rows in groups.values():
        minutes = mean(row["seconds"] for row in rows) / 60
        accuracy = spread(_percents(rows, "top1"))
        yield f"| {rows[0]['config']['head']} | {_size(rows[0])} | {len(rows)} | {accuracy} | {minutes:.1f} |"


def _overfitting_table(groups: dict[str, list[Row]]) -> Iterator[str]:
    yield (
        "| dropout | training images | epochs | seeds | accuracy on them (%) | test accuracy (%) | difference (points) "
        "| minutes a run |"
    )
    yield "|" + "---|" * 8
    for rows in groups.values():
        learnt, tested = _percents(rows, "train_accuracy"), _percents(rows, "top1")
        gaps = [ours - theirs for ours, theirs in zip(learnt, tested, strict=True)]
        config, minutes = rows[0]["config"], mean(row["seconds"] for row in rows) / 60
        yield (
            f"| {config['dropout']:g} | {rows[0]['train_images']:,} | {config['epochs']} | {len(rows)} "
            f"| {spread(learnt)} | {spread(tested)} | {spread(gaps)} | {minutes:.1f} |"
        )


def _gradients_table(groups: dict[str, list[Row]]) -> Iterator[str]:
    yield "| network | initialization | seeds | first convolution | last convolution | first to last |"
    yield "|" + "---|" * 6
    for rows in groups.values():
        first, last = ([row["norms"][place] for row in rows] for place in (0, -1))
        ratios = [one / other for one, other in zip(first, last, strict=True)]
        values = (f"{mean(numbers):.2e} ({min(numbers):.1e} to {max(numbers):.1e})" for numbers in (first, last))
        init = rows[0]["config"]["init"]
        yield f"| {rows[0]['network']} | {init} | {len(rows)} | {' | '.join(values)} | {mean(ratios):.2g} |"


def _memory_table(groups: dict[str, list[Row]]) -> Iterator[str]:
    yield (
        "| network | head | parameters (millions) | of them in fully connected layers (%) | file (MB / MiB) "
        f"| activations of an image (MB) | of a batch of {PAPER_BATCH} (GB) |"
    )
    yield "|" + "---|" * 7
    for *_, row in groups.values():
        activations = row["activation_bytes"]
        yield (
            f"| {row['network']} | {row['config']['head']} | {_size(row)} | {activations / 1e6:.1f} "
            f"| {PAPER_BATCH * activations / 1e9:.1f} |"
        )


def _size(row: Row) -> str:
    share = 100 * row["fully_connected"] / row["parameters"]
    return (
        f"{row['parameters'] / 1e6:.2f} | {share:.1f} | {row['file_bytes'] / 1e6:.1f} / {row['file_bytes'] / 2**20:.1f}"
    )


def _percents(rows: Sequence[Row], name: str) -> list[float]:
    return [100 * row[name] for row in rows]
