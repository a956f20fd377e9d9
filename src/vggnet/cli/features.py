"""`vgg features`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vggnet.cli.bars import extract_by
from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Features:
    """Write the outputs of layers, by the paper's names, for pictures or folders of them. Stopped, it goes on there.

    Example: vgg features photos/ --layers relu2_2 relu4_3 -o photos.safetensors
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]  # image files, or folders of them
    layers: tuple[str, ...]  # such as conv1_1, bn1_1, relu4_3, pool5
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # a .safetensors, .npy (one layer) or .parquet file
    model: str = "vgg16:features"  # a name of `vgg weights list`, a run folder or a .safetensors file
    # one number for each channel instead of a map; gem: the cubic root of the mean of cubes
    pooling: Literal["mean", "max", "gem"] | None = None
    output_stride: Literal[8, 16, 32] = 32  # 8 and 16: deep layers sampled more densely, by dilation
    batch_size: int = 16
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Extract; returns the exit code."""
    args: Features = parse(Features, arguments, prog="vgg features")
    if not args.images:
        raise ConfigError("no picture was given; add image files or folders.")
    from vggnet.features.store import Extraction, extract

    return extract_by(
        "features",
        lambda progress: extract(
            args.model,
            args.images,
            args.layers,
            args.out,
            pooling=args.pooling,
            output_stride=args.output_stride,
            batch_size=args.batch_size,
            device=args.device,
            progress=progress,
        ),
        Extraction.as_json if args.json else Extraction.as_table,
    )
