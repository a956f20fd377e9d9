"""`vgg style`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError, check_at_least


@dataclass(frozen=True, kw_only=True)
class Style:
    """Paint one picture as others are painted (Gatys et al.). The result is saved as it grows; Ctrl-C keeps it.

    Example: vgg style photo.jpg painting.jpg -o painted.png --size 512 --keep-color
    """

    content: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONTENT")]
    styles: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STYLE")]  # one or more
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # a .png file
    size: int = 384  # pixels of the longer side
    scales: int = 3  # painted from small to large, each twice the one before
    steps: int = 100  # at each scale
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    pooling: Literal["average", "max"] = "average"  # between the blocks of the network
    style_weights: tuple[float, ...] | None = None  # one for each style; by default equal
    strength: float = 20.0  # of the style, beside the content's 1
    smoothness: float = 0.1  # weight of the differences between neighbors (total variation)
    keep_color: bool = False  # paint by lightness, keep the content's colors
    weights: str = "vgg16:features"  # a name of `vgg weights list`, or a folder with vgg16_features.safetensors
    save_every: int = 25  # steps
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object with the losses


def main(arguments: list[str]) -> int:
    """Paint; returns the exit code."""
    args: Style = parse(Style, arguments, prog="vgg style")
    if args.out.suffix.lower() != ".png":
        raise ConfigError(f"{args.out}: the picture is written as PNG; give a name that ends in .png.")
    check_at_least(1, save_every=args.save_every)
    from tqdm import tqdm

    from vggnet.features.style_transfer import save_step, style_transfer
    from vggnet.training.signals import stop_on_signal

    options = {name: value for name, value in vars(args).items() if name not in ("out", "save_every", "json")}
    painting = style_transfer(**options)
    with stop_on_signal() as stop, tqdm(desc="painting", unit="step", leave=False, disable=None) as bar:
        for step in painting:
            bar.total = step.steps
            bar.set_postfix_str(f"{step.size[0]}x{step.size[1]}, loss {step.loss:.4g}")
            bar.update()
            if stop.requested or step.step % args.save_every == 0 or step.step == step.steps:
                save_step(step, args.out)
            if stop.requested:
                break
    if args.json:
        print(json.dumps({"out": str(args.out), "step": step.step, "steps": step.steps, **step.losses}))
    else:
        print(f"{args.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in step.losses.items()))
    if stop.requested:
        print(f"stopped at step {step.step} of {step.steps}; the picture is what it was then", file=sys.stderr)
        return 130
    return 0
