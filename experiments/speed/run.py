"""How accurate is a network after how much time? The presets, trained on all training images and tested once.

python -m experiments.speed.run --data cifar10
"""

import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal, NamedTuple

import torch

from experiments import page
from experiments.rows import Row, append_row, budget_of, find_row, percents, read_rows, spread
from experiments.speed.figure import draw_speed
from experiments.training import evaluate_run, folder_of, open_both, train_or_resume
from experiments.tutorial.step_timing import TUTORIAL, bench_tutorial
from vggnet.benchmarking.timing import cpu_environment
from vggnet.data.sources.opening import open_source
from vggnet.errors import check_at_least
from vggnet.interpret.costs import count_macs
from vggnet.models.architecture import Architecture
from vggnet.models.vgg import empty
from vggnet.training.config import TrainConfig
from vggnet.training.presets import PRESETS, preset
from vggnet.training.run import Run

ROWS = Path(__file__).with_name("rows.jsonl")
VIEWS: tuple[Literal[1], Literal[6]] = (1, 6)
MATRIX = 2048  # side of the matrix product that gives the limit of the cores


class Words(NamedTuple):
    """The words of a README's table, in its language."""

    headings: tuple[str, ...]
    network: str
    estimate: str
    picture: str


READMES = {
    "README.md": Words(
        ("preset", "network", "test accuracy (%)", "by six views (%)", "minutes of two cores", "seeds", "measured"),
        "{model}, width {width:g}",
        "an estimate",
        "Test accuracy against minutes of training",
    ),
    "README.zh-CN.md": Words(
        ("预设", "网络", "测试准确率（%）", "六视图准确率（%）", "双核训练时间（分钟）", "种子数", "测量日期"),
        "{model}，宽度 {width:g}",
        "估计值",
        "测试准确率与训练时间（分钟）的关系",
    ),
}


def main(
    data: str | None = None,
    presets: tuple[str, ...] = ("quick", "fast"),
    seeds: int = 3,
    precision: Literal["float32", "bfloat16"] = "float32",
    out: Path = Path("runs/speed"),
    rows: Path = ROWS,
) -> None:
    """Train and test every preset and seed that has no row yet, then write tables and figure, also of the READMEs.

    Args:
        data: CIFAR-10, as `vgg train --data` takes it; without it pages and figure are written from the rows.
        presets: which to train.
        seeds: runs of each preset.
        precision: of products; what is trained in bfloat16 has lines of its own.
        out: the run folders.
        rows: a row for each finished run; page and figure are written beside it.
    """
    if data is not None:
        measure(data, presets=presets, seeds=seeds, precision=precision, out=out, rows=rows)
    write_page(rows)
    if rows == ROWS:
        for name, words in READMES.items():
            page.insert(page.ROOT / name, "speed", at_a_glance(read_rows(rows), words))


