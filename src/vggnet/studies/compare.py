"""VGGs beside the networks before and after them: what they cost, how fast they answer here, how right they are."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models
from tqdm import tqdm

from vggnet.errors import ConfigError, NonFiniteError, check_at_least
from vggnet.models.table1 import MODEL_NAMES, resolve
from vggnet.report.study_figures import Answer, draw_accuracy_against_latency
from vggnet.studies.bench import OURS, bench_infer, build_network, cpu_environment
from vggnet.studies.costs import count_costs
from vggnet.studies.fitting import fit_or_resume, folder_of, open_both, scores_on
from vggnet.studies.rows import Row, Study, append_row, budget_of, find_row, read_rows, spread
from vggnet.training.config import FAST, TrainConfig
from vggnet.training.learner import build_model

VGGS = ("vgg11_bn", "vgg16", "vgg16_bn", "vgg19_bn")
OTHERS = (
    "alexnet", "googlenet", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "squeezenet1_1",
)  # fmt: skip
PUBLISHED = "IMAGENET1K_V1"  # the weights of which every network has some, trained by the older recipes
SPEED, TRAINING = "speed", "training"  # kinds of rows

BUDGET = replace(
    FAST,
    width=1.0, init="he", val_fraction=0.0, epochs=5, batch_size=128, optimizer="sgd", lr=0.02, warmup=0.2,
    momentum=0.9, weight_decay=5e-4, label_smoothing=0.0, flip="random",
)  # fmt: skip
ENLARGED = 64  # pixels; AlexNet's pools leave nothing of less


class Enlarged(nn.Module):
    """A network made for larger images, behind a bilinear enlargement to 64 pixels; it is not changed itself.

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


class Comparison(Study):
    """Rows of two kinds: "speed", one for each network, and "training", one for each network and seed."""

    def as_table(self) -> str:
        """Markdown: a line for each network, the most accurate on ImageNet first, and what the numbers are."""
        lines = [
            "| network | parameters (millions) | GMACs | file (MB) | activations (MB) | latency (ms) | images/s "
            "| fastest by | top-1 on ImageNet (%) | trained here (%) | minutes a run | seeds |",
            "|" + "---|" * 12,
        ]
        runs = trained(self.rows)
        for row in sorted(measured(self.rows).values(), key=lambda row: -row["accuracy"].get(PUBLISHED, 0)):
            name = row["model"]
            cells = [name, *_costs(row), *_speeds(row), _published(row), *_learnt(runs.get(name, []))]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", *(f"- {note}" for note in notes(self.rows))])


def compare_speed(
    models: Sequence[str] = (*VGGS, *OTHERS),
    *,
    size: int = 224,
    batch: int = 16,
    rounds: int = 9,
    rows: Path | str = "docs/compare.jsonl",
    progress: bool = False,
) -> Comparison:
    """Count what each network costs, time its answers to one image and to a batch, and append a row to `rows`.

    models: VGGs, or networks of torchvision; all on random weights, on which speed does not depend.
    size: pixels. rounds: of each way, in turns: ours, and stock PyTorch in both memory formats.
    What `rows` has from these versions and this hardware already is not measured again.
    Raises: ConfigError for a network that does not exist, or a number that cannot work.
    """
    names = _known(models)
    check_at_least(32, size=size)
    check_at_least(1, batch=batch, rounds=rounds)
    path, job = Path(rows), {"size": size, "batch": batch, "rounds": rounds}
    mine = _measurement({**job, "environment": cpu_environment()})
    there = [row for row in read_rows(path) if row["kind"] == SPEED and _measurement(row) == mine]
    wanted = [name for name in names if name not in {row["model"] for row in there}]
    try:
        for name in tqdm(wanted, desc="networks", unit="network", disable=not progress):
            append_row(path, _speed_row(name, job, progress))
    except KeyboardInterrupt:
        return Comparison(rows=read_rows(path), finished=False)
    return Comparison(rows=read_rows(path), finished=True)


