"""What does the tutorial that this project started from claim about VGG, and what is true? And how fast is its script?

python -m experiments.tutorial.run --data cifar10 --measure
"""

from pathlib import Path

from experiments import page
from experiments.benchmarks.run import timings, ways_table
from experiments.rows import Row, append_row, read_rows
from experiments.tutorial.claims import (
    Claim,
    Deviations,
    Inference,
    check_claims,
    measure_deviations,
    measure_inference,
)
from experiments.tutorial.step_timing import bench_tutorial
from vggnet.errors import RunError
from vggnet.report.text import to_plain
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.run import STATE, Run

ROWS = Path(__file__).with_name("rows.jsonl")
INFERENCE, DEVIATIONS, STEP, FIRST_STEPS = "inference", "deviations", "step", "first steps"  # kinds of rows


def main(data: str | None = None, measure: bool = False, run: Path | None = None, rows: Path = ROWS) -> None:
    """Measure what the claims need, then write the tables of claims and of speed.

    Args:
        data: CIFAR-10, as `vgg train --data` takes it: measure the deviation of its pixels (a minute).
        measure: time VGG-16's inference, and a training step of the tutorial's script beside ours (a minute).
        run: a run folder of `vgg train --preset article` that Ctrl-C stopped: note how far and how fast it came.
        rows: a row for each measurement; the page is written beside it.
    """
    if data is not None:
        append_row(rows, {"kind": DEVIATIONS, **to_plain(measure_deviations(data))})
    if measure:
        append_row(rows, {"kind": INFERENCE, **to_plain(measure_inference())})
        bench = bench_tutorial()
        append_row(rows, {"kind": STEP, **timings({**to_plain(bench), "medians": bench.medians, "ratio": bench.ratio})})
    if run is not None:
        append_row(rows, {"kind": FIRST_STEPS, **first_steps(Run.open(run))})
    write_page(rows)


def first_steps(run: Run) -> Row:
    """How far and how fast a run came that was stopped within its first epoch."""
    position = Checkpoints(run.folder / STATE).newest_position()
    loss, correct = position.sums
    return {
        "command": page.train_command(run.description),
        "steps": position.step,
        "seconds_per_step": position.seconds / position.step,
        "loss": loss / position.images,
        "train_accuracy": correct / position.images,
        "batch_size": run.config.optimizer.batch_size,
        "epochs": run.config.schedule.epochs,
        "train_images": round(run.description["images"] * (1 - run.config.data.val_fraction)),
        "fingerprint": run.description["fingerprint"],
        "seed": run.config.run.seed,
        "environment": run.description["environment"],
    }


def write_page(path: Path) -> None:
    """Write the tables into the README.md beside the rows, from the newest row of each kind.

    Raises: RunError if no inference was measured.
    """
    newest = {row["kind"]: row for row in read_rows(path)}
    if INFERENCE not in newest:
        raise RunError(f"{path} has no measurement of inference; add --measure.")
    inference = Inference(**_fields(newest[INFERENCE], Inference))
    deviations = Deviations(**_fields(newest[DEVIATIONS], Deviations)) if DEVIATIONS in newest else None
    claims = check_claims(inference, deviations).claims
    readme = path.with_name("README.md")
    measured = f"Measured on {inference.machine}, {inference.environment['date']}."
    page.insert(readme, "claims", f"{claims_table(claims)}\n\n{measured}")
    if STEP in newest:
        page.insert(readme, "step", _step(newest[STEP]))
    if FIRST_STEPS in newest:
        page.insert(readme, "first steps", _first_steps(newest[FIRST_STEPS]))


def claims_table(claims: tuple[Claim, ...]) -> str:
    """A line for each claim."""
    lines = [[claim.claim, f"**{claim.verdict}**", claim.finding, claim.source] for claim in claims]
    return page.markdown(["claim", "verdict", "finding", "source of the finding"], lines, left=4)


def _step(row: Row) -> str:
    facts = {
        "command": "`python -m experiments.tutorial.run --measure`",
        "work": row["work"],
        "against the tutorial's script": f"**{row['ratio']:.2f} times as fast** (medians, measured in turns)",
    }
    return f"{page.facts(facts, row['environment'])}\n\n{ways_table(row)}"


def _first_steps(row: Row) -> str:
    hours = row["epochs"] * row["train_images"] / row["batch_size"] * row["seconds_per_step"] / 3600
    facts = {
        "command": f"`{row['command']}`, stopped by Ctrl-C",
        "time per step": f"{row['seconds_per_step']:.2f} s with loading "
        f"({row['batch_size'] / row['seconds_per_step']:.0f} images/s), {row['steps']} steps",
        "mean over these steps": f"loss {row['loss']:.3f} nats, training accuracy {100 * row['train_accuracy']:.1f} % "
        "(guessing: 2.303 nats, 10 %)",
        "the whole run": f"{hours:.1f} h: an estimate, {row['epochs']} epochs at this speed",
        "data": f"CIFAR-10, fingerprint of train {row['fingerprint']}",
        "seed": str(row["seed"]),
    }
    return page.facts(facts, row["environment"])


def _fields(row: Row, kind: type) -> Row:
    """Those that the dataclass has."""
    return {name: row[name] for name in kind.__dataclass_fields__ if name in row}  # type: ignore[attr-defined]


if __name__ == "__main__":
    page.run(main)
