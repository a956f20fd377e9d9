"""How fast is vggnet beside PyTorch and other libraries? Every benchmark of the documentation, and their page.

python -m experiments.benchmarks.run train-vgg16_bn shapes
python -m experiments.benchmarks.run all --cifar10 CIFAR10 --photos FLOWERS17/train
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tyro.conf import Positional

from experiments import page
from experiments.rows import Row, append_row, read_rows
from vggnet.benchmarking.accuracy import BFLOAT16, precision_of
from vggnet.benchmarking.timing import cpu_environment
from vggnet.errors import ConfigError

ROWS = Path(__file__).with_name("rows.jsonl")


class Benchmark(NamedTuple):
    """One section of the page."""

    command: str  # what is run; $CIFAR10 and $PHOTOS stand for the data
    title: str


BENCHMARKS = {
    "train-vgg16_bn": Benchmark("vgg bench train --memory", "Training step, VGG-16 with batch norm"),
    "train-resnet18": Benchmark("vgg bench train --model resnet18", "Training step, ResNet-18"),
    "train-unet": Benchmark(
        "vgg bench train --model vgg16 --head unet --size 288 --batch 4 --rounds 5", "Training step, segmentation"
    ),
    "train-ssd300": Benchmark(
        "vgg bench train --model vgg16 --head ssd300 --size 300 --batch 4 --rounds 5", "Training step, detection"
    ),
    "infer-unet": Benchmark("vgg bench infer --head unet --size 480 --no-peers", "Inference, segmentation, one image"),
    "infer-ssd300": Benchmark("vgg bench infer --head ssd300 --size 300 --no-peers", "Inference, detection, one image"),
    "infer-vgg16-1": Benchmark("vgg bench infer --batch 1", "Inference, VGG-16, one image"),
    "infer-vgg16-16": Benchmark("vgg bench infer --batch 16 --rounds 7", "Inference, VGG-16, 16 images"),
    "features": Benchmark("vgg bench features", "Features, relu4_3 of VGG-16"),
    "photos": Benchmark("python -m experiments.benchmarks.photos $PHOTOS", "Features of real photos"),
    "first-contact": Benchmark("python -m experiments.benchmarks.first_contact $PHOTOS", "The first photos"),
    "lpips": Benchmark("vgg bench lpips", "LPIPS"),
    "lpips-gradient": Benchmark("vgg bench lpips --size 256 --batch 4 --gradient", "LPIPS with gradient"),
    "shapes": Benchmark("vgg bench shapes", "Each convolution alone"),
    "augmentation": Benchmark("python -m experiments.benchmarks.augment", "Augmentation of whole batches"),
    "decoding": Benchmark("python -m experiments.benchmarks.decoding $PHOTOS", "Decoding and augmenting photos"),
    "overhead": Benchmark("python -m experiments.benchmarks.overhead $CIFAR10", "A training step without the network"),
}


def main(
    names: Positional[tuple[str, ...]] = (),
    cifar10: str | None = None,
    photos: str | None = None,
    rows: Path = ROWS,
) -> None:
    """Run benchmarks and append a row for each, then write the page from the newest row of each.

    Args:
        names: of benchmarks, or "all" for those whose data are given; by default none.
        cifar10: CIFAR-10, as `vgg train --data` takes it.
        photos: a folder with a thousand photos in a folder for each class.
        rows: a row for each measurement; the page is written beside it.
    """
    data = {"$CIFAR10": cifar10, "$PHOTOS": photos}
    for name in _wanted(names, data):
        command = BENCHMARKS[name].command
        print(f"{name}: {command}", file=sys.stderr)
        append_row(rows, {"name": name, "command": command, **_measured(name, _run(command, data))})
    write_page(rows)


def write_page(path: Path) -> None:
    """Write a section for each benchmark into the README.md beside the rows: the newest row of each kind of CPU."""
    newest = {(row["name"], row["environment"]["device"]): row for row in read_rows(path)}
    sections = []
    for name, one in BENCHMARKS.items():
        rows = [row for (benchmark, _), row in newest.items() if benchmark == name]
        if rows:
            sections.append("\n\n".join([f"## {one.title}", *map(section, reversed(rows))]))
    page.insert(path.with_name("README.md"), "benchmarks", "\n\n".join(sections))


def section(row: Row) -> str:
    """Facts and table of one measurement."""
    facts, table = TABLES.get(row["name"], _ways)(row)
    return f"{page.facts({'command': '`' + row['command'] + '`', **facts}, row['environment'])}\n\n{table}"


def timings(bench: Mapping[str, Any]) -> Row:
    """The row of a `vgg bench ... --json`: for each way its median, fastest and slowest time."""
    ways: dict[str, dict[str, Any]] = {}
    for way, median in bench["medians"].items():
        seconds = bench["seconds"][way]
        ms = {"median_ms": 1e3 * median, "fastest_ms": 1e3 * min(seconds), "slowest_ms": 1e3 * max(seconds)}
        peak = {"peak_mb": bench["peak_bytes"][way] / 1e6} if bench["peak_bytes"] else {}
        error = {"error": bench["errors"][way]} if bench["errors"] else {}
        ways[way] = {**ms, "images_per_s": bench["batch"] / median, **peak, "precision": precision_of(way), **error}
    return {"work": bench["work"], "ratio": bench["ratio"], "ways": ways, "environment": bench["environment"]}


def _wanted(names: Sequence[str], data: Mapping[str, str | None]) -> list[str]:
    """Raises: ConfigError for a benchmark that does not exist, or whose data are not given."""
    missing = {name for name, one in BENCHMARKS.items() for key in data if key in one.command and not data[key]}
    if names == ("all",):
        return [name for name in BENCHMARKS if name not in missing]
    for name in names:
        if name not in BENCHMARKS:
            raise ConfigError(f"unknown benchmark {name!r}. The benchmarks are {', '.join(BENCHMARKS)}.")
        if name in missing:
            raise ConfigError(f"{name} needs data: add --cifar10 or --photos.")
    return list(names)


def _run(command: str, data: Mapping[str, str | None]) -> dict[str, Any]:
    """The JSON that the command prints, in a process of its own."""
    program, *options = (data.get(word) or word for word in command.split())
    path = Path(sys.executable).with_name(program)
    printed = subprocess.run([path, *options, "--json"], cwd=page.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(printed.stdout)
    return found


def _measured(name: str, found: dict[str, Any]) -> Row:
    if "medians" in found:
        return timings(found)
    row = {**found, "environment": found.get("environment", cpu_environment())}
    if name == "decoding":
        row["decoders"] = {library: version(library) for library in ("torchvision", "pillow", "simplejpeg")}
    return row


Section = tuple[dict[str, str], str]


def _ways(row: Row) -> Section:
    facts = {
        "work": row["work"],
        "against the fastest other way": f"**{row['ratio']:.2f} times as fast** (medians, measured in turns)",
    }
    return facts, ways_table(row)


def ways_table(row: Row) -> str:
    """A line for each way. Old rows have neither precision nor error: all were float32."""
    columns = {
        "precision": ("precision", "{}"), "median (ms)": ("median_ms", "{:.1f}"), "fastest": ("fastest_ms", "{:.1f}"),
        "slowest": ("slowest_ms", "{:.1f}"), "images/s": ("images_per_s", "{:.1f}"),
        "peak memory (MB)": ("peak_mb", "{:.0f}"), "error": ("error", "{:.1e}"),
    }  # fmt: skip
    ways = {way: {"precision": precision_of(way), **found} for way, found in row["ways"].items()}
    shown = {heading: column for heading, column in columns.items() if column[0] in next(iter(ways.values()))}
    lines = [
        [way.removesuffix(BFLOAT16), *(text.format(found[key]) for key, text in shown.values())]
        for way, found in ways.items()
    ]
    return page.markdown(["way", *shown], lines, left=2)


def _shapes(row: Row) -> Section:
    facts = {
        "work": "each 3x3 convolution alone: images x map, input -> output channels",
        "the smallest ratio": f"**{row['ratio']:.2f} times as fast** as PyTorch's fastest way in the same precision",
    }
    ways = list(row["rows"][0]["ms"])
    headings = ["pass", "shape", "precision", *(f"{way} (ms)" for way in ways), "ratio"]
    lines = [
        [
            one["pass"], one["shape"], one.get("precision", "float32"),
            *(f"{one['ms'][way]:.2f}" if way in one["ms"] else "-" for way in ways), f"{one['ratio']:.2f}",
        ]
        for one in row["rows"]
    ]  # fmt: skip
    return facts, page.markdown(headings, lines, left=3)


def _augmentation(row: Row) -> Section:
    headings = ["threads", "batch", "the tutorial's (images/s)", "whole batches (images/s)", "ratio"]
    lines = [[f"{value:,}" for value in one.values()] for one in row["rows"]]
    return {}, page.markdown(headings, lines, left=0)


def _overhead(row: Row) -> Section:
    parts = {name: row[f"{name}_ms"] for name in ("order", "augmentation", "evaluation", "network")}
    facts = {"all but the network": f"**{100 * row['share']:.1f} %** of a step"}
    return facts, page.markdown(["part", "ms a step"], parts.items())


def _photos(row: Row) -> Section:
    facts = {
        "work": f"relu4_3 of VGG-16 on ImageNet, {row['photos']:,} photos of 224x224, batches of 16 in turns",
        "against the fastest other way": f"**{row['ratio']:.2f} times as fast**",
        "largest difference from PyTorch's values": f"{row['difference']:.1e} of the largest value",
    }
    return facts, page.markdown(["way", "images/s"], row["rates"].items())


def _first_contact(row: Row) -> Section:
    facts = {
        "work": f"{row['photos']} photos of as many sizes, from 200x200 on, through VGG-16's features; and "
        "`vgg predict` of one photo; each in a process of its own with empty caches, in turns",
        "the photos": f"**{row['folder_ratio']:.2f} times as fast**",
        "the prediction": f"**{row['predict_ratio']:.2f} times the time**",
    }
    headings = ["way", "the photos (s)", "`vgg predict` (s)"]
    lines = [
        [
            way,
            *(", ".join(f"{value:.1f}" for value in row[name][way]) for name in ("folder_seconds", "predict_seconds")),
        ]
        for way in row["folder_seconds"]
    ]
    return facts, page.markdown(headings, lines, left=1)


def _decoding(row: Row) -> Section:
    facts = {
        "work": f"{row['photos']:,} photos from file to float32: random crops of 224x224, half of them mirrored, "
        "normalized, batches of 32 in turns; processor time of one thread",
        "against the faster of torchvision's ways": f"**{row['ratio']:.2f} times as fast**",
        "decoders": ", ".join(f"{library} {number}" for library, number in row["decoders"].items()),
    }
    return facts, page.markdown(["way", "images/s of one core"], row["rates"].items())


TABLES: dict[str, Callable[[Row], Section]] = {
    "shapes": _shapes,
    "augmentation": _augmentation,
    "overhead": _overhead,
    "photos": _photos,
    "first-contact": _first_contact,
    "decoding": _decoding,
}

if __name__ == "__main__":
    page.run(main)
