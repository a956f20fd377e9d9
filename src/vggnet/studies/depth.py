"""Does depth help? Table 3 of the paper asked of small images: every column, plain, with an equal budget and seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from scipy.stats import ttest_ind

from vggnet.errors import NonFiniteError, check_at_least
from vggnet.evaluation.evaluate import test
from vggnet.models.table1 import layers, resolve
from vggnet.studies.fitting import folder_of, open_both
from vggnet.studies.rows import Row, Study, append_row, budget_of, find_row, read_rows, spread, train_or_resume
from vggnet.training.config import FAST, TrainConfig
from vggnet.training.run import Run

# Plain networks need a low rate; Glorot's initialization is the paper's own footnote to section 3.1.
BUDGET = replace(
    FAST,
    width=0.125, init="glorot", val_fraction=0.0, epochs=5, batch_size=128, optimizer="sgd", lr=0.05, warmup=0.2,
    momentum=0.9, weight_decay=5e-4, label_smoothing=0.0,
)  # fmt: skip
PLAIN = ("vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19", "vgg13_5x5")
WITH_NORM = ("vgg11_bn", "vgg16_bn", "vgg19_bn")
STUCK = 1.5  # a training accuracy of less than so many times guessing is a network that has learnt nothing


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
    """`better` has fewer errors than `worse`: what the article says, in pairs of entries."""

    text: str
    pairs: tuple[tuple[str, str], ...]


CLAIMS = (
    Claim("LRN does not help", (("A", "A-LRN"),)),
    Claim("3x3 beats 1x1", (("D", "C"),)),
    Claim("deeper is better", (("B", "A"), ("D", "B"), ("E", "D"))),
    Claim("two 3x3 beat one 5x5", (("B", "B-5x5"),)),
)


class DepthStudy(Study):
    """The rows of the finished runs: one for each entry and seed."""

    def as_table(self) -> str:
        """Markdown in the shape of the paper's Table 3, then a line for each claim."""
        lines = [
            "| ConvNet | weight layers | seeds | top-1 error (%) | top-5 error (%) | learnt nothing | minutes a run |",
            "|" + "---|" * 7,
        ]
        for label, rows in by_label(self.rows).items():
            learnt = [row for row in rows if not row["diverged"]]
            lines.append(
                f"| {label} | {rows[0]['weight_layers']} | {len(rows)} | {spread(errors(learnt, 'top1_error'))} "
                f"| {spread(errors(learnt, 'top5_error'))} | {len(rows) - len(learnt)} of {len(rows)} "
                f"| {mean(row['seconds'] for row in learnt or rows) / 60:.1f} |"
            )
        hours = sum(row["seconds"] for row in self.rows) / 3600
        lines += ["", f"All runs together took {hours:.1f} hours.", ""]
        return "\n".join([*lines, *(f"- {verdict}" for verdict in verdicts(self.rows))])


def study_depth(
    data: str | Path,
    *,
    seeds: int = 3,
    out: Path | str = "runs/depth",
    rows: Path | str = "docs/depth.jsonl",
    progress: bool = False,
    **fields: object,
) -> DepthStudy:
    """Train every entry with seeds 0 .. seeds - 1 on all of train, test it once, and append a row to `rows`.

    The last epoch is tested. What `rows` has already is not run again, and a stopped run goes on from its folder in
    `out`. `fields` replace single values of BUDGET. A run whose loss is no number any more, or that ends no better than
    guessing, is a row that says so. The study has the rows of this budget on these images alone, of every seed.
    Raises: ConfigError for no seed or an impossible value; otherwise as `train` and `test`.
    """
    check_at_least(1, seeds=seeds)
    path, budget = Path(rows), TrainConfig.from_dict({**BUDGET.as_dict(), **fields})
    fingerprint = open_both(data)[0].fingerprint
    for entry, config in _wanted(seeds, budget):
        if find_row(read_rows(path), "label", entry.label, config, fingerprint):
            continue
        row = _run(entry, config, data, fingerprint, Path(out), progress)
        if row is None:
            return _study(path, budget, fingerprint, finished=False)
        append_row(path, row)
    return _study(path, budget, fingerprint, finished=True)


