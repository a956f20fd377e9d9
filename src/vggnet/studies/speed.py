"""How accurate a network is after how much time: the presets trained on all training images and tested once."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import mean, median

import torch
from torch.utils.flop_counter import FlopCounterMode

from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, check_at_least
from vggnet.evaluation.evaluate import test
from vggnet.models.vgg import Architecture, empty
from vggnet.studies.bench import cpu_environment
from vggnet.studies.bench_article import ARTICLE_WAY, bench_article
from vggnet.studies.fitting import folder_of, open_both
from vggnet.studies.rows import Row, Study, append_row, budget_of, find_row, read_rows, spread, train_or_resume
from vggnet.training.config import ARTICLE, PRESETS, TrainConfig
from vggnet.training.run import Run

MATRIX = 2048  # side of the matrix product that gives the cores' limit


class SpeedStudy(Study):
    """The rows of the finished runs: one for each preset and seed, and the article's estimate."""

    def as_table(self) -> str:
        """Markdown: a line for each preset, with mean and standard deviation over its seeds."""
        lines = [
            "| preset | network | epochs | seeds | test accuracy (%) | with six views (%) | minutes | s an epoch "
            "| operations an image | share of the limit | measured |",
            "|" + "---|" * 11,
        ]
        for preset, rows in by_preset(self.rows).items():
            config = rows[0]["config"]
            network = f"{config['model']}, width {config['width']:g}"
            seeds = ", ".join(str(row["seed"]) for row in rows if not row["estimate"]) or "none: an estimate"
            minutes = [row["seconds"] / 60 for row in rows]
            lines.append(
                f"| {preset} | {network} | {config['epochs']} | {seeds} | {spread(percents(rows, 'top1'))} "
                f"| {spread(percents(rows, 'top1_six_views'))} | {mean(minutes):.1f} "
                f"| {mean(row['seconds'] for row in rows) / config['epochs']:.1f} "
                f"| {rows[0]['operations_per_image']:.2e} | {100 * mean(row['share_of_limit'] for row in rows):.0f} % "
                f"| {max(row['environment']['date'] for row in rows)} |"
            )
        return "\n".join(lines)


def study_speed(
    data: str | Path,
    *,
    presets: Sequence[str] = ("quick", "fast"),
    seeds: int = 3,
    out: Path | str = "runs/speed",
    rows: Path | str = "docs/speed.jsonl",
    progress: bool = False,
) -> SpeedStudy:
    """Train each preset with seeds 0 .. seeds - 1 on all of train, test it once, and append a row to `rows`.

    The last epoch is tested, as it is and by six views. What `rows` has already is not run again, and a run that was
    stopped goes on from its folder in `out`: a study survives any stop. The article's preset is timed for a few steps
    only; its row says that the time is an estimate. The study has the rows of these images alone.
    Raises: ConfigError for an unknown preset or no seed; otherwise as `train` and `test`.
    """
    if unknown := [preset for preset in presets if preset not in PRESETS]:
        raise ConfigError(f"unknown preset {unknown[0]!r}. The presets are {', '.join(PRESETS)}.")
    check_at_least(1, seeds=seeds)
    path = Path(rows)
    wanted = [
        (preset, replace(PRESETS[preset], seed=seed, val_fraction=0.0)) for seed in range(seeds) for preset in presets
    ]
    fingerprint = open_both(data)[0].fingerprint
    for preset, config in wanted:
        if find_row(read_rows(path), "preset", preset, config, fingerprint):
            continue
        folder = folder_of(Path(out), preset, config, fingerprint)
        run = train_or_resume(data, folder, preset=preset, seed=config.seed, val_fraction=0.0, progress=progress)
        if not run.finished:
            return _study(path, fingerprint, finished=False)
        append_row(path, _row(preset, config, run, data))
    if not find_row(read_rows(path), "preset", "article", ARTICLE, fingerprint):
        append_row(path, _article_row(data, progress))
    return _study(path, fingerprint, finished=True)


def by_preset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each preset, those with its newest configuration and data alone."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        same = [other for other in groups.get(row["preset"], []) if budget_of(other) == budget_of(row)]
        groups[row["preset"]] = [*same, row]
    return groups


def _study(path: Path, fingerprint: str, *, finished: bool) -> SpeedStudy:
    rows = [row for row in read_rows(path) if row["fingerprint"] == fingerprint]
    return SpeedStudy(rows=rows, finished=finished)


def _row(preset: str, config: TrainConfig, run: Run, data: str | Path) -> Row:
    """The finished run, tested."""
    results = {views: test(run.weights, data=data, views=views) for views in (1, 6)}
    seconds = sum(row["seconds"] for row in run.history)
    return {
        "preset": preset, "seed": config.seed, "estimate": False, "top1": results[1].top1,
        "top1_six_views": results[6].top1, "per_class": results[6].per_class, "images": results[1].images,
        "seconds": seconds,
        **_work(config, run.description["images"], seconds), "config": config.as_dict(),
        "fingerprint": run.description["fingerprint"], "environment": run.description["environment"],
    }  # fmt: skip


def _article_row(data: str | Path, progress: bool) -> Row:
    """The whole of the article's training at the speed of a few of its steps."""
    source = open_source(data, "train")
    per_step = median(bench_article(progress=progress).seconds[ARTICLE_WAY])
    images = round(len(source) * (1 - ARTICLE.val_fraction))
    seconds = per_step * -(-images // ARTICLE.batch_size) * ARTICLE.epochs
    return {
        "preset": "article", "seed": ARTICLE.seed, "estimate": True, "top1": None, "top1_six_views": None,
        "images": 0, "seconds": seconds, **_work(ARTICLE, images, seconds), "config": ARTICLE.as_dict(),
        "fingerprint": source.fingerprint, "environment": {**cpu_environment(), "date": f"{date.today()}"},
    }  # fmt: skip


def _work(config: TrainConfig, images: int, seconds: float) -> dict[str, float]:
    """Operations of training on one image once, and the share that they are of what the cores could multiply.

    Three times a forward pass, counted as direct convolutions do them: two operations a multiplication. Winograd's
    need fewer, so the share may be above 1.
    """
    network = empty(Architecture(name=config.model, num_classes=10, head=config.head, width=config.width))
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, config.in_channels, config.crop, config.crop, device="meta"))
    operations = 3 * counter.get_total_flops()
    total = operations * images * config.epochs
    return {"operations_per_image": operations, "share_of_limit": total / (seconds * _matrix_limit())}


def _matrix_limit() -> float:
    """Operations a second of PyTorch's float32 matrix product: the best of five."""
    a, b = torch.randn(2, MATRIX, MATRIX)
    return 2 * MATRIX**3 / min(_seconds(a, b) for _ in range(5))


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ b
    return time.perf_counter() - start


def percents(rows: Sequence[Row], name: str) -> list[float]:
    """Of the rows that were tested."""
    return [100 * row[name] for row in rows if row[name] is not None]
