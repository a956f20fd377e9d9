"""`vgg distance`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vggnet.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Tell how different two pictures of one size look: LPIPS, and others on request. 0 for the same picture.

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
    from vggnet.features.comparing import compare

    comparison = compare(args.first, args.second, args.distances, weights=args.weights)
    print(comparison.as_json() if args.json else comparison.as_table())
    return 0
