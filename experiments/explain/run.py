"""What does a VGG look at? Attributions, top activations, filters and feature visualizations, drawn for the page.

    python -m experiments.explain.run DATA

Needs the convolutions of VGG-16 on ImageNet: vgg weights fetch vgg16:features.
"""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from PIL import Image
from tyro.conf import Positional

from experiments import page
from experiments.rows import Row, read_rows
from vggnet.benchmarking.timing import cpu_environment
from vggnet.data.sources.opening import open_source
from vggnet.files import write_text
from vggnet.interpret.explanation import explain
from vggnet.interpret.feature_visualization import visualize_channels
from vggnet.interpret.layers import feature_maps, first_filters, num_channels
from vggnet.interpret.top_activations import find_top_activations
from vggnet.report.explanation_figures import (
    draw_explanation,
    draw_feature_maps,
    draw_filters,
    draw_top_activations,
)
from vggnet.report.figures import draw_gallery
from vggnet.report.text import to_plain
from vggnet.weights.checkpoint import load

ROWS = Path(__file__).with_name("rows.jsonl")
SMALL, LARGE = "vgg8_bn-cifar10-fast", "vgg16:features"
CHANNELS = 6  # of each block, evenly spaced
STEPS = 100
# The last layer of each block, and pixels a side of the pictures that are painted for it.
BLOCKS = {"relu1_2": 64, "relu2_2": 64, "relu3_3": 96, "relu4_3": 128, "relu5_3": 160}
WHAT = (
    "edges and lines of a direction",
    "strokes, corners and fine textures",
    "textures, and tips and stalks",
    "parts: petals around a middle, dots, veins",
    "objects and their parts; eyes and scales, of which flowers have few, so that photos excite most of these weakly",
)


def why(data: Path, folder: Path, name: str, index: int) -> dict[str, Any]:
    """Why the network names a picture of CIFAR-10."""
    source = open_source(data / "cifar10", "test")
    found = explain(SMALL, source.read(index))
    draw_explanation(found, folder / f"{name}.png")
    facts = to_plain(found)
    methods = {method: one["facts"] for method, one in facts.pop("attributions").items()}
    return {
        "class": facts.pop("name"),
        **facts,
        "methods": methods,
        "image": f"test image {index} of CIFAR-10, of the class {source.classes[source.labels[index]]}",
    }


def exciting(data: Path, folder: Path) -> dict[str, Any]:
    """What three channels of the same network look for."""
    names = ["relu1_1:3", "relu2_2:58", "relu4_1:17"]
    found = find_top_activations(SMALL, data / "cifar10", names, batch_size=500)
    draw_top_activations(found, folder / "exciting.png")
    return {"channels": names}


def filters(data: Path, folder: Path) -> dict[str, Any]:
    """The kernels of the first layer of the large network."""
    weights = first_filters(LARGE)
    draw_filters(weights, folder / "filters.png")
    return {"shape": weights.shape}


def maps(data: Path, folder: Path) -> dict[str, Any]:
    """Feature maps of a photo."""
    photo = sorted((data / "flowers17" / "test" / "sunflower").iterdir())[0]
    found = feature_maps(LARGE, photo, "relu3_3")
    draw_feature_maps(found, folder / "maps.png", top=32)
    return {"image": photo.name, "layer": found.layer, "shape": found.maps.shape}


def blocks(data: Path, folder: Path) -> dict[str, Any]:
    """For channels of each block a painted picture, and below it the two photos that excite it most."""
    network = load(LARGE)
    names = {
        layer: [f"{layer}:{num_channels(network, layer) * place // CHANNELS}" for place in range(CHANNELS)]
        for layer in BLOCKS
    }
    photos = find_top_activations(LARGE, data / "flowers17", list(chain(*names.values())), top=2, batch_size=8)
    rows = []
    for number, (layer, size) in enumerate(BLOCKS.items(), start=1):
        painted = visualize_channels(LARGE, names[layer], size=size, steps=STEPS)
        figure = [[(Image.fromarray(one.picture), f"{one.channel}\npainted: {one.after:.3g}") for one in painted]]
        for place in range(2):
            best = [photos[name][place] for name in names[layer]]
            figure.append([(_cut_out(one.picture, one.box), f"{one.activation:.3g}, {one.label}") for one in best])
        draw_gallery(figure, folder / f"block{number}.png")
        channels = [{**to_plain(one), "photos": [p.activation for p in photos[one.channel]]} for one in painted]
        rows.append({"layer": layer, "size": size, "channels": channels})
    return {"steps": STEPS, "blocks": rows}


EXAMPLES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "why-dog": partial(why, name="why-dog", index=0),
    "why-automobile": partial(why, name="why-automobile", index=12),
    "exciting": exciting,
    "filters": filters,
    "maps": maps,
    "blocks": blocks,
}


