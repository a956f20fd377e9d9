"""`vgg features`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vggnet.cli.parsing import PrecisionOption, parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from vggnet.accel.precision import PrecisionChoice
    from vggnet.features.store import Extraction


@dataclass(frozen=True, kw_only=True)
class Features:
    """Write the outputs of layers, by the paper's names, for images or folders of them. An interrupted run resumes.

    Example: vgg features photos/ --layers relu2_2 relu4_3 -o photos.safetensors
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]  # image files, or folders of them
    layers: tuple[str, ...]  # such as conv1_1, bn1_1, relu4_3, pool5, fc6, relu7
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # a .safetensors, .npy (one layer) or .parquet file
    model: str = "vgg16:features"  # a name of `vgg weights list`, a run folder or a .safetensors file
    # one number for each channel instead of a map; gem: the cubic root of the mean of cubes
    pooling: Literal["mean", "max", "gem"] | None = None
    output_stride: Literal[8, 16, 32] = 32  # 8 and 16: deep layers sampled more densely, by dilation
    batch_size: int = 16
    device: str | None = None  # by default a GPU if there is one
    precision: PrecisionOption = "float32"
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Extract; returns the exit code."""
    args: Features = parse(Features, arguments, prog="vgg features")
    if not args.images:
        raise ConfigError("no image was given; add image files or folders.")
    from vggnet.features.store import extract_to_file
    from vggnet.report.text import to_json

    return run_extraction(
        lambda: extract_to_file(
            args.model,
            args.images,
            args.layers,
            args.out,
            pooling=args.pooling,
            output_stride=args.output_stride,
            batch_size=args.batch_size,
            device=args.device,
            progress=True,
        ),
        to_json if args.json else _text,
        args.precision,
    )


def run_extraction(
    extract: "Callable[[], Extraction]", text: "Callable[[Extraction], str]", precision: "PrecisionChoice"
) -> int:
    """Extract, print the result and the images that cannot be read; returns the exit code."""
    from vggnet.accel.precision import products_in
    from vggnet.data.formats import left_out_text

    try:
        with products_in(precision):
            extraction = extract()
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return 130
    print(text(extraction))
    if extraction.left_out:
        print(f"vgg: {left_out_text(extraction.left_out)}", file=sys.stderr)
    for message in extraction.unreadable:
        print(f"vgg: {message}", file=sys.stderr)
    return 2 if extraction.unreadable else 0


def _text(extraction: "Extraction") -> str:
    layers = [f"  {name}  {' x '.join(map(str, shape))}" for name, shape in extraction.shapes.items()]
    return "\n".join([f"{extraction.path}: float32 features of {extraction.images:,} images", *layers])
