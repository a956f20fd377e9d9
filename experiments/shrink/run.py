"""How small can VGG-16 become at which accuracy? One shrinking by `vggnet.compression.shrink`, a row, and the page.

python -m experiments.shrink.run RUN --data cifar10 --case channels --seed 0
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Literal, NamedTuple

from tyro.conf import Positional

from experiments import page
from experiments.rows import Row, append_row, percents, read_rows, spread
from experiments.shrink.figure import draw_shrink
from vggnet.benchmarking.timing import cpu_environment
from vggnet.compression.shrink import shrink
from vggnet.compression.shrink_options import ShrinkOptions
from vggnet.errors import ConfigError
from vggnet.training.run import Run
from vggnet.weights.checkpoint import Checkpoint

ROWS = Path(__file__).with_name("rows.jsonl")


class Published(NamedTuple):
    """A published result for VGG-16 with batch norm on CIFAR-10."""

    method: str
    accuracy: float  # %
    parameters: float  # % removed
    macs: float  # % removed
    given: float = 93.96  # % before


PUBLISHED = (
    Published("CORING-C-5 (Pham et al. 2024)", 94.42, 81.6, 58.1),
    Published("CHIP (Sui et al. 2021)", 93.86, 81.6, 58.1),
    Published("CORING-C-15", 94.20, 83.3, 66.6),
    Published("AutoBot (Castells & Yeom 2021)", 94.01, 57.0, 65.3),
    Published("CORING-C-10", 93.83, 87.3, 78.6),
    Published("CHIP", 93.18, 87.3, 78.6),
    Published("HRank (Lin et al. 2020)", 92.34, 82.1, 65.3),
    Published("DCFF (Lin et al. 2021)", 93.47, 92.8, 76.8),
    Published("Network slimming (Liu et al. 2017), VGG-19", 93.80, 88.5, 51.0, given=93.66),
)


class Shrinking(NamedTuple):
    """What is done to a network."""

    steps: tuple[str, ...]  # the last stores the weights, so the network before it is timed
    options: ShrinkOptions


def _pruned(to_macs: float, to_size: int, floor: float) -> Shrinking:
    """The given network was fine-tuned itself, at a quarter of the rates of `fast`; pruned, it starts at half of them.

    The second half of these epochs is then the schedule that the given network had.
    """
    options = ShrinkOptions(criterion="chip", epochs=24, rate=2.0, to_macs=to_macs, to_size=to_size, floor=floor)
    return Shrinking(("prune", "distill", "fold", "quantize"), options)


Case = Literal["channels", "500kB", "250kB", "rank-384", "rank-1024"]
CASES: Mapping[Case, Shrinking] = {
    "channels": _pruned(0.4, 2_700_000, 0.1),
    "500kB": _pruned(0.25, 500_000, 0.05),
    "250kB": _pruned(0.25, 250_000, 0.05),
    "rank-384": Shrinking(("factorize", "quantize"), ShrinkOptions(rank=384)),
    "rank-1024": Shrinking(("factorize", "quantize"), ShrinkOptions(rank=1024)),
}


def main(
    run: Positional[Path | None] = None,
    data: str | None = None,
    case: Case = "channels",
    seed: int = 0,
    out: Path = Path("runs/shrink"),
    rows: Path = ROWS,
) -> None:
    """Shrink the network of a run, trained on all of train, test it once, add a row, and write the page.

    Args:
        run: of the network to shrink; without it the page is written from the rows.
        data: of the run, as `vgg train --data` takes it.
        case: what to remove: channels up to 40 % of the multiply-adds and a file of 2.7 MB, or up to a file of this
            size; or fully connected layers to this rank.
        seed: of the training behind pruning.
        out: the folder of the files; Ctrl-C stops, and the same command goes on.
        rows: a row for each shrinking; the page is written beside it.
    """
    if run is not None:
        if data is None:
            raise ConfigError("each case looks at training images and is tested, so it needs data. Give --data.")
        append_row(rows, row_of(Run.open(run), data, case, seed, out))
    write_page(rows)


def row_of(run: Run, data: str, case: Case, seed: int, out: Path) -> Row:
    """A shrinking, tested."""
    steps, options = CASES[case]
    recipe = run.config.override(seed=seed, val_fraction=0.0, teacher=None)  # pruned networks learn from the given one
    file = out / f"{case}-{seed}.safetensors"
    result = shrink(run.weights, steps, file, options, data=data, recipe=recipe, progress=True)
    given, timed, last = result.rows[0], result.rows[-2], result.rows[-1]
    return {
        "case": case, "seed": seed, "data": Path(data).name, "steps": list(steps), "options": asdict(options),
        "top1_given": given.test_accuracy, "top1": last.test_accuracy,
        "parameters_given": given.parameters, "parameters": last.parameters,
        "macs_given": given.macs, "macs": last.macs,
        "file_bytes_given": run.weights.stat().st_size, "file_bytes": result.file_bytes,
        "latency_given": given.latency, "latency": timed.latency,
        "images_per_second_given": given.images_per_second, "images_per_second": timed.images_per_second,
        "architecture": Checkpoint.open(result.out).architecture.as_dict(),
        "config": recipe.as_options(), "fingerprint": run.description["fingerprint"], "environment": cpu_environment(),
    }  # fmt: skip


def write_page(path: Path) -> None:
    """Write the tables into the README.md beside the rows, and draw the figure."""
    rows = read_rows(path)
    groups: dict[tuple[Case, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["top1_given"]), []).append(row)
    pruned = [runs for (case, _), runs in groups.items() if "prune" in CASES[case].steps]
    draw_shrink(
        [(mean(percents(runs, "top1")), 100 * _left(runs, "macs")) for runs in pruned],
        [(one.accuracy, 100 - one.macs) for one in PUBLISHED],
        path.with_name("figure.png"),
    )
    data = dict.fromkeys(f"{row['data']} (fingerprint of train {row['fingerprint']})" for row in rows)
    facts = {"data": f"{', '.join(data)}; each network tested after its last step only"}
    picture = "![Test accuracy against multiply-adds that remain](figure.png)"
    sections = [page.facts(facts, rows[-1]["environment"]), table(groups), published(), picture]
    page.insert(path.with_name("README.md"), "shrink", "\n\n".join(sections))


def table(groups: Mapping[tuple[Case, float], Sequence[Row]]) -> str:
    """A line for each case and given network, with mean and standard deviation over its seeds."""
    headings = [
        "case", "data", "epochs", "given (%)", "seeds", "test accuracy (%)", "drop (points)", "parameters removed (%)",
        "MACs removed (%)", "file given (MB)", "file (MB)", "speed-up, 1 image", "speed-up, batch",
    ]  # fmt: skip
    lines = [
        [
            case,
            runs[0]["data"],
            runs[0]["options"]["epochs"] if set(runs[0]["steps"]) & {"distill", "tune"} else "-",
            f"{100 * runs[0]['top1_given']:.2f}",
            len(runs),
            spread(percents(runs, "top1")),
            f"{100 * runs[0]['top1_given'] - mean(percents(runs, 'top1')):.2f}",
            f"{100 * (1 - _left(runs, 'parameters')):.1f}",
            f"{100 * (1 - _left(runs, 'macs')):.1f}",
            *(f"{mean(row[name] for row in runs) / 1e6:,.2f}" for name in ("file_bytes_given", "file_bytes")),
            f"{mean(row['latency_given'] / row['latency'] for row in runs):.1f}",
            f"{mean(row['images_per_second'] / row['images_per_second_given'] for row in runs):.1f}",
        ]
        for (case, _), runs in groups.items()
    ]
    return page.markdown(headings, lines, left=2)


def published() -> str:
    """What papers report."""
    headings = [
        "published", "given (%)", "test accuracy (%)", "drop (points)", "parameters removed (%)", "MACs removed (%)",
    ]  # fmt: skip
    lines = [
        [
            one.method,
            *(f"{x:.2f}" for x in (one.given, one.accuracy, one.given - one.accuracy)),
            one.parameters,
            one.macs,
        ]
        for one in PUBLISHED
    ]
    return page.markdown(headings, lines)


def _left(runs: Sequence[Row], name: str) -> float:
    """The share of parameters or multiply-adds that remains, mean over seeds."""
    return float(mean(row[name] / row[f"{name}_given"] for row in runs))


if __name__ == "__main__":
    page.run(main)
