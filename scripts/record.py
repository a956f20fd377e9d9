"""Write measured results into docs/, so that no number there is typed by hand.

    python scripts/record.py run RUN NAME     a finished and tested run, or one stopped by Ctrl-C -> docs/results.md
    python scripts/record.py augment          runs benchmarks/augment.py -> docs/benchmarks.md
    python scripts/record.py overhead DATA    runs benchmarks/overhead.py on CIFAR-10 -> docs/benchmarks.md
    python scripts/record.py photos FOLDER    runs benchmarks/photos.py on photos -> docs/benchmarks.md
    python scripts/record.py decoding FOLDER  runs benchmarks/decoding.py on photos -> docs/benchmarks.md
    python scripts/record.py bench NAME ...   runs vgg bench with these options -> docs/benchmarks.md
    python scripts/record.py speed            the rows of vgg study speed -> docs/results.md, both READMEs, a picture
    python scripts/record.py card NAME        weights that come with the package -> docs/weights.md
    python scripts/record.py depth            the rows of vgg study depth -> docs/depth.md, and their picture
    python scripts/record.py transfer         the rows of vgg study transfer -> docs/transfer.md
    python scripts/record.py finetuned RUN    a run that started from other weights, tested -> docs/transfer.md
    python scripts/record.py localize RUN     tests a run that gives boxes -> docs/localization.md
    python scripts/record.py drawbacks        the rows of vgg study drawbacks -> docs/drawbacks.md, and their picture
    python scripts/record.py compare          the rows of vgg compare -> docs/compare.md, and their picture
    python scripts/record.py same-training    the rows of benchmarks/same_training.py -> docs/benchmarks.md

A section that is there already is replaced.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from vggnet.devices import environment
from vggnet.evaluation.localization import localize
from vggnet.report.figures import draw_depth, draw_speed
from vggnet.report.study_figures import draw_drawbacks
from vggnet.studies.compare import Comparison, draw_comparison
from vggnet.studies.depth import DepthStudy, by_label
from vggnet.studies.drawbacks import DrawbacksStudy, by_part
from vggnet.studies.rows import append_row, read_rows, spread
from vggnet.studies.speed import SpeedStudy, by_preset, percents
from vggnet.studies.transfer import TransferStudy
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.config import PRESETS, TrainConfig
from vggnet.training.run import CURVES, STATE, Run
from vggnet.training.starting import starting_config
from vggnet.weights.named import card, find

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_run = commands.add_parser("run")
    of_run.add_argument("run", type=Path, help="a run folder")
    of_run.add_argument("name", help="name of the section")
    of_run.add_argument("--note", help="how the run went, where that is not plain sailing")
    commands.add_parser("augment")
    of_overhead = commands.add_parser("overhead")
    of_overhead.add_argument("data", help="CIFAR-10")
    of_photos = commands.add_parser("photos")
    of_photos.add_argument("folder", help="with a thousand photos")
    of_decoding = commands.add_parser("decoding")
    of_decoding.add_argument("folder", help="with photos in a folder a class")
    commands.add_parser("same-training")
    commands.add_parser("speed")
    commands.add_parser("depth")
    commands.add_parser("transfer")
    of_tuned = commands.add_parser("finetuned")
    of_tuned.add_argument("run", type=Path, help="a run folder")
    of_boxes = commands.add_parser("localize")
    of_boxes.add_argument("run", type=Path, help="a run folder")
    commands.add_parser("drawbacks")
    commands.add_parser("compare")
    of_weights = commands.add_parser("card")
    of_weights.add_argument("name", help="as `vgg weights list` shows it")
    bench = commands.add_parser("bench")
    bench.add_argument("name", help="name of the section")
    arguments, options = parser.parse_known_args()
    if arguments.command == "augment":
        insert(DOCS / "benchmarks.md", "augmentation", augment_section())
    elif arguments.command == "overhead":
        insert(DOCS / "benchmarks.md", "overhead", overhead_section(arguments.data))
    elif arguments.command == "photos":
        insert(DOCS / "benchmarks.md", "photos", photos_section(arguments.folder))
    elif arguments.command == "decoding":
        insert(DOCS / "benchmarks.md", "decoding", decoding_section(arguments.folder))
    elif arguments.command == "same-training":
        insert(DOCS / "benchmarks.md", "same-training", same_training_section())
    elif arguments.command == "speed":
        insert(DOCS / "results.md", "speed", speed_section())
        insert(ROOT / "README.md", "speed", speed_at_a_glance(ENGLISH))
        insert(ROOT / "README.zh-CN.md", "speed", speed_at_a_glance(CHINESE))
    elif arguments.command == "depth":
        insert(DOCS / "depth.md", "depth", depth_section())
    elif arguments.command == "transfer":
        insert(DOCS / "transfer.md", "transfer", transfer_section())
    elif arguments.command == "finetuned":
        append_row(DOCS / "finetuned.jsonl", finetuned_row(Run.open(arguments.run)))
        insert(DOCS / "transfer.md", "finetuned", finetuned_section())
    elif arguments.command == "localize":
        append_row(DOCS / "localization.jsonl", localization_row(Run.open(arguments.run)))
        insert(DOCS / "localization.md", "localization", localization_section())
    elif arguments.command == "drawbacks":
        insert(DOCS / "drawbacks.md", "drawbacks", drawbacks_section())
    elif arguments.command == "compare":
        insert(DOCS / "compare.md", "compare", compare_section())
    elif arguments.command == "card":
        insert(DOCS / "weights.md", arguments.name, card_section(arguments.name))
    elif arguments.command == "bench":
        insert(DOCS / "benchmarks.md", arguments.name, bench_section(options))
    else:
        run = Run.open(arguments.run)
        section = finished_section(run, arguments.name, arguments.note) if run.finished else stopped_section(run)
        insert(DOCS / "results.md", arguments.name, section)


def finished_section(run: Run, name: str, note: str | None) -> str:
    """Accuracy, time and curve of a finished and tested run."""
    test = json.loads((run.folder / "test.json").read_text(encoding="utf-8"))
    shutil.copy(run.folder / CURVES, DOCS / f"results-{name}.png")
    seconds = [row["seconds"] for row in run.history]
    rows = {
        "command": f"`{command(run.description)}`, then `vgg test RUN`",
        f"{test['split']} accuracy": f"**{100 * test['top1']:.2f} %** of {test['images']:,} images, touched once",
        "top-5 accuracy": f"{100 * test['top5']:.2f} %",
        "loss": f"{test['loss']:.4f} nats",
        "calibration error": f"{100 * test['calibration_error']:.2f} %",
        "training time": f"{sum(seconds) / 60:.1f} min with validation, {sum(seconds) / len(seconds):.1f} s an epoch",
        "data": f"{Path(run.data).name}, fingerprint of train {run.description['fingerprint']}, of test "
        f"{test['fingerprint']}",
        "seed": str(run.config.seed),
        **({"note": note} if note else {}),
        **owners(run.description["environment"]),
    }
    classes = "\n".join(f"| {label} | {100 * accuracy:.1f} % |" for label, accuracy in test["per_class"].items())
    curve = f"![Loss and accuracy against epoch](results-{name}.png)"
    return f"{table(rows)}\n\n{curve}\n\n| class | accuracy |\n|---|---|\n{classes}"


def stopped_section(run: Run) -> str:
    """How far and how fast a run came that was stopped within its first epoch."""
    position = Checkpoints(run.folder / STATE).newest_position()
    batch_size, epochs = run.config.batch_size, run.config.epochs
    per_step = position.seconds / position.step
    steps = epochs * run.description["images"] * (1 - run.config.val_fraction) / batch_size
    rows = {
        "command": f"`{command(run.description)}`, stopped by Ctrl-C",
        "time per step": f"{per_step:.2f} s with loading ({batch_size / per_step:.0f} images/s), {position.step} steps",
        "mean over these steps": f"loss {position.loss_sum / position.images:.3f} nats, "
        f"training accuracy {100 * position.correct / position.images:.1f} % (guessing: 2.303 nats, 10 %)",
        "the whole run": f"{steps * per_step / 3600:.1f} h: an estimate, {epochs} epochs at this speed",
        "data": f"{Path(run.data).name}, fingerprint of train {run.description['fingerprint']}",
        "seed": str(run.config.seed),
        **owners(run.description["environment"]),
    }
    return table(rows)


def augment_section() -> str:
    """The benchmark of whole-batch augmentation, run now."""
    benchmark = [sys.executable, "benchmarks/augment.py", "--json"]
    result = json.loads(subprocess.run(benchmark, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    header = "| threads | batch | article (images/s) | whole batches (images/s) | ratio |\n|---|---|---|---|---|"
    lines = [f"| {' | '.join(f'{value:,}' for value in row.values())} |" for row in result["rows"]]
    rows = {"command": "`python benchmarks/augment.py`", **owners(environment(torch.device("cpu")))}
    return f"{table(rows)}\n\n{header}\n" + "\n".join(lines)


def overhead_section(data: str) -> str:
    """The benchmark of what a step costs beside the network, run now."""
    benchmark = [sys.executable, "benchmarks/overhead.py", data, "--json"]
    parts = json.loads(subprocess.run(benchmark, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
    share = parts.pop("share")
    facts = {
        "command": "`python benchmarks/overhead.py $CIFAR10`",
        "all but the network": f"**{100 * share:.1f} %** of a step",
        **owners(environment(torch.device("cpu"))),
    }
    lines = [f"| {name.removesuffix('_ms')} | {ms} |" for name, ms in parts.items()]
    return f"{table(facts)}\n\n| part | ms a step |\n|---|---|\n" + "\n".join(lines)


def photos_section(folder: str) -> str:
    """The benchmark of features of real photos, run now."""
    benchmark = [sys.executable, "benchmarks/photos.py", folder, "--json"]
    found = json.loads(subprocess.run(benchmark, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
    facts = {
        "command": "`python benchmarks/photos.py $FLOWERS17/train`",
        "work": f"relu4_3 of VGG-16 on ImageNet, {found['photos']:,} photos of 224x224, batches of 16 in turns",
        "against the fastest other way": f"**{found['ratio']:.2f} times as fast**",
        "largest difference from PyTorch's values": f"{found['difference']:.1e} of the largest value",
        **owners(environment(torch.device("cpu"))),
    }
    lines = [f"| {way} | {rate} |" for way, rate in found["rates"].items()]
    return f"{table(facts)}\n\n| way | images/s |\n|---|---|\n" + "\n".join(lines)


def decoding_section(folder: str) -> str:
    """The benchmark of decoding and augmenting photos, run now."""
    benchmark = [sys.executable, "benchmarks/decoding.py", folder, "--json"]
    found = json.loads(subprocess.run(benchmark, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
    own = owners(environment(torch.device("cpu")))
    decoders = ", ".join(f"{name} {version(name)}" for name in ("torchvision", "pillow", "simplejpeg"))
    facts = {
        "command": "`python benchmarks/decoding.py $FLOWERS17/train`",
        "work": f"{found['photos']:,} photos from file to float32: random crops of 224x224, half of them mirrored, "
        "normalized, batches of 32 in turns; processor time of one thread",
        "against the faster of torchvision's ways": f"**{found['ratio']:.2f} times as fast**",
        **own,
        "versions": f"{own['versions']}, {decoders}",
    }
    lines = [f"| {way} | {rate} |" for way, rate in found["rates"].items()]
    return f"{table(facts)}\n\n| way | images/s of one core |\n|---|---|\n" + "\n".join(lines)


def same_training_section() -> str:
    """Accuracy and time of training with the engine and without, from the rows of finished runs."""
    rows = [json.loads(line) for line in (DOCS / "same_training.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = []
    for convolutions in dict.fromkeys(row["convolutions"] for row in rows):
        runs = [row for row in rows if row["convolutions"] == convolutions]
        accuracies = [100 * row["val_accuracy"] for row in runs]
        lines.append(
            f"| {convolutions} | {', '.join(f'{value:.2f}' for value in accuracies)} | {mean(accuracies):.2f} "
            f"| {stdev(accuracies):.2f} | {mean(row['train_loss'] for row in runs):.4f} "
            f"| {mean(row['seconds'] for row in runs) / 60:.1f} |"
        )
    facts = {
        "command": "`python benchmarks/same_training.py $CIFAR10`",
        "work": f"`vgg train --data $CIFAR10 {rows[0]['options']}`, with `VGGNET_CONV=direct` for PyTorch's",
        "seeds": ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows})),
        **owners(rows[-1]["environment"]),
    }
    header = (
        "| convolutions | validation accuracy after 3 epochs (%) | mean | standard deviation | train loss | minutes |"
    )
    return f"{table(facts)}\n\n{header}\n{'|---' * 6}|\n" + "\n".join(lines)


def speed_section() -> str:
    """Accuracy against time: the table and the picture of the rows of `vgg study speed`."""
    rows = read_rows(DOCS / "speed.jsonl")
    draw_speed(by_preset(rows), DOCS / "speed.png")
    tested = next(row for row in reversed(rows) if not row["estimate"])
    facts = {
        "command": "`vgg study speed --data $CIFAR10`",
        "data": f"CIFAR-10: all of train (fingerprint {tested['fingerprint']}), {tested['images']:,} test images",
        "test images": "touched once a run, after its last epoch: as they are, and by six views of each",
        "operations": "of training on one image once, as direct convolutions count them, two a multiplication; "
        "the limit is PyTorch's matrix product on the same cores",
        **owners(tested["environment"]),
    }
    study = SpeedStudy(rows=rows, finished=True).as_table()
    return f"{table(facts)}\n\n{study}\n\n![Test accuracy against minutes of training](speed.png)"


class Words(NamedTuple):
    """What the table of a README says in its language."""

    header: str
    network: str
    estimate: str
    picture: str


ENGLISH = Words(
    "| preset | network | test accuracy (%) | by six views (%) | minutes of two cores | seeds | measured |",
    "{model}, width {width:g}",
    "an estimate",
    "Test accuracy against minutes of training",
)
CHINESE = Words(
    "| 预设 | 网络 | 测试准确率（%） | 六视图准确率（%） | 双核训练时间（分钟） | 种子数 | 测量日期 |",
    "{model}，宽度 {width:g}",
    "估计值",
    "测试准确率与训练时间（分钟）的关系",
)


def speed_at_a_glance(words: Words) -> str:
    """For a README: each preset in a line, and the picture."""
    lines = [words.header, "|---" * 7 + "|"]
    groups = by_preset(read_rows(DOCS / "speed.jsonl"))
    for preset, rows in sorted(groups.items(), key=lambda group: mean(row["seconds"] for row in group[1])):
        minutes = mean(row["seconds"] for row in rows) / 60
        accuracies = [spread(percents(rows, name)) for name in ("top1", "top1_six_views")]
        seeds = words.estimate if rows[0]["estimate"] else len(rows)
        network = words.network.format_map(rows[0]["config"])
        day = max(row["environment"]["date"] for row in rows)
        lines.append(f"| `{preset}` | {network} | {' | '.join(accuracies)} | {minutes:,.0f} | {seeds} | {day} |")
    return "\n".join(lines) + f"\n\n![{words.picture}](docs/speed.png)"


def depth_section() -> str:
    """Error against depth: the table, the verdicts and the picture of the rows of `vgg study depth`."""
    rows = read_rows(DOCS / "depth.jsonl")
    draw_depth(by_label(rows), DOCS / "depth.png")
    budget, tested = rows[-1]["config"], next(row for row in reversed(rows) if "images" in row)
    facts = {
        "command": f"`vgg study depth --data $CIFAR10 --width {budget['width']} --epochs {budget['epochs']}`",
        "data": f"CIFAR-10: all of train (fingerprint {tested['fingerprint']}), {tested['images']:,} test images",
        "budget": f"{budget['epochs']} epochs, width {budget['width']}, batch {budget['batch_size']}, SGD with rate "
        f"{budget['lr']}, {budget['init']} initialization, one fully connected layer",
        **owners(tested["environment"]),
    }
    study = DepthStudy(rows=rows, finished=True).as_table()
    return f"{table(facts)}\n\n{study}\n\n![Top-1 error of each network](depth.png)"


def transfer_section() -> str:
    """Frozen features for other classes: the table of the rows of `vgg study transfer`."""
    rows = read_rows(DOCS / "transfer.jsonl")
    facts = {
        "command": "`vgg study transfer --data DATA`, with the scales and the choices of the table",
        "penalty": "by five-fold cross-validation on the chosen training images; test images are scored once a seed",
        **owners(rows[-1]["environment"]),
    }
    return f"{table(facts)}\n\n{TransferStudy(rows=rows, finished=True).as_table()}"


def finetuned_row(run: Run) -> dict[str, Any]:
    """A run that started from other weights, and what its test found."""
    test = json.loads((run.folder / "test.json").read_text(encoding="utf-8"))
    facts = ("preset", "init_from", "fingerprint", "images", "environment", "config")
    return {
        "data": Path(run.data).name,
        "test": test | {"data": Path(run.data).name, "model": "RUN"},
        "history": run.history,
        **{name: run.description[name] for name in facts},
    }


def finetuned_section() -> str:
    """Mean accuracy of the classes, from the rows of tested runs: a line for all seeds of a command."""
    rows = read_rows(DOCS / "finetuned.jsonl")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        seedless = row | {"config": row["config"] | {"seed": 0}}
        test = f"vgg test RUN --protocol {row['test']['protocol']}{' --flip' if row['test']['views'] == 2 else ''}"
        groups.setdefault(f"`{command(seedless)}`, then `{test}`", []).append(row)
    lines = []
    for name, runs in groups.items():
        accuracies = [100 * mean(row["test"]["per_class"].values()) for row in runs]
        minutes = mean(sum(epoch["seconds"] for epoch in row["history"]) / 60 for row in runs)
        seeds = ", ".join(str(row["config"]["seed"]) for row in runs)
        learnt = runs[0]["images"] * (1 - runs[0]["config"]["val_fraction"]) / len(runs[0]["test"]["classes"])
        lines.append(f"| {name} | {learnt:.0f} | {seeds} | {minutes:.0f} | {spread(accuracies)} |")
    test = rows[-1]["test"]
    facts = {
        "data": f"{rows[-1]['data']}: train has fingerprint {rows[-1]['fingerprint']}, test {test['fingerprint']}; "
        f"{test['images']:,} test images, touched once a run",
        **owners(rows[-1]["environment"]),
    }
    header = "| command, with the seeds | training images a class | seeds | minutes a run | mean class accuracy (%) |"
    header += "\n" + "|---" * 5 + "|"
    return f"{table(facts)}\n\n{header}\n" + "\n".join(lines)


def localization_row(run: Run) -> dict[str, Any]:
    """A run that gives boxes, tested now on the split `validation`, on the images and their mirror images."""
    result = localize(run.folder, data=run.data, split="validation", flip=True)
    facts = ("preset", "init_from", "fingerprint", "images", "environment", "config")
    return {
        "test": {**asdict(result), "data": Path(run.data).name, "model": "RUN"},
        "history": run.history,
        **{name: run.description[name] for name in facts},
    }


def localization_section() -> str:
    """Errors of boxes, from the rows of tested runs; the newest says on what machine."""
    rows = read_rows(DOCS / "localization.jsonl")
    newest = rows[-1]
    test = newest["test"]
    facts = {
        "data": f"{test['data']}: {newest['images']:,} images of train (fingerprint {newest['fingerprint']}), "
        f"{test['images']:,} of {test['split']} (fingerprint {test['fingerprint']}), touched once a run",
        "whole image as a box": f"{100 * test['error_whole_image']:.1f} % error",
        "best constant box of train": f"{100 * test['error_constant_box']:.1f} % error",
        **owners(newest["environment"]),
    }
    lines = [
        f"| `{command(row, '$BOXES')}`, then `vgg test RUN --split validation --flip` | {row['config']['seed']} "
        f"| {sum(epoch['seconds'] for epoch in row['history']) / 60:.0f} "
        f"| **{100 * row['test']['error_class_given']:.1f}** | {row['test']['mean_overlap']:.3f} |"
        for row in rows
    ]
    header = "| command | seed | minutes | error, class given (%) | mean overlap |\n" + "|---" * 5 + "|"
    return f"{table(facts)}\n\n{header}\n" + "\n".join(lines)


def drawbacks_section() -> str:
    """What is held against VGG: the tables and the picture of the rows of `vgg study drawbacks`."""
    rows = read_rows(DOCS / "drawbacks.jsonl")
    draw_drawbacks(by_part(rows), DOCS / "drawbacks.png")
    last = next(row for row in reversed(rows) if row["part"] == "heads")
    small = next(row for row in reversed(rows) if row["part"] == "overfitting")
    budget = last["config"]
    facts = {
        "command": f"`vgg study drawbacks --data $CIFAR10 --width {budget['width']:g} --epochs {budget['epochs']} "
        f"--images {small['train_images']} --small-epochs {small['config']['epochs']}`",
        "data": f"CIFAR-10, fingerprint of train {last['fingerprint']}; {last['images']:,} test images",
        "test images": "touched once a training, after its last epoch",
        "budget": f"{budget['model']}, width {budget['width']:g}, {budget['epochs']} epochs, batch "
        f"{budget['batch_size']}, SGD with rate {budget['lr']}, {budget['init']} initialization",
        **owners(last["environment"]),
    }
    picture = "![Heads, overfitting, and gradients by depth](drawbacks.png)"
    return f"{table(facts)}\n\n{DrawbacksStudy(rows=rows, finished=True).as_table()}\n\n{picture}"


def compare_section() -> str:
    """VGGs beside other networks: the table and the picture of the rows of `vgg compare`."""
    rows = read_rows(DOCS / "compare.jsonl")
    draw_comparison(rows, DOCS / "compare.png")
    trained = next((row for row in reversed(rows) if row["kind"] == "training"), None)
    training = f" --train --data $CIFAR10 --epochs {trained['config']['epochs']}" if trained else ""
    data = {"data": f"CIFAR-10, fingerprint of train {trained['fingerprint']}"} if trained else {}
    newest = next(row for row in reversed(rows) if row["kind"] == "speed")
    facts = {"command": f"`vgg compare{training}`", **data, **owners(newest["environment"])}
    picture = "![Accuracy on ImageNet against latency](compare.png)"
    return f"{table(facts)}\n\n{Comparison(rows=rows, finished=True).as_table()}\n\n{picture}"


def card_section(name: str) -> str:
    """What named weights are, from the notes they carry."""
    found = card(name)
    with safe_open(find(name), framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
    preset = PRESETS[found.preset].as_dict()
    changed = [option(key, value) for key, value in notes["config"].items() if value != preset[key]]
    megabytes = f"{found.megabytes} MB in float16"
    views = "as they are", "by six views of each (mirror, shifts by a pixel)"
    accuracies = zip((found.top1, found.top1_six_views), views, strict=True)
    facts = {
        "network": f"{found.model} of width {found.width:g}, {found.num_classes} classes, {megabytes}",
        "data": f"all of CIFAR-10's train (fingerprint {notes['fingerprint']}), images of 32x32 pixels",
        "recipe": f"`vgg train --data $CIFAR10 --preset {found.preset} {' '.join(changed)}`, "
        f"{notes['seconds'] / 60:.1f} min",
        "test accuracy": ", ".join(f"**{100 * accuracy:.2f} %** {how}" for accuracy, how in accuracies)
        + f"; {found.test_images:,} images, touched once",
        "limits": "knows ten classes and chooses one of them, whatever the picture shows; learnt from small pictures "
        "of one thing each; a photo is shrunk to 32 pixels and loses its details; label smoothing makes its "
        "probabilities cautious",
        **owners(notes["environment"]),
    }
    classes = "\n".join(f"| {label} | {100 * accuracy:.1f} % |" for label, accuracy in notes["per_class"].items())
    return f"{table(facts)}\n\n| class | accuracy by six views |\n|---|---|\n{classes}"


def bench_section(options: list[str]) -> str:
    """`vgg bench`, run now."""
    benchmark = [str(Path(sys.executable).with_name("vgg")), "bench", *options, "--json"]
    result = json.loads(subprocess.run(benchmark, stdout=subprocess.PIPE, text=True, check=True).stdout)
    if "rows" in result:
        return shapes_section(options, result)
    peaks = result["peak_bytes"]
    header = "| way | median (ms) | fastest | slowest | images/s |" + (" peak memory (MB) |" if peaks else "")
    header += "\n" + "|---" * (6 if peaks else 5) + "|"
    lines = [
        f"| {name} | {1e3 * seconds:.1f} | {1e3 * min(result['seconds'][name]):.1f} "
        f"| {1e3 * max(result['seconds'][name]):.1f} | {result['batch'] / seconds:.1f} |"
        + (f" {peaks[name] / 1e6:.0f} |" if peaks else "")
        for name, seconds in result["medians"].items()
    ]
    rows = {
        "command": f"`vgg bench {' '.join(options)}`",
        "work": result["work"],
        "against the fastest other way": f"**{result['ratio']:.2f} times as fast** (medians, measured in turns)",
        **owners(result["environment"]),
    }
    return f"{table(rows)}\n\n{header}\n" + "\n".join(lines)


def shapes_section(options: list[str], result: dict[str, Any]) -> str:
    """Each pass of each shape, and how many times faster ours is than the faster of PyTorch's formats."""
    header = f"| pass | shape | {' | '.join(f'{way} (ms)' for way in result['rows'][0]['ms'])} | ratio |"
    lines = [
        f"| {row['pass']} | {row['shape']} | {' | '.join(f'{ms:.2f}' for ms in row['ms'].values())} "
        f"| {row['ratio']:.2f} |"
        for row in result["rows"]
    ]
    rows = {
        "command": f"`vgg bench {' '.join(options)}`",
        "work": "each 3x3 convolution by itself: images x map, input -> output channels",
        "the least favorable": f"**{result['ratio']:.2f} times as fast** as the faster of PyTorch's formats",
        **owners(result["environment"]),
    }
    return f"{table(rows)}\n\n{header}\n{'|---' * (len(result['rows'][0]['ms']) + 3)}|\n" + "\n".join(lines)


def command(description: Mapping[str, Any], data: str | None = None) -> str:
    """What to type for a run that is described so, with the place of the data as a variable."""
    data = data or f"${Path(description['data']).name.upper()}"
    preset, given_weights = description["preset"], description["init_from"]
    defaults = starting_config(preset, given_weights).as_dict()
    given = f" --init-from {given_weights}" if given_weights else ""
    fields = TrainConfig.from_dict(description["config"]).as_dict()
    changed = [option(key, value) for key, value in fields.items() if value != defaults[key]]
    return " ".join([f"vgg train --data {data}", f"--preset {preset}{given}", *changed])


def option(field: str, value: Any) -> str:
    name = field.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def owners(facts: dict[str, Any]) -> dict[str, str]:
    return {
        "hardware": f"{facts['cores']} cores of {facts['device']}, {facts['threads']} threads",
        "versions": f"vggnet {facts['vggnet']}, torch {facts['torch']}, Python {facts['python']}",
        "date": facts["date"],
    }


def table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def insert(path: Path, name: str, section: str) -> None:
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{section}\n{end}"
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n## {name}\n\n{block}\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
