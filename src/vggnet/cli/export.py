"""`vgg export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vggnet.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a trained network for another library, run it there, and keep it only if its outputs are the same.

    Example: vgg export runs/mine --to onnx -o mine.onnx --images photos/
    """

    source: Annotated[str, tyro.conf.Positional]  # a run folder, a .safetensors file, or a name of `vgg weights list`
    # onnx and openvino have free batch and, with the heads gap, none and dense, free image size; ncnn takes one image;
    # torchvision and timm are weights for their own VGGs, timm's a folder that transformers loads too
    to: Literal["onnx", "openvino", "ncnn", "torch-export", "torchvision", "timm"]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the file to write, for timm the folder
    with_preprocessing: bool = False  # take uint8 pixels (N, H, W, C), resized and cropped, and normalize them
    images: tuple[Path, ...] = ()  # files and folders to compare outputs for; by default digits of the package
    json: bool = False  # print one JSON object


def main(arguments: list[str]) -> int:
    """Export; returns the exit code."""
    args: Options = parse(Options, arguments, prog="vgg export")
    from vggnet.exporting.export import export
    from vggnet.report.text import to_json

    done = export(args.source, args.out, to=args.to, with_preprocessing=args.with_preprocessing, images=args.images)
    print(
        to_json(done)
        if args.json
        else f"{done.path}: {done.bytes / 1e6:.1f} MB for {done.format}, takes {done.input}\n"
        f"compared on {done.images} images: outputs differ by at most {done.difference:.1e} of the largest one, "
        f"{done.same_class} have the same class"
    )
    return 0
