"""`vgg style`."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError, check_at_least


@dataclass(frozen=True, kw_only=True)
class Style:
    """Transfer the style of images to another image (Gatys et al.). The result is saved as it grows; Ctrl-C keeps it.

    Example: vgg style photo.jpg painting.jpg -o painted.png --size 512 --keep-color
    """

    content: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONTENT")]
    styles: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STYLE")]  # one or more
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # a .png file
    size: int = 384  # pixels of the longer side
    scales: int = 3  # sizes from small to large, each twice the one before
    steps: int = 100  # at each scale
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    pooling: Literal["average", "max"] = "average"  # between the blocks of the network
    style_weights: tuple[float, ...] | None = None  # one for each style; by default equal
    strength: float = 20.0  # of the style, beside the content's 1
    smoothness: float = 0.1  # weight of the differences between neighbors (total variation)
    keep_color: bool = False  # optimize the lightness only, keep the content's colors
    weights: str = "vgg16:features"  # a name of `vgg weights list`, or a folder with vgg16_features.safetensors
    save_every: int = 25  # steps
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object with the losses


def main(arguments: list[str]) -> int:
    """Transfer the style; returns the exit code."""
    args: Style = parse(Style, arguments, prog="vgg style")
    if args.out.suffix.lower() != ".png":
        raise ConfigError(f"{args.out}: the image is written as PNG; give a name that ends in .png.")
    check_at_least(1, save_every=args.save_every)
    from vggnet.features.style_transfer import save_step, transfer
    from vggnet.report.text import to_json
    from vggnet.training.signals import stop_on_signal

    options = {n: value for n, value in vars(args).items() if n not in ("out", "save_every", "json", "weights")}
    steps = transfer(model=args.weights, **options, progress=True)
    with stop_on_signal() as stop, closing(steps):
        for step in steps:
            if stop.requested or step.step % args.save_every == 0 or step.step == step.steps:
                save_step(step, args.out)
            if stop.requested:
                break
    if args.json:
        print(to_json({"out": str(args.out), "step": step.step, "steps": step.steps, **step.losses}))
    else:
        print(f"{args.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in step.losses.items()))
    if stop.requested:
        print(f"stopped at step {step.step} of {step.steps}; the image of that step is saved", file=sys.stderr)
        return 130
    return 0
