"""What does style transfer look like, and how long does it take? Examples with their losses and times.

    python -m experiments.style.run WEIGHTS

Needs scikit-image, whose pictures these are: chelsea (a cat, CC0), coffee (CC0), ihc (stained tissue, no known
restrictions). The other style is drawn here.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tyro.conf import Positional

from experiments import page
from experiments.rows import Row, read_rows
from vggnet.benchmarking.timing import cpu_environment
from vggnet.features.style_transfer import transfer
from vggnet.files import write_text

ROWS = Path(__file__).with_name("rows.jsonl")
SQUARE = (384, 384)

# name -> content, styles, options
EXAMPLES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "cat-strokes": ("chelsea.png", ("strokes",), {}),
    "cat-strokes-color": ("chelsea.png", ("strokes",), {"keep_color": True}),
    "cat-strokes-tissue": ("chelsea.png", ("strokes", "ihc.png"), {"style_weights": (1, 2)}),
    "coffee-strokes-adam": ("coffee.png", ("strokes",), {"optimizer": "adam", "pooling": "max"}),
}


def main(weights: Positional[str | None] = None, names: tuple[str, ...] = (), rows: Path = ROWS) -> None:
    """Paint examples and note their losses and times, then write the page.

    Args:
        weights: of VGG-16 on ImageNet, as `vgg style --weights` takes them; without them the page is written from the
            rows.
        names: of the examples to paint; by default all.
        rows: a row for each example; page and pictures are written beside it.
    """
    if weights is not None:
        strokes(384).save(rows.with_name("strokes.jpg"), quality=88)
        for name in names or EXAMPLES:
            others = {row["name"]: row for row in read_rows(rows)} | {name: paint(weights, name, rows.parent)}
            write_text(rows, "".join(f"{json.dumps(row)}\n" for row in others.values()))
    write_page(rows)


def paint(weights: str, name: str, folder: Path) -> Row:
    """Paint one example into the folder; returns its row."""
    content, styles, options = EXAMPLES[name]
    start = perf_counter()
    for step in transfer(weights, picture(content), list(map(picture, styles)), **options):
        print(f"\r{name} {step.step}/{step.steps} {step.loss:.4f}", end="", file=sys.stderr)
    seconds = round(perf_counter() - start, 1)
    step.render().save(folder / f"{name}.jpg", quality=88)
    losses = {"content_loss" if key == "content" else key: value for key, value in step.losses.items()}
    return {
        "name": name, "content": content, "styles": styles, "options": options, "size": step.size,
        "steps": step.steps, "seconds": seconds, **losses, "environment": cpu_environment(),
    }  # fmt: skip


def write_page(path: Path) -> None:
    """Write the sections into the README.md beside the rows."""
    sections = ["![Strokes](strokes.jpg)"]
    for row in read_rows(path):
        facts = row["environment"]
        styles = " and ".join(Path(style).stem for style in row["styles"])
        options = ", ".join(f"{key} {value}" for key, value in row["options"].items()) or "as they are by default"
        sections += [
            f"## {row['name']}",
            f"![{Path(row['content']).stem}, painted as {styles}]({row['name']}.jpg)",
            f"{Path(row['content']).stem} as {styles}; options {options}. After {row['steps']} steps: content "
            f"{row['content_loss']:.4f}, style {row['style']:.4f}, variation {row['variation']:.4f}, in all "
            f"{row['loss']:.4f}. {row['seconds']:.0f} s (threads: {facts['threads']}; {facts['device']}, torch "
            f"{facts['torch']}, {facts['date']}).",
        ]
    page.insert(path.with_name("README.md"), "style", "\n\n".join(sections))


def picture(name: str) -> Image.Image:
    """Of scikit-image, or the one that is drawn here; its middle square."""
    if name == "strokes":
        return strokes(384)
    package = find_spec("skimage")
    if package is None or package.origin is None:
        sys.exit("the pictures are scikit-image's: pip install scikit-image")
    with Image.open(Path(package.origin).parent / "data" / name) as image:
        side = min(image.size)
        left, upper = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, upper, left + side, upper + side)).resize(SQUARE)


def strokes(side: int) -> Image.Image:
    """Short brush strokes that follow six whirls, in the colors of a night and of lamps."""
    random = np.random.default_rng(0)
    palette = ("#16325c", "#2f6db5", "#7fb2e5", "#f2c14e", "#f6e7b4", "#1e4d3b", "#d9822b")
    canvas = Image.new("RGB", (2 * side, 2 * side), palette[0])
    pen = ImageDraw.Draw(canvas)
    centers, turns = random.uniform(0, 2 * side, (6, 2)), random.choice([-1, 1], 6)
    for _ in range(5200):
        place = random.uniform(0, 2 * side, 2)
        shade = abs(np.sin(place[0] / 170) + np.cos(place[1] / 140) + random.normal(0, 0.35))
        path = [tuple(place)]
        for _ in range(9):
            away = place - centers
            pull = turns / ((away**2).sum(1) + 8000)
            flow = (pull[:, None] * away[:, ::-1] * (-1, 1)).sum(0)
            place = place + 9 * flow / (np.linalg.norm(flow) + 1e-9)
            path.append(tuple(place))
        pen.line(
            path, fill=palette[min(len(palette) - 1, int(3 * shade))], width=int(random.integers(5, 13)), joint="curve"
        )
    return canvas.resize((side, side), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    page.run(main)
