"""Build weights that come with the package from a finished run of experiments/speed, and their card in docs/weights.md.

python -m scripts.ship ship RUN NAME    RUN's weights in float16 -> src/vggnet/weights/shipped/NAME.safetensors
python -m scripts.ship card NAME        their card -> docs/weights.md
"""

import argparse
import json
import sys
from pathlib import Path

from experiments import page
from experiments.rows import find_row, read_rows
from experiments.speed.run import ROWS
from vggnet.training.config import TrainConfig
from vggnet.training.presets import preset
from vggnet.training.run import Run
from vggnet.weights.checkpoint import Checkpoint, load, save
from vggnet.weights.registry import SHIPPED_FOLDER, read_shipped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_ship = commands.add_parser("ship")
    of_ship.add_argument("run", type=Path, help="a run folder")
    for command in (of_ship, commands.add_parser("card")):
        command.add_argument("name", help="as `vgg weights list` shows it")
    arguments = parser.parse_args()
    if arguments.command == "ship":
        ship(Run.open(arguments.run), arguments.name)
    else:
        page.insert(page.ROOT / "docs" / "weights.md", arguments.name, card_section(arguments.name))


def ship(run: Run, name: str) -> None:
    """Put the weights of a run into the package, with the notes that its card is made from."""
    about = run.description
    row = find_row(read_rows(ROWS), "preset", about["preset"], run.config, about["fingerprint"])
    if row is None:
        sys.exit(f"{ROWS} has no row of {run.folder}; let the experiment finish first.")
    notes = {
        "data": "cifar10", "preset": row["preset"], "seed": row["seed"], "top1": row["top1"],
        "top1_six_views": row["top1_six_views"], "per_class": row["per_class"], "test_images": row["images"],
        "config": row["config"], "seconds": row["seconds"], "fingerprint": row["fingerprint"],
        "environment": row["environment"],
    }  # fmt: skip
    path = SHIPPED_FOLDER / f"{name}.safetensors"
    save(load(run.folder).half(), path, provenance=notes)
    print(json.dumps({"file": path.name, "megabytes": path.stat().st_size / 1e6}))


def card_section(name: str) -> str:
    """Facts of named weights, from the notes they carry."""
    found = read_shipped(name)
    notes = Checkpoint.open(name).provenance
    changed = page.changed_options(
        TrainConfig.from_dict(notes["config"]).as_options(), preset(found.preset).as_options()
    )
    views = "as they are", "by six views of each (mirror, shifts by a pixel)"
    accuracies = zip((found.top1, found.top1_six_views), views, strict=True)
    facts = {
        "network": f"{found.model} of width {found.width:g}, {found.num_classes} classes, "
        f"{found.megabytes} MB in float16",
        "data": f"all of CIFAR-10's train (fingerprint {notes['fingerprint']}), images of 32x32 pixels",
        "recipe": f"`vgg train --data $CIFAR10 --preset {found.preset} {' '.join(changed)}`, "
        f"{notes['seconds'] / 60:.1f} min",
        "test accuracy": ", ".join(f"**{100 * accuracy:.2f} %** {how}" for accuracy, how in accuracies)
        + f"; {found.test_images:,} images, evaluated once",
        "limits": "knows ten classes and predicts one of them for any image; was trained on small images of one object "
        "each; a photo is resized to 32 pixels and loses its details; label smoothing lowers its confidence",
    }
    classes = [[label, f"{100 * accuracy:.1f} %"] for label, accuracy in notes["per_class"].items()]
    return f"{page.facts(facts, notes['environment'])}\n\n{page.markdown(['class', 'accuracy by six views'], classes)}"


if __name__ == "__main__":
    main()
