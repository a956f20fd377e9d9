"""Does depth help on CIFAR-10? Every column of the paper's Table 1 with an equal budget, several seeds each.

python -m experiments.depth.run --data cifar10
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from scipy.stats import ttest_ind

from experiments import page
from experiments.depth.figure import draw_depth
from experiments.rows import Row, append_row, budget_of, find_row, percents, read_rows, spread
from experiments.training import evaluate_run, folder_of, open_both, train_or_resume
from vggnet.errors import NonFiniteError, check_at_least
from vggnet.models.table1 import layers, resolve
from vggnet.training.config import TrainConfig
from vggnet.training.presets import preset
from vggnet.training.run import Run

ROWS = Path(__file__).with_name("rows.jsonl")
# Plain networks need a low rate; Glorot's initialization is the paper's own footnote to section 3.1.
BUDGET = preset("fast").override(
    width=0.125, init="glorot", val_fraction=0.0, epochs=5, batch_size=128, optimizer="sgd", lr=0.05, warmup=0.2,
    momentum=0.9, weight_decay=5e-4, label_smoothing=0.0,
)  # fmt: skip
PLAIN = ("vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19", "vgg13_5x5")
WITH_NORM = ("vgg11_bn", "vgg16_bn", "vgg19_bn")
STUCK = 1.5  # a training accuracy below so many times guessing is a network that has learned nothing


class Entry(NamedTuple):
    """One line of the table: a network, and where its weights start."""

    model: str
    from_a: bool = False  # from the trained column A of the same seed, as the paper's deeper columns (section 3.1)

    @property
    def label(self) -> str:
        """As rows and the table have it: the paper's letter."""
        network = resolve(self.model)
        letter = f"{network.column} with batch norm" if network.batch_norm else network.column
        return f"{letter}, from A" if self.from_a else letter


A = Entry("vgg11")
ENTRIES = (*map(Entry, PLAIN), Entry("vgg16", from_a=True), Entry("vgg19", from_a=True), *map(Entry, WITH_NORM))


class Claim(NamedTuple):
    """`better` has a lower error than `worse`: what the tutorial says, in pairs of entries."""

    text: str
    pairs: tuple[tuple[str, str], ...]


CLAIMS = (
    Claim("LRN does not help", (("A", "A-LRN"),)),
    Claim("3x3 beats 1x1", (("D", "C"),)),
    Claim("deeper is better", (("B", "A"), ("D", "B"), ("E", "D"))),
    Claim("two 3x3 beat one 5x5", (("B", "B-5x5"),)),
)


def main(
    data: str | None = None,
    width: float = BUDGET.model.width,
    epochs: int = BUDGET.schedule.epochs,
    seeds: int = 3,
    out: Path = Path("runs/depth"),
    rows: Path = ROWS,
) -> None:
    """Train and test every network that has no row yet, then write the table, the verdicts and the figure.

    Args:
        data: CIFAR-10, as `vgg train --data` takes it; without it page and figure are written from the rows.
        width: multiplies the channels of the convolutions.
        epochs: of each run.
        seeds: runs of each network.
        out: the run folders, which networks that start from column A need.
        rows: a row for each finished run; page and figure are written beside it.
    """
    if data is not None:
        measure(data, seeds=seeds, out=out, rows=rows, width=width, epochs=epochs)
    write_page(rows)


def measure(data: str | Path, *, seeds: int, out: Path, rows: Path, **fields: object) -> list[Row]:
    """Train every entry with seeds 0 .. seeds - 1 on all of train, and test its last epoch once.

    A run whose loss is NaN, or that ends no better than guessing, is a row that says so.

    Args:
        data: as `vgg train` takes it.
        seeds: runs of each entry.
        out: the run folders.
        rows: where a row for each finished run is appended; what has a row is not run again.
        fields: values that replace those of BUDGET.

    Returns:
        The rows of this budget on these images, of every seed.
    """
    check_at_least(1, seeds=seeds)
    budget = BUDGET.override(**fields)
    fingerprint = open_both(data)[0].fingerprint
    for seed in range(seeds):
        for entry in ENTRIES:  # those that start from A come after A
            config = budget.override(model=entry.model, seed=seed)
            if not find_row(read_rows(rows), "label", entry.label, config, fingerprint):
                append_row(rows, _row(entry, config, data, fingerprint, out))
    ours = budget_of({"config": budget.as_options(), "fingerprint": fingerprint})
    return [row for row in read_rows(rows) if budget_of(row) == ours]


