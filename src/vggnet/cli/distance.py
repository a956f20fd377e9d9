"""`vgg distance`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vggnet.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Measure how different two images of one size look: LPIPS, and others on request. 0 for equal images.

    Example: vgg distance photo.png compressed.jpg --distances lpips style
    """

    first: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    second: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    distances: tuple[Literal["lpips", "dists", "content", "style"], ...] = ("lpips",)  # which
    # a name of `vgg weights list`, or a folder with vgg16_features.safetensors and lpips_vgg_heads.safetensors
    weights: str = "vgg16:features"
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Compare; returns the exit code."""
    args: Distance = parse(Distance, arguments, prog="vgg distance")
    from vggnet.features.perceptual import compare_images
    from vggnet.report.text import to_json

    comparison = compare_images(args.weights, args.first, args.second, distances=args.distances)
    lines = [f"{name:<8} {value:.4f}" for name, value in comparison.distances.items()]
    print(to_json(comparison) if args.json else "\n".join(lines))
    return 0
