"""Write a tested run into docs/results.md: python scripts/record_result.py RUN NAME

The section NAME is added, or replaced where it stands; results.png is copied to docs/results-NAME.png.
Nothing in these sections is typed by hand.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

from vggnet.training.checkpoints import Checkpoints
from vggnet.training.config import PRESETS
from vggnet.training.run import CURVES, STATE, Run

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder; with test.json if it is finished")
    parser.add_argument("name", help="name of the section")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    section = finished_section(run, arguments.name) if run.finished else unfinished_section(run)
    insert(DOCS / "results.md", arguments.name, section)


def finished_section(run: Run, name: str) -> str:
    """Accuracy, time and curve of a finished and tested run."""
    test = json.loads((run.folder / "test.json").read_text(encoding="utf-8"))
    shutil.copy(run.folder / CURVES, DOCS / f"results-{name}.png")
    seconds = [row["seconds"] for row in run.history]
    rows = {
        "command": f"`{command(run)}`",
        f"{test['split']} accuracy": f"**{100 * test['top1']:.2f} %** of {test['images']:,} images, touched once",
        "top-5 accuracy": f"{100 * test['top5']:.2f} %",
        "loss": f"{test['loss']:.4f} nats",
        "calibration error": f"{100 * test['calibration_error']:.2f} %",
        "training time": f"{sum(seconds) / 60:.1f} min with validation, {sum(seconds) / len(seconds):.1f} s an epoch",
        **environment(run),
    }
    classes = "\n".join(f"| {name} | {100 * accuracy:.1f} % |" for name, accuracy in test["per_class"].items())
    curve = f"![Loss and accuracy against epoch](results-{name}.png)"
    return f"{table(rows)}\n\n{curve}\n\n| class | accuracy |\n|---|---|\n{classes}"


def unfinished_section(run: Run) -> str:
    """How far and how fast a stopped run came."""
    position = Checkpoints(run.folder / STATE).newest_position()
    steps_per_epoch = len_train(run) / run.config.batch_size
    per_step = position.seconds / position.step
    hours = run.config.epochs * steps_per_epoch * per_step / 3600
    rows = {
        "command": f"`{command(run)}`, stopped by Ctrl-C",
        "steps": f"{position.step} of epoch {position.epoch + 1}",
        "time per step": f"{per_step:.2f} s, data included ({run.config.batch_size / per_step:.0f} images/s)",
        "mean over these steps": f"loss {position.loss_sum / position.images:.3f} nats, "
        f"training accuracy {100 * position.correct / position.images:.1f} % (guessing: 10 %, 2.303 nats)",
        "the whole run would take": f"{hours:.1f} h (an estimate: {run.config.epochs} epochs at this speed)",
        **environment(run),
    }
    return table(rows)


def len_train(run: Run) -> int:
    return round(run.description["images"] * (1 - run.config.val_fraction))


def command(run: Run) -> str:
    """What to type, with the place of the data as a variable."""
    preset = run.description["preset"]
    fields, defaults = run.config.as_dict(), PRESETS[preset].as_dict()
    changed = [f"--{key.replace('_', '-')} {value}" for key, value in fields.items() if value != defaults[key]]
    return " ".join(["vgg train --data $CIFAR10", f"--preset {preset}", *changed])


def environment(run: Run) -> dict[str, str]:
    facts = run.description["environment"]
    return {
        "seed": str(run.config.seed),
        "data": f"CIFAR-10, fingerprint of the training split {run.description['fingerprint']}",
        "hardware": f"{facts['cores']} cores of {facts['device']}, {facts['threads']} threads",
        "versions": f"vggnet {facts['vggnet']}, torch {facts['torch']}, Python {facts['python']}",
        "date": facts["date"],
    }


def table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def insert(path: Path, name: str, section: str) -> None:
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    text = path.read_text(encoding="utf-8")
    block = f"{begin}\n{section}\n{end}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n## {name}\n\n{block}\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
