"""Write docs/gallery.md: every picture of docs/ with the command that made it.

    python scripts/gallery.py

A new picture gets an entry here; a test finds those that have none.
"""

from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent.parent / "docs"


class Picture(NamedTuple):
    file: str  # in docs/
    title: str
    command: str
    seen: str  # what there is to see, in a sentence


PICTURES = (
    Picture(
        "speed.png",
        "Accuracy against time",
        "vgg study speed --data $CIFAR10",
        "Test accuracy of the presets against minutes of training on two cores, with the standard deviation over "
        "seeds: each longer preset is better, and answering by six views adds more than the choice of a seed does.",
    ),
    Picture(
        "style/strokes.jpg",
        "Strokes, the style",
        "python scripts/style_examples.py WEIGHTS",
        "Brush strokes that follow six whirls, drawn by the script; the style of the pictures below.",
    ),
    Picture(
        "style/cat-strokes.jpg",
        "A cat in strokes",
        "python scripts/style_examples.py WEIGHTS cat-strokes",
        "The cat's features decide where strokes bend, the painting their width and colour.",
    ),
    Picture(
        "style/cat-strokes-colour.jpg",
        "The same in its own colours",
        "python scripts/style_examples.py WEIGHTS cat-strokes-colour",
        "Painted by lightness alone (`--keep-colour`): the same strokes, but the cat stays brown.",
    ),
    Picture(
        "style/cat-strokes-tissue.jpg",
        "Two styles at once",
        "python scripts/style_examples.py WEIGHTS cat-strokes-tissue",
        "Strokes and a stained tissue, which has twice the weight (`--style-weights 1 2`): its brown and white grain "
        "stands between the strokes.",
    ),
    Picture(
        "style/coffee-strokes-adam.jpg",
        "Another optimiser and pooling",
        "python scripts/style_examples.py WEIGHTS coffee-strokes-adam",
        "A cup of coffee by Adam and maximum pooling: harder edges than L-BFGS and average pooling give.",
    ),
)


def main() -> None:
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


def page() -> str:
    sections = [
        "# Gallery",
        "Every picture of these pages, and the command that made it. `$CIFAR10` is a folder with the parquet files of "
        "`uoft-cs/cifar10`. Written by `python scripts/gallery.py`.",
    ]
    for picture in PICTURES:
        sections += [
            f"## {picture.title}",
            picture.seen,
            f"```sh\n{picture.command}\n```",
            f"![{picture.title}]({picture.file})",
        ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main()