def compare_training(
    data: str | Path,
    models: Sequence[str] = (*VGGS, *OTHERS),
    *,
    seeds: int = 1,
    out: Path | str = "runs/compare",
    rows: Path | str = "docs/compare.jsonl",
    progress: bool = False,
    **fields: object,
) -> Comparison:
    """Train each network with seeds 0 .. seeds - 1 on all of train, test it once, and append a row to `rows`.

    VGGs have the `cifar` head and see 32 pixels; of the others only the number of classes is changed, and they see the
    same images enlarged to 64 (`Enlarged`). `fields` replace single values of BUDGET. The last epoch is tested. What
    `rows` has is not run again, and a stopped run goes on from its folder in `out`. A loss that is no number any more
    is a row that says so. Of the trainings there are those by this budget on these images alone.
    Raises: ConfigError for a network that does not exist or an impossible value; otherwise as `train` and `test`.
    """
    check_at_least(1, seeds=seeds)
    names, budget, path = _known(models), TrainConfig.from_dict({**BUDGET.as_dict(), **fields}), Path(rows)
    fingerprint = open_both(data)[0].fingerprint
    ours = budget_of({"config": budget.as_dict(), "fingerprint": fingerprint})
    for seed in range(seeds):
        for name in names:
            config = replace(budget, model=name, seed=seed)
            there = [row for row in read_rows(path) if row["kind"] == TRAINING]
            if find_row(there, "model", name, config, fingerprint):
                continue
            row = _training_row(config, data, Path(out), progress)
            if row is None:
                return Comparison(rows=_with_trainings(path, ours), finished=False)
            append_row(path, row)
    return Comparison(rows=_with_trainings(path, ours), finished=True)


def published_accuracy(model: str) -> dict[str, float]:
    """Top-1 accuracy (%) on ImageNet's validation images, as torchvision states it of its weights, by their names."""
    if model not in list_models(torchvision.models):
        return {}
    stated = {weights.name: weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] for weights in get_model_weights(model)}
    return {name: accuracy for name, accuracy in stated.items() if not isnan(accuracy)}


def measured(rows: Sequence[Row]) -> dict[str, Row]:
    """The speed of each network: rows that were measured as the newest of them, and on the same machine."""
    found = [row for row in rows if row["kind"] == SPEED]
    return {row["model"]: row for row in found if _measurement(row) == _measurement(found[-1])}