def measure(
    data: str | Path,
    *,
    presets: Sequence[str],
    seeds: int,
    out: Path,
    rows: Path,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> list[Row]:
    """Train each preset with seeds 0 .. seeds - 1 on all of train, and test its last epoch once.

    It is tested as the images are and by six views. The preset `article` is timed for a few steps only; its row says
    that the time is an estimate.

    Returns:
        The rows of these images.

    Raises:
        ConfigError: a preset does not exist.
    """
    check_at_least(1, seeds=seeds)
    options: dict[str, Any] = {"val_fraction": 0.0, "precision": precision}
    labels = {name: name if precision == "float32" else f"{name}, {precision}" for name in presets}
    fingerprint = open_both(data)[0].fingerprint
    for seed in range(seeds):
        for name, label in labels.items():
            config = preset(name).override(seed=seed, **options)
            if not find_row(read_rows(rows), "preset", label, config, fingerprint):
                folder = folder_of(out, label, config, fingerprint)
                run = train_or_resume(data, folder, name, seed=seed, **options)
                append_row(rows, _row(label, config, run, data))
    if not find_row(read_rows(rows), "preset", "article", preset("article"), fingerprint):
        append_row(rows, _article_row(data))
    return [row for row in read_rows(rows) if row["fingerprint"] == fingerprint]


def write_page(path: Path) -> None:
    """Write the table into the README.md beside the rows, and draw the figure."""
    rows = read_rows(path)
    draw_speed(in_float32(rows), path.with_name("figure.png"))
    tested = next(row for row in reversed(rows) if not row["estimate"])
    facts = {
        "command": "`python -m experiments.speed.run --data $CIFAR10`",
        "data": f"CIFAR-10: all of train (fingerprint {tested['fingerprint']}), {tested['images']:,} test images",
        "test images": "evaluated once a run, after its last epoch: as they are, and by six views of each",
        "operations": "of training on one image once, as direct convolutions count them, two for each multiply-add; "
        "the limit is PyTorch's matrix product on the same cores",
    }
    picture = "![Test accuracy against minutes of training](figure.png)"
    section = f"{page.facts(facts, tested['environment'])}\n\n{table(rows)}\n\n{picture}"
    page.insert(path.with_name("README.md"), "speed", section)


def table(rows: Sequence[Row]) -> str:
    """A line for each preset, with mean and standard deviation over its seeds."""
    headings = [
        "preset", "network", "epochs", "seeds", "test accuracy (%)", "with six views (%)", "minutes", "s an epoch",
        "operations an image", "share of the limit", "measured",
    ]  # fmt: skip
    lines = []
    for name, runs in by_preset(rows).items():
        config, seconds = runs[0]["config"], mean(row["seconds"] for row in runs)
        lines.append([
            name,
            f"{config['model']}, width {config['width']:g}",
            config["epochs"],
            ", ".join(str(row["seed"]) for row in runs if not row["estimate"]) or "none: an estimate",
            spread(percents(runs, "top1")),
            spread(percents(runs, "top1_six_views")),
            f"{seconds / 60:.1f}",
            f"{seconds / config['epochs']:.1f}",
            f"{runs[0]['operations_per_image']:.2e}",
            f"{100 * mean(row['share_of_limit'] for row in runs):.0f} %",
            max(row["environment"]["date"] for row in runs),
        ])  # fmt: skip
    return page.markdown(headings, lines, left=2)


def at_a_glance(rows: Sequence[Row], words: Words) -> str:
    """The section of a README: a line for each preset as it is, and the figure."""
    lines = []
    for name, runs in sorted(in_float32(rows).items(), key=lambda group: mean(row["seconds"] for row in group[1])):
        lines.append([
            f"`{name}`",
            words.network.format_map(runs[0]["config"]),
            spread(percents(runs, "top1")),
            spread(percents(runs, "top1_six_views")),
            f"{mean(row['seconds'] for row in runs) / 60:,.0f}",
            words.estimate if runs[0]["estimate"] else len(runs),
            max(row["environment"]["date"] for row in runs),
        ])  # fmt: skip
    return f"{page.markdown(words.headings, lines, left=2)}\n\n![{words.picture}](experiments/speed/figure.png)"


def by_preset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each preset; only those with its newest configuration and data, and of estimates the newest."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        same = [other for other in groups.get(row["preset"], []) if budget_of(other) == budget_of(row)]
        groups[row["preset"]] = [row] if row["estimate"] else [*same, row]
    return groups


def in_float32(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """`by_preset`, without what was trained in another precision: its times are of a machine that did other work."""
    return {name: runs for name, runs in by_preset(rows).items() if name in PRESETS}


def _row(name: str, config: TrainConfig, run: Run, data: str | Path) -> Row:
    """The finished run, tested."""
    one, six = (evaluate_run(run, data, views) for views in VIEWS)
    seconds = sum(row["seconds"] for row in run.history)
    return {
        "preset": name, "seed": config.run.seed, "estimate": False, "top1": one.top1,
        "top1_six_views": six.top1, "per_class": six.per_class, "images": one.images,
        "seconds": seconds,
        **_work(config, run.description["images"], seconds), "config": config.as_options(),
        "fingerprint": run.description["fingerprint"], "environment": run.description["environment"],
    }  # fmt: skip


def _article_row(data: str | Path) -> Row:
    """The tutorial's whole training at the speed of a few of its steps."""
    source = open_source(data, "train")
    per_step = median(bench_tutorial().seconds[TUTORIAL])
    config = preset("article")
    images = round(len(source) * (1 - config.data.val_fraction))
    seconds = per_step * -(-images // config.optimizer.batch_size) * config.schedule.epochs
    return {
        "preset": "article", "seed": config.run.seed, "estimate": True, "top1": None, "top1_six_views": None,
        "images": 0, "seconds": seconds, **_work(config, images, seconds), "config": config.as_options(),
        "fingerprint": source.fingerprint, "environment": {**cpu_environment(), "date": f"{date.today()}"},
    }  # fmt: skip


def _work(config: TrainConfig, images: int, seconds: float) -> dict[str, float]:
    """Operations of training on one image once, and their share of what the cores could multiply in the time.

    Three times a forward pass, as direct convolutions count: two operations for each multiply-add. Winograd's need
    fewer, so the share may be above 1.
    """
    network = empty(
        Architecture(name=config.model.name, num_classes=10, head=config.model.head, width=config.model.width)
    )
    operations = 3 * 2 * count_macs(network, config.data.crop, in_channels=config.model.in_channels)
    total = operations * images * config.schedule.epochs
    return {"operations_per_image": operations, "share_of_limit": total / (seconds * _matrix_limit())}


def _matrix_limit() -> float:
    """Operations a second of PyTorch's float32 matrix product: the best of five."""
    a, b = torch.randn(2, MATRIX, MATRIX)
    return 2 * MATRIX**3 / min(_seconds(a, b) for _ in range(5))


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ b
    return time.perf_counter() - start


if __name__ == "__main__":
    page.run(main)