def main(data: Positional[Path | None] = None, names: tuple[str, ...] = (), rows: Path = ROWS) -> None:
    """Draw examples and note what they show, then write the page.

    Args:
        data: a folder that has cifar10 (parquet files) and flowers17 (photos in class folders, split test); without
            it the page is written from the rows.
        names: of the examples to draw; by default all.
        rows: a row for each example; page and pictures are written beside it.
    """
    for name in (names or EXAMPLES) if data else ():
        start = process_time()
        with tempfile.TemporaryDirectory() as folder:
            shown = EXAMPLES[name](Path(str(data)), Path(folder))
            for drawn in Path(folder).glob("*.png"):
                with Image.open(drawn) as figure:
                    figure.convert("RGB").save(rows.with_name(f"{drawn.stem}.jpg"), quality=85, optimize=True)
        seconds = round(process_time() - start, 1)
        others = {row["name"]: row for row in read_rows(rows)}
        others[name] = {"name": name, **shown, "seconds": seconds, "environment": cpu_environment()}
        write_text(rows, "".join(f"{json.dumps(others[known])}\n" for known in EXAMPLES if known in others))
    write_page(rows)


def write_page(path: Path) -> None:
    """Write the sections into the README.md beside the rows."""
    sections = []
    for row in read_rows(path):
        facts = row["environment"]
        time = (
            f"{row['seconds']:.0f} s of processor time (threads: {facts['threads']}; {facts['device']}, torch "
            f"{facts['torch']}, {facts['date']})."
        )
        sections += [*SECTIONS[row["name"].split("-")[0]](row), time]
    page.insert(path.with_name("README.md"), "explain", "\n\n".join(sections))


def _section_why(row: Row) -> list[str]:
    integrated = row["methods"]["integrated-gradients"]
    share = 100 * abs(integrated["delta"] / integrated["rise"])
    return [
        f"## Why {row['name'].split('-')[1]}?",
        f"![Four attributions]({row['name']}.jpg)",
        f"`vgg explain {SMALL} IMAGE`, for {row['image']}: {row['predicted']}, "
        f"{100 * row['predicted_probability']:.1f} %. Orange is evidence for the class, blue against it. "
        f"Integrated gradients by {integrated['steps']} steps add up to {integrated['sum']:.3f}; the logit rises by "
        f"{integrated['rise']:.3f} from an image of the mean color: {share:.1f} % off.",
    ]


def _section_exciting(row: Row) -> list[str]:
    return [
        "## What three channels look for",
        "![Pictures with a part framed, and the part](exciting.jpg)",
        f"`vgg explain top-activations {SMALL} --channels {' '.join(row['channels'])} --data cifar10`: the test images "
        "that activate a channel most, with their activations, and the receptive field of the largest activation.",
    ]


def _section_filters(row: Row) -> list[str]:
    return [
        "## The first filters of VGG-16",
        "![Tiles of 3 x 3 pixels](filters.jpg)",
        f"`vgg explain filters {LARGE}`: mid-gray is a weight of 0.",
    ]


def _section_maps(row: Row) -> list[str]:
    return [
        "## What the third block makes of a photo",
        "![Feature maps](maps.jpg)",
        f"`vgg explain maps {LARGE} IMAGE --layer {row['layer']} --top 32`: the 32 strongest of {row['shape'][0]} "
        "channels, for a sunflower of flowers17.",
    ]


def _section_blocks(row: Row) -> list[str]:
    lines = [
        "## Block after block of VGG-16",
        f"{CHANNELS} channels of the last layer of each block, evenly spaced, none left out. Above: painted by `vgg "
        f"explain visualize` in {row['steps']} steps, with the mean activation over all places. Below: the parts of "
        "two photos of flowers17 with the largest activation at one place, by `vgg explain top-activations`.",
    ]
    for number, (block, what) in enumerate(zip(row["blocks"], WHAT, strict=True), start=1):
        lines += [
            f"Block {number}, {block['layer']}: {what}. Painted at {block['size']} x {block['size']} pixels.",
            f"![Channels of block {number}](block{number}.jpg)",
        ]
    return lines


SECTIONS = {
    "why": _section_why,
    "exciting": _section_exciting,
    "filters": _section_filters,
    "maps": _section_maps,
    "blocks": _section_blocks,
}


def _cut_out(picture: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """The field, enlarged without blur."""
    part = Image.fromarray(picture).crop(box)
    factor = max(1, 160 // max(part.size))
    return part.resize((factor * part.width, factor * part.height), Image.Resampling.NEAREST)


if __name__ == "__main__":
    page.run(main)
