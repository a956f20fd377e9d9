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
        "compare.png",
        "VGG beside other networks",
        "vgg compare",
        "Published accuracy against the time for one photo, with the range of the rounds: a VGG-16 takes as long as "
        "ResNet-50, which is more right, and less than half of what stock PyTorch needs for it.",
    ),
    Picture(
        "drawbacks.png",
        "What is held against VGG",
        "vgg study drawbacks --data $CIFAR10",
        "The paper's head has 99 of a hundred weights and takes six times as long, for less accuracy; dropout delays "
        "overfitting on 2,000 images and does not prevent it; from A to E the first gradients shrink fifty times, "
        "unless there is batch norm or skips.",
    ),
    Picture(
        "depth.png",
        "Does depth help on CIFAR-10?",
        "vgg study depth --data $CIFAR10",
        "Test error of every column by the same budget: without batch norm the deep ones learn less, or nothing, in so "
        "few epochs, and start better from A; with it, D has the fewest errors.",
    ),
    Picture(
        "results-flowers17.png",
        "VGG-16 learns flowers",
        "vgg train --data $FLOWERS17 --preset photos --init-from vgg16:features --freeze 4 --epochs 12 --lr 0.01 "
        "--val-fraction 0.3334",
        "Loss and accuracy of block 5 and a new head on the features of ImageNet: most is learnt in three epochs.",
    ),
    Picture(
        "look/vgg16.svg",
        "VGG-16 to scale",
        "vgg show vgg16 --svg vgg16.svg",
        "Maps as high as their pixels and as broad as their channels: nine parameters of ten lie in the head, 99 of a "
        "hundred multiplications in the convolutions.",
    ),
    Picture(
        "look/receptive-fields.png",
        "What small kernels see together",
        "vgg show --receptive-field receptive-fields.png",
        "Gradients of real layers: two 3x3 see what one 5x5 sees, three what a 7x7 sees, and the middle counts more.",
    ),
    Picture(
        "explain/why-dog.jpg",
        "Why a dog?",
        "python scripts/explain_examples.py DATA why-dog",
        "Four attributions side by side: Grad-CAM points at the head, integrated gradients at eyes and snout; by "
        "occlusion the picture's lower left corner speaks for a dog as well, and its white chest against.",
    ),
    Picture(
        "explain/why-automobile.jpg",
        "Why an automobile?",
        "python scripts/explain_examples.py DATA why-automobile",
        "The bonnet speaks for a car; of single pixels those of lamps and windscreen count most, for and against.",
    ),
    Picture(
        "explain/exciting.jpg",
        "What three channels look for",
        "python scripts/explain_examples.py DATA exciting",
        "The test images that excite a channel most, and what the place sees of them: deep blue in block 1, bright "
        "green or yellow spots in block 2, small brown birds in block 4.",
    ),
    Picture(
        "explain/filters.jpg",
        "The first filters of VGG-16",
        "python scripts/explain_examples.py DATA filters",
        "Edges in several directions, spots, and colors against their opposites; many filters are all but gray.",
    ),
    Picture(
        "explain/maps.jpg",
        "What block 3 makes of a sunflower",
        "python scripts/explain_examples.py DATA maps",
        "Each channel answers to petals of some directions; a few answer to the picture's border alone.",
    ),
    Picture(
        "explain/block1.jpg",
        "Block 1: edges",
        "python scripts/explain_examples.py DATA blocks",
        "The painted picture, and below it what excites the same channel in two photos: edges and thin lines of one "
        "direction each.",
    ),
    Picture(
        "explain/block2.jpg",
        "Block 2: strokes and corners",
        "python scripts/explain_examples.py DATA blocks",
        "Strokes, corners, letters; the paintings become fine textures.",
    ),
    Picture(
        "explain/block3.jpg",
        "Block 3: textures",
        "python scripts/explain_examples.py DATA blocks",
        "Tips of petals and stalks; painted as scales, nets and spots.",
    ),
    Picture(
        "explain/block4.jpg",
        "Block 4: parts",
        "python scripts/explain_examples.py DATA blocks",
        "Petals around a middle, dots, veins, an eye on a wing: parts of things, in any color.",
    ),
    Picture(
        "explain/block5.jpg",
        "Block 5: objects",
        "python scripts/explain_examples.py DATA blocks",
        "Eyes, scales, gears and straps in the paintings; of the flowers a whole daisy excites its channel most.",
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
        "The cat's features decide where strokes bend, the painting their width and color.",
    ),
    Picture(
        "style/cat-strokes-color.jpg",
        "The same in its own colors",
        "python scripts/style_examples.py WEIGHTS cat-strokes-color",
        "Painted by lightness alone (`--keep-color`): the same strokes, but the cat stays brown.",
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
        "Another optimizer and pooling",
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