def by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each entry that has some, in the order of the table; by the newest budget and data alone."""
    newest = [row for row in rows if budget_of(row) == budget_of(rows[-1])]
    groups = {entry.label: [row for row in newest if row["label"] == entry.label] for entry in ENTRIES}
    return {label: found for label, found in groups.items() if found}


def errors(rows: Sequence[Row], name: str) -> list[float]:
    """Percent."""
    return [100 * row[name] for row in rows]


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """For each claim and pair: the difference of the mean top-1 errors, and how likely chance alone makes it."""
    groups = {label: [row for row in found if not row["diverged"]] for label, found in by_label(rows).items()}
    for claim in CLAIMS:
        for better, worse in claim.pairs:
            ours, theirs = (errors(groups.get(label, []), "top1_error") for label in (better, worse))
            yield f"{claim.text} ({better} against {worse}): {_verdict(ours, theirs)}"


def _verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    if min(len(ours), len(theirs)) < 2:
        return "cannot be said; it takes two seeds of each that have learnt something."
    gain = mean(theirs) - mean(ours)
    chance = ttest_ind(ours, theirs, equal_var=False).pvalue
    word = "not decided" if chance > 0.05 else "agrees" if gain > 0 else "disagrees"
    return (
        f"**{word}**: {gain:+.2f} points fewer errors, of {len(ours)} and {len(theirs)} seeds; by chance alone a "
        f"difference as large comes with probability {chance:.2g} (Welch's t-test)."
    )


def _study(path: Path, budget: TrainConfig, fingerprint: str, *, finished: bool) -> DepthStudy:
    """The rows that may be compared: those of other budgets or data are left out."""
    ours = budget_of({"config": budget.as_dict(), "fingerprint": fingerprint})
    return DepthStudy(rows=[row for row in read_rows(path) if budget_of(row) == ours], finished=finished)


def _wanted(seeds: int, budget: TrainConfig) -> Iterator[tuple[Entry, TrainConfig]]:
    """Entries that start from A come after A."""
    for seed in range(seeds):
        for entry in ENTRIES:
            yield entry, replace(budget, model=entry.model, seed=seed)


def _run(
    entry: Entry, config: TrainConfig, data: str | Path, fingerprint: str, out: Path, progress: bool
) -> Row | None:
    """Train and test; None if Ctrl-C came."""
    folder = folder_of(out, entry.label, config, fingerprint)
    start = folder_of(out, A.label, replace(config, model=A.model), fingerprint) if entry.from_a else None
    facts = {**_facts(entry, config), "fingerprint": fingerprint}
    try:
        run = train_or_resume(data, folder, init_from=start, progress=progress, preset="fast", **config.as_dict())
    except NonFiniteError:
        return {**facts, "diverged": True, "top1_error": None, "top5_error": None, "seconds": 0.0}
    return {**facts, **_found(run, data)} if run.finished else None


def _found(run: Run, data: str | Path) -> Row:
    """The finished run, tested."""
    result = test(run.weights, data=data)
    last = run.history[-1]
    guessing = 1 / len(run.description["classes"])
    return {
        "diverged": last["train_accuracy"] < STUCK * guessing,
        "top1_error": 1 - result.top1, "top5_error": 1 - result.top5, "train_loss": last["train_loss"],
        "train_accuracy": last["train_accuracy"], "images": result.images,
        "seconds": sum(row["seconds"] for row in run.history), "environment": run.description["environment"],
    }  # fmt: skip


def _facts(entry: Entry, config: TrainConfig) -> Row:
    convolutions = sum(layer.kind == "conv" for layer in layers(resolve(entry.model).column))
    return {
        "label": entry.label, "seed": config.seed, "weight_layers": convolutions + 1, "config": config.as_dict()
    }  # fmt: skip
