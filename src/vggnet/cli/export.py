"""`vgg export`."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vggnet.cli.parsing import parse

if TYPE_CHECKING:
    from vggnet.exporting.export import Export


HOST, PORT = "127.0.0.1", 8000  # where a page is looked at, by this computer alone


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a trained network for another library, run it there, and keep it only if its outputs are the same.

    Example: vgg export runs/mine --to onnx -o mine.onnx --images photos/

    In 8-bit integers: vgg export runs/mine --to onnx -o mine.int8.onnx --int8 --data cifar10

    As a page that runs it in the browser: vgg export runs/mine --to web -o page --runtime node_modules/onnxruntime-web
    """

    source: Annotated[str, tyro.conf.Positional]  # a run folder, a .safetensors file, or a name of `vgg weights list`
    # onnx and openvino have free batch and, with the heads gap, none and dense, free image size; ncnn takes one image;
    # torchvision and timm are weights for their own VGGs, timm's a folder that transformers loads too;
    # web is a folder with a page, for any web server
    to: Literal["onnx", "openvino", "ncnn", "torch-export", "torchvision", "timm", "web"]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the file to write, for timm and web the folder
    with_preprocessing: bool = False  # take uint8 pixels (N, H, W, C), resized and cropped, and normalize them
    images: tuple[Path, ...] = ()  # files and folders to compare outputs for; by default digits of the package
    int8: bool = False  # onnx, openvino, web: weights and activations as 8-bit integers, smaller and often faster
    data: str | None = None  # for --int8: the data set whose train split calibrates and checks the file
    # for web: the npm package onnxruntime-web; `npm install onnxruntime-web` puts it in node_modules/onnxruntime-web
    runtime: Path | None = None
    json: bool = False  # print one JSON object


def main(arguments: list[str]) -> int:
    """Export; returns the exit code."""
    args: Options = parse(Options, arguments, prog="vgg export")
    from vggnet.exporting.export import export
    from vggnet.report.text import to_json

    done = export(
        args.source, args.out, to=args.to, with_preprocessing=args.with_preprocessing, images=args.images,
        int8=args.int8, data=args.data, runtime=args.runtime,
    )  # fmt: skip
    print(to_json(done) if args.json else _text(done))
    return 0


def _text(done: "Export") -> str:
    lines = [
        f"{done.path}: {done.bytes / 1e6:.1f} MB for {done.format}, takes {done.input}",
        f"compared on {done.images} images: outputs differ by at most {done.difference:.1e} of the largest one, "
        f"{done.same_class} have the same class",
    ]
    if done.int8 is not None:
        ours, theirs = done.int8.seconds, done.int8.float_seconds
        lines.append(
            f"8-bit integers, calibrated on {done.int8.calibration_images} images: {done.int8.batch} images take "
            f"{1e3 * ours:.1f} ms, in float32 {1e3 * theirs:.1f} ms ({theirs / ours:.2f} times as fast)"
        )
    if done.format == "web":
        command = f"python -m http.server {PORT} --bind {HOST} --directory {shlex.quote(str(done.path))}"
        lines.append(f"to look at it, open http://{HOST}:{PORT} after: {command}")
    return "\n".join(lines)
