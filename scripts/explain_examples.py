"""Draw the figures of docs/explain.md, and write down what they show and how long they took.

    python scripts/explain_examples.py DATA [NAME ...]

DATA: a folder that has cifar10 (parquet files) and flowers17 (photos in class folders, split test). Needs the
convolutions of VGG-16 on ImageNet: vgg weights fetch vgg16:features. NAME: of the examples to be drawn; all by default.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from PIL import Image

from vggnet.data.sources.opening import open_source
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
from vggnet.studies.bench import cpu_environment
from vggnet.weights.checkpoint import load

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES = DOCS / "explain"
ROWS = DOCS / "explain.jsonl"  # a line for each example
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
    weights = first_filters(LARGE)
    draw_filters(weights, folder / "filters.png")
    return {"shape": weights.shape}


def maps(data: Path, folder: Path) -> dict[str, Any]:
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
            figure.append([(cut_out(one.picture, one.box), f"{one.activation:.3g}, {one.label}") for one in best])
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


def main() -> None:
    data, names = Path(sys.argv[1]), sys.argv[2:] or list(EXAMPLES)
    rows = {row["name"]: row for row in map(json.loads, ROWS.read_text().splitlines())} if ROWS.exists() else {}
    PICTURES.mkdir(exist_ok=True)
    for name in names:
        start = process_time()
        with tempfile.TemporaryDirectory() as folder:
            facts = EXAMPLES[name](data, Path(folder))
            for drawn in Path(folder).glob("*.png"):
                with Image.open(drawn) as figure:
                    figure.convert("RGB").save(PICTURES / f"{drawn.stem}.jpg", quality=85, optimize=True)
        seconds = round(process_time() - start, 1)
        rows[name] = {"name": name, **facts, "seconds": seconds, "environment": cpu_environment()}
        ordered = [rows[known] for known in EXAMPLES if known in rows]
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in ordered))
        (DOCS / "explain.md").write_text(page(ordered), encoding="utf-8")
        print(f"{name}: {seconds} s", file=sys.stderr)


def page(rows: Iterable[dict[str, Any]]) -> str:
    sections = [
        "# What a VGG looks at",
        f"Drawn by `python scripts/explain_examples.py DATA`. The small network, `{SMALL}`, comes with the package; "
        f"the large one, `{LARGE}`, has the convolutions of VGG-16 on ImageNet.",
    ]
    for row in rows:
        facts = row["environment"]
        time = (
            f"{row['seconds']:.0f} s of processor time (threads: {facts['threads']}; {facts['device']}, torch "
            f"{facts['torch']}, {facts['date']})."
        )
        sections += [*SECTIONS[row["name"].split("-")[0]](row), time]
    return "\n\n".join(sections) + "\n"


def section_why(row: dict[str, Any]) -> list[str]:
    integrated = row["methods"]["integrated-gradients"]
    share = 100 * abs(integrated["delta"] / integrated["rise"])
    return [
        f"## Why {row['name'].split('-')[1]}?",
        f"![Four attributions](explain/{row['name']}.jpg)",
        f"`vgg explain {SMALL} IMAGE`, for {row['image']}: {row['predicted']}, "
        f"{100 * row['predicted_probability']:.1f} %. Orange speaks for the class, blue against it. "
        f"Integrated gradients by {integrated['steps']} steps add up to {integrated['sum']:.3f}; the logit rises by "
        f"{integrated['rise']:.3f} from an image of the mean color: {share:.1f} % off.",
    ]


def section_exciting(row: dict[str, Any]) -> list[str]:
    return [
        "## What three channels look for",
        "![Pictures with a part framed, and the part](explain/exciting.jpg)",
        f"`vgg explain top-activations {SMALL} --channels {' '.join(row['channels'])} --data cifar10`: the test images "
        "that excite a channel most with their activations, and what the place with the largest activation sees.",
    ]


def section_filters(row: dict[str, Any]) -> list[str]:
    return [
        "## The first filters of VGG-16",
        "![Tiles of 3 x 3 pixels](explain/filters.jpg)",
        f"`vgg explain filters {LARGE}`: mid-gray is a weight of 0.",
    ]


def section_maps(row: dict[str, Any]) -> list[str]:
    return [
        "## What the third block makes of a photo",
        "![Feature maps](explain/maps.jpg)",
        f"`vgg explain maps {LARGE} IMAGE --layer {row['layer']} --top 32`: the 32 strongest of {row['shape'][0]} "
        "channels, for a sunflower of flowers17.",
    ]


def section_blocks(row: dict[str, Any]) -> list[str]:
    lines = [
        "## Block after block of VGG-16",
        f"{CHANNELS} channels of the last layer of each block, evenly spaced, none left out. Above: painted by `vgg "
        f"explain visualize` in {row['steps']} steps, with the mean activation over all places. Below: the parts of "
        "two photos of flowers17 with the largest activation at one place, by `vgg explain top-activations`.",
    ]
    for number, (block, what) in enumerate(zip(row["blocks"], WHAT, strict=True), start=1):
        lines += [
            f"Block {number}, {block['layer']}: {what}. Painted at {block['size']} x {block['size']} pixels.",
            f"![Channels of block {number}](explain/block{number}.jpg)",
        ]
    return lines


SECTIONS = {
    "why": section_why,
    "exciting": section_exciting,
    "filters": section_filters,
    "maps": section_maps,
    "blocks": section_blocks,
}


def cut_out(picture: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """The field, enlarged without blur."""
    part = Image.fromarray(picture).crop(box)
    factor = max(1, 160 // max(part.size))
    return part.resize((factor * part.width, factor * part.height), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