def write_page(path: Path) -> None:
    """Write the table and the verdicts into the README.md beside the rows, and draw the figure."""
    rows = read_rows(path)
    draw_depth(by_label(rows), path.with_name("figure.png"))
    budget, tested = rows[-1]["config"], next(row for row in reversed(rows) if "images" in row)
    facts = {
        "command": f"`python -m experiments.depth.run --data $CIFAR10 --width {budget['width']} "
        f"--epochs {budget['epochs']}`",
        "data": f"CIFAR-10: all of train (fingerprint {tested['fingerprint']}), {tested['images']:,} test images",
        "budget": f"{budget['epochs']} epochs, width {budget['width']}, batch {budget['batch_size']}, SGD with rate "
        f"{budget['lr']}, {budget['init']} initialization, one fully connected layer",
    }
    hours = sum(row["seconds"] for row in rows) / 3600
    section = [
        page.facts(facts, tested["environment"]),
        table(rows),
        f"All runs together took {hours:.1f} hours.",
        "\n".join(f"- {verdict}" for verdict in verdicts(rows)),
        "![Top-1 error of each network](figure.png)",
    ]
    page.insert(path.with_name("README.md"), "depth", "\n\n".join(section))


def table(rows: Sequence[Row]) -> str:
    """In the shape of the paper's Table 3."""
    headings = [
        "ConvNet", "weight layers", "seeds", "top-1 error (%)", "top-5 error (%)", "learned nothing", "minutes a run",
    ]  # fmt: skip
    lines = []
    for label, found in by_label(rows).items():
        learned = [row for row in found if not row["diverged"]]
        minutes = mean(row["seconds"] for row in learned or found) / 60
        errors = [spread(percents(learned, name)) for name in ("top1_error", "top5_error")]
        stuck = f"{len(found) - len(learned)} of {len(found)}"
        lines.append([label, found[0]["weight_layers"], len(found), *errors, stuck, f"{minutes:.1f}"])
    return page.markdown(headings, lines)


def by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each entry, in the order of the table; only those with the budget and data of the newest row."""
    newest = [row for row in rows if budget_of(row) == budget_of(rows[-1])]
    groups = {entry.label: [row for row in newest if row["label"] == entry.label] for entry in ENTRIES}
    return {label: found for label, found in groups.items() if found}


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """For each claim and pair: the difference of the mean top-1 errors, and how likely it is by chance."""
    groups = {label: [row for row in found if not row["diverged"]] for label, found in by_label(rows).items()}
    for claim in CLAIMS:
        for better, worse in claim.pairs:
            ours, theirs = (percents(groups.get(label, []), "top1_error") for label in (better, worse))
            yield f"{claim.text} ({better} against {worse}): {_verdict(ours, theirs)}"


def _verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    if min(len(ours), len(theirs)) < 2:
        return "no verdict; it takes two seeds of each that have learned something."
    gain = mean(theirs) - mean(ours)
    chance = ttest_ind(ours, theirs, equal_var=False).pvalue
    word = "not decided" if chance > 0.05 else "agrees" if gain > 0 else "disagrees"
    return (
        f"**{word}**: {gain:+.2f} points in its favor, from {len(ours)} and {len(theirs)} seeds; a difference this "
        f"large occurs by chance with probability {chance:.2g} (Welch's t-test)."
    )


def _row(entry: Entry, config: TrainConfig, data: str | Path, fingerprint: str, out: Path) -> Row:
    """Train and test."""
    convolutions = sum(layer.kind == "conv" for layer in layers(resolve(entry.model).column))
    about = {
        "label": entry.label, "seed": config.run.seed, "weight_layers": convolutions + 1, "config": config.as_options(),
        "fingerprint": fingerprint,
    }  # fmt: skip
    folder = folder_of(out, entry.label, config, fingerprint)
    start = folder_of(out, A.label, config.override(model=A.model), fingerprint) if entry.from_a else None
    try:
        run = train_or_resume(data, folder, config, init_from=start)
    except NonFiniteError:
        return {**about, "diverged": True, "top1_error": None, "top5_error": None, "seconds": 0.0}
    return {**about, **_tested(run, data)}


def _tested(run: Run, data: str | Path) -> Row:
    result = evaluate_run(run, data)
    last = run.history[-1]
    guessing = 1 / len(run.description["classes"])
    return {
        "diverged": last["train_accuracy"] < STUCK * guessing,
        "top1_error": 1 - result.top1, "top5_error": 1 - result.top5, "train_loss": last["train_loss"],
        "train_accuracy": last["train_accuracy"], "images": result.images,
        "seconds": sum(row["seconds"] for row in run.history), "environment": run.description["environment"],
    }  # fmt: skip


if __name__ == "__main__":
    page.run(main)