def trained(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The trainings of each network by the budget and on the data of the newest of them."""
    found = [row for row in rows if row["kind"] == TRAINING]
    groups: dict[str, list[Row]] = {}
    for row in found:
        if budget_of(row) == budget_of(found[-1]):
            groups.setdefault(row["model"], []).append(row)
    return groups


def answers(rows: Sequence[Row]) -> list[Answer]:
    """What the figure shows: each network that has a published accuracy, by the newest of its rows."""
    return [
        Answer(
            name=name,
            is_vgg=name in MODEL_NAMES,
            accuracy=row["accuracy"][PUBLISHED],
            seconds=row["latency"][_fastest(row["latency"])],
            stock_seconds=min((row["latency"][way] for way in row["latency"] if way != OURS), key=median),
        )
        for name, row in measured(rows).items()
        if PUBLISHED in row["accuracy"]
    ]


def draw_comparison(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against latency.  Raises: StorageError if `path` cannot be written."""
    row = next(iter(measured(rows).values()))
    facts = row["environment"]
    title = (
        f"one image of {row['size']}x{row['size']} on {facts['cores']} cores of {facts['device']}: "
        f"medians of {row['rounds']} rounds"
    )
    draw_accuracy_against_latency(answers(rows), path, title=title)


def notes(rows: Sequence[Row]) -> Iterator[str]:
    """What the columns are, and where the numbers come from."""
    for row in list(measured(rows).values())[:1]:
        yield (
            f"Counted for one image of {row['size']}x{row['size']} pixels: GMACs are thousands of millions of "
            "multiplications with an addition; the file holds float32; activations are what training keeps of the "
            "image for its backward pass. MB are millions of bytes."
        )
        yield (
            f"Latency is of one image, images/s are in batches of {row['batch']}; medians of {row['rounds']} rounds, "
            "from the fastest to the slowest in brackets; the fastest of three ways, measured in turns on random "
            "weights: vggnet's engine, and stock PyTorch in either memory format."
        )
        yield (
            f"Accuracy on ImageNet is not measured here: torchvision {row['environment']['torchvision']} states it of "
            f"its weights {PUBLISHED}, whose recipes are those of their time; in brackets of its best weights, where "
            "there are better."
        )
    for row in [runs[0] for runs in trained(rows).values()][:1]:
        config = row["config"]
        yield (
            f"Trained here: {config['epochs']} epochs of the same images, batch {config['batch_size']}, SGD with rate "
            f"{config['lr']}, the same for all and tuned for none; accuracy on {row['images']:,} test images, touched "
            f"once a run. VGGs see 32 pixels by a head of one layer, the others the same images enlarged to {ENLARGED}."
        )


def _known(models: Sequence[str]) -> list[str]:
    """Their full names.  Raises: ConfigError."""
    names = []
    for name in models:
        if name in list_models(torchvision.models):
            names.append(name)
            continue
        try:
            names.append(resolve(name).name)
        except ConfigError as error:
            raise ConfigError(f"{error} Networks of torchvision, such as resnet18, can be compared as well.") from error
    if not names:
        raise ConfigError("no network was named; name one or more, such as vgg16 resnet18.")
    return list(dict.fromkeys(names))


def _measurement(row: Row) -> dict[str, Any]:
    """What has to be the same for two times to be compared: how they were measured, versions, hardware."""
    place = {key: value for key, value in row["environment"].items() if key != "date"}
    return {**place, **{key: row[key] for key in ("size", "batch", "rounds")}}


def _with_trainings(path: Path, ours: tuple[TrainConfig | None, str | None]) -> list[Row]:
    """All speeds, and the trainings that may be compared."""
    return [row for row in read_rows(path) if row["kind"] != TRAINING or budget_of(row) == ours]


def _speed_row(name: str, job: dict[str, int], progress: bool) -> Row:
    with torch.device("meta"):
        costs = count_costs(build_network(name, 1000, 1.0, "paper"), job["size"])
    seconds = {
        key: bench_infer(
            name, size=job["size"], batch=batch, rounds=job["rounds"], peers=False, progress=progress
        ).seconds
        for key, batch in (("latency", 1), ("throughput", job["batch"]))
    }
    return {
        "kind": SPEED, "model": name, **job, **costs._asdict(), **seconds, "accuracy": published_accuracy(name),
        "environment": cpu_environment(),
    }  # fmt: skip


def _training_row(config: TrainConfig, data: str | Path, out: Path, progress: bool) -> Row | None:
    """Train and test; None if Ctrl-C came."""
    train, test = open_both(data)
    network = _trainable(config, len(train.classes))
    everything, folder = torch.arange(len(train)).numpy(), folder_of(out, config.model, config, train.fingerprint)
    about = {
        "kind": TRAINING, "model": config.model, "seed": config.seed, "config": config.as_dict(),
        "images": len(test), "fingerprint": train.fingerprint, "environment": cpu_environment(),
    }  # fmt: skip
    try:
        history = fit_or_resume(network, config, train, everything, folder, progress=progress)
    except NonFiniteError:
        return {**about, "top1": None, "seconds": 0.0}
    if history is None:
        return None
    last, seconds = history[-1], sum(row["seconds"] for row in history)
    learnt = {"train_loss": last["train_loss"], "train_accuracy": last["train_accuracy"]}
    return {**about, "top1": scores_on(network, config, train, test).top1, **learnt, "seconds": seconds}


def _trainable(config: TrainConfig, num_classes: int) -> nn.Module:
    if config.model in MODEL_NAMES:
        return build_model(config, num_classes)
    torch.manual_seed(config.seed)
    return Enlarged(build_network(config.model, num_classes, config.width, config.head), num_classes)


def _fastest(seconds: dict[str, list[float]]) -> str:
    return min(seconds, key=lambda way: median(seconds[way]))


def _costs(row: Row) -> list[str]:
    megabytes = (row["file_bytes"] / 1e6, row["activation_bytes"] / 1e6)
    return [f"{row['parameters'] / 1e6:.2f}", f"{row['macs'] / 1e9:.3f}", *(f"{value:.1f}" for value in megabytes)]


def _speeds(row: Row) -> list[str]:
    way, many = _fastest(row["latency"]), row["throughput"][_fastest(row["throughput"])]
    ms = [1e3 * value for value in row["latency"][way]]
    return [f"{median(ms):.1f} ({min(ms):.1f}-{max(ms):.1f})", f"{row['batch'] / median(many):.1f}", way]


def _published(row: Row) -> str:
    accuracy = row["accuracy"]
    if PUBLISHED not in accuracy:
        return "-"
    best = max(accuracy.values())
    return f"{accuracy[PUBLISHED]:.2f}" + (f" ({best:.2f})" if best > accuracy[PUBLISHED] else "")


def _learnt(rows: Sequence[Row]) -> list[str]:
    """Accuracy, minutes, and seeds, of which those whose loss was no number any more are counted apart."""
    ended = [row for row in rows if row["top1"] is not None]
    lost = f" and {len(rows) - len(ended)} diverged" if len(rows) > len(ended) else ""
    minutes = f"{mean(row['seconds'] for row in ended) / 60:.1f}" if ended else "-"
    return [spread([100 * row["top1"] for row in ended]), minutes, f"{len(ended)}{lost}" if rows else "-"]
