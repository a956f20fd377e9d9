"""Write docs/gallery.md: every picture of docs/ and experiments/ with the command that made it.

    python scripts/gallery.py

A new picture needs an entry here; a test finds those that have none.
"""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Picture(NamedTuple):
    file: str  # in the repository
    title: str
    command: str
    seen: str  # what there is to see, in a sentence


PICTURES = (
    Picture(
        "experiments/speed/figure.png",
        "Accuracy against time",
        "python -m experiments.speed.run --data $CIFAR10",
        "Test accuracy of the presets against minutes of training on two cores, with the standard deviation over "
        "seeds: each longer preset is better, and answering by six views adds more than the choice of a seed does.",
    ),
    Picture(
        "experiments/comparison/figure.png",
        "VGG beside other networks",
        "python -m experiments.comparison.run --measure",
        "Published accuracy against the time for one photo, with the range of the rounds: a VGG-16 takes as long as "
        "ResNet-50, which is more right, and less than half of what stock PyTorch needs for it.",
    ),
    Picture(
        "experiments/drawbacks/figure.png",
        "What is held against VGG",
        "python -m experiments.drawbacks.run --data $CIFAR10",
        "The paper's head has 99 of a hundred weights and takes six times as long, for less accuracy; dropout delays "
        "overfitting on 2,000 images and does not prevent it; from A to E the first gradients shrink fifty times, "
        "unless there is batch norm or skips.",
    ),
    Picture(
        "experiments/shrink/figure.png",
        "How small can VGG-16 become?",
        "python -m experiments.shrink.run RUN --data $CIFAR10 --case channels --seed 0",
        "Test accuracy against the multiply-adds that remain: after twelve epochs of training behind pruning, ours is "
        "a point below most published networks, whose given network was a point better and which were trained longer.",
    ),
    Picture(
        "experiments/depth/figure.png",
        "Does depth help on CIFAR-10?",
        "python -m experiments.depth.run --data $CIFAR10",
        "Test error of every column by the same budget: without batch norm the deep ones learn less, or nothing, in so "
        "few epochs, and start better from A; with it, D has the fewest errors.",
    ),
    Picture(
        "experiments/transfer/flowers17.png",
        "VGG-16 learns flowers",
        "vgg train --data $FLOWERS17 --preset photos --init-from vgg16:features --freeze 4 --epochs 12 --lr 0.01 "
        "--val-fraction 0.3334",
        "Loss and accuracy of block 5 and a new head on the features of ImageNet: most is learnt in three epochs.",
    ),
    Picture(
        "docs/look/vgg16.svg",
        "VGG-16 to scale",
        "vgg show vgg16 --svg vgg16.svg",
        "Maps as high as their pixels and as broad as their channels: nine parameters of ten lie in the head, 99 of a "
        "hundred multiplications in the convolutions.",
    ),
    Picture(
        "docs/look/receptive-fields.png",
        "What small kernels see together",
        "vgg show --receptive-field receptive-fields.png",
        "Gradients of real layers: two 3x3 see what one 5x5 sees, three what a 7x7 sees, and the middle counts more.",
    ),
    Picture(
        "experiments/explain/why-dog.jpg",
        "Why a dog?",
        "python -m experiments.explain.run DATA --names why-dog",
        "Four attributions side by side: Grad-CAM points at the head, integrated gradients at eyes and snout; by "
        "occlusion the picture's lower left corner speaks for a dog as well, and its white chest against.",
    ),
    Picture(
        "experiments/explain/why-automobile.jpg",
        "Why an automobile?",
        "python -m experiments.explain.run DATA --names why-automobile",
        "The bonnet speaks for a car; of single pixels those of lamps and windscreen count most, for and against.",
    ),
    Picture(
        "experiments/explain/exciting.jpg",
        "What three channels look for",
        "python -m experiments.explain.run DATA --names exciting",
        "The test images that excite a channel most, and what the place sees of them: deep blue in block 1, bright "
        "green or yellow spots in block 2, small brown birds in block 4.",
    ),
    Picture(
        "experiments/explain/filters.jpg",
        "The first filters of VGG-16",
        "python -m experiments.explain.run DATA --names filters",
        "Edges in several directions, spots, and colors against their opposites; many filters are all but gray.",
    ),
    Picture(
        "experiments/explain/maps.jpg",
        "What block 3 makes of a sunflower",
        "python -m experiments.explain.run DATA --names maps",
        "Each channel answers to petals of some directions; a few answer to the picture's border alone.",
    ),
    Picture(
        "experiments/explain/block1.jpg",
        "Block 1: edges",
        "python -m experiments.explain.run DATA --names blocks",
        "The painted picture, and below it what excites the same channel in two photos: edges and thin lines of one "
        "direction each.",
    ),
    Picture(
        "experiments/explain/block2.jpg",
        "Block 2: strokes and corners",
        "python -m experiments.explain.run DATA --names blocks",
        "Strokes, corners, letters; the paintings become fine textures.",
    ),
    Picture(
        "experiments/explain/block3.jpg",
        "Block 3: textures",
        "python -m experiments.explain.run DATA --names blocks",
        "Tips of petals and stalks; painted as scales, nets and spots.",
    ),
    Picture(
        "experiments/explain/block4.jpg",
        "Block 4: parts",
        "python -m experiments.explain.run DATA --names blocks",
        "Petals around a middle, dots, veins, an eye on a wing: parts of things, in any color.",
    ),
    Picture(
        "experiments/explain/block5.jpg",
        "Block 5: objects",
        "python -m experiments.explain.run DATA --names blocks",
        "Eyes, scales, gears and straps in the paintings; of the flowers a whole daisy excites its channel most.",
    ),
    Picture(
        "experiments/style/strokes.jpg",
        "Strokes, the style",
        "python -m experiments.style.run WEIGHTS",
        "Brush strokes that follow six whirls, drawn by the script; the style of the pictures below.",
    ),
    Picture(
        "experiments/style/cat-strokes.jpg",
        "A cat in strokes",
        "python -m experiments.style.run WEIGHTS --names cat-strokes",
        "The cat's features decide where strokes bend, the painting their width and color.",
    ),
    Picture(
        "experiments/style/cat-strokes-color.jpg",
        "The same in its own colors",
        "python -m experiments.style.run WEIGHTS --names cat-strokes-color",
        "Painted by lightness alone (`--keep-color`): the same strokes, but the cat stays brown.",
    ),
    Picture(
        "experiments/style/cat-strokes-tissue.jpg",
        "Two styles at once",
        "python -m experiments.style.run WEIGHTS --names cat-strokes-tissue",
        "Strokes and a stained tissue, which has twice the weight (`--style-weights 1 2`): its brown and white grain "
        "stands between the strokes.",
    ),
    Picture(
        "experiments/style/coffee-strokes-adam.jpg",
        "Another optimizer and pooling",
        "python -m experiments.style.run WEIGHTS --names coffee-strokes-adam",
        "A cup of coffee by Adam and maximum pooling: harder edges than L-BFGS and average pooling give.",
    ),
)


def main() -> None:
    (ROOT / "docs" / "gallery.md").write_text(page(), encoding="utf-8")


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
            f"![{picture.title}](../{picture.file})",
        ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main()
