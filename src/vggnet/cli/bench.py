"""`vgg bench`."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from vggnet.accel.calibration import Calibration
    from vggnet.benchmarking.convolution_timing import ShapesBench
    from vggnet.benchmarking.timing import Bench


@dataclass(frozen=True, kw_only=True)
class _Measured:
    json: bool = False  # print one JSON object instead of a table


@dataclass(frozen=True, kw_only=True)
class Train(_Measured):
    """Time a training step: ours against stock PyTorch in both memory formats, measured in turns."""

    model: str = "vgg16_bn"  # or one of torchvision's, such as resnet18
    width: float = 1.0
    head: str = "cifar"
    size: int = 32  # pixels
    batch: int = 128  # images
    rounds: int = 7
    compiled: bool = False  # torch.compile as well (minutes; needs a C++ compiler)
    memory: bool = False  # the most memory of each way as well, each in a process of its own


@dataclass(frozen=True, kw_only=True)
class Infer(_Measured):
    """Time inference for a batch of images: ours against stock PyTorch and the other libraries that are installed.

    Example: vgg bench infer --model runs/mine --exported mine.onnx mine.int8.onnx
    """

    model: str = "vgg16"  # or one of torchvision's, such as resnet18; or a run folder, a .safetensors file, a name
    width: float = 1.0
    head: str = "paper"
    size: int | None = None  # pixels; by default 224, or what a trained network takes
    batch: int = 1  # images
    rounds: int = 15
    exported: tuple[Path, ...] = ()  # .onnx, .xml, .param files of `vgg export` from a trained network, timed as well
    compiled: bool = False  # torch.compile as well (minutes; needs a C++ compiler)
    peers: bool = True  # onnxruntime, openvino, ncnn, if installed: pip install 'vggnet[peers]'


@dataclass(frozen=True, kw_only=True)
class Shapes(_Measured):
    """Time each convolution of the VGGs at 32, 64 and 224 pixels: ours against PyTorch's."""

    rounds: int = 7


@dataclass(frozen=True, kw_only=True)
class Features(_Measured):
    """Time one layer's output for a batch of images: ours against torchvision's create_feature_extractor."""

    model: str = "vgg16"
    layer: str = "relu4_3"
    size: int = 224  # pixels
    batch: int = 16  # images
    rounds: int = 7


@dataclass(frozen=True, kw_only=True)
class Lpips(_Measured):
    """Time LPIPS of a batch of pairs of images: ours against the package lpips (pip install 'vggnet[peers]')."""

    size: int = 64  # pixels
    batch: int = 16  # pairs
    rounds: int = 7
    gradient: bool = False  # with the gradient for the first image of each pair, as when it is a loss


@dataclass(frozen=True, kw_only=True)
class Choices(_Measured):
    """Show which algorithm each convolution takes on this machine, and the milliseconds that were measured."""


@dataclass(frozen=True, kw_only=True)
class Calibrate(_Measured):
    """Measure a few shapes, so that predicted choices of algorithms fit to this machine (half a minute)."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Infer, tyro.conf.subcommand("infer")]
    | Annotated[Shapes, tyro.conf.subcommand("shapes")]
    | Annotated[Features, tyro.conf.subcommand("features")]
    | Annotated[Lpips, tyro.conf.subcommand("lpips")]
    | Annotated[Choices, tyro.conf.subcommand("choices")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
)
DESCRIPTION = """Measure how fast a network trains and infers on this CPU.

Example: vgg bench train --model vgg11_bn --width 0.5"""


def main(arguments: list[str]) -> int:
    """Measure, or show which algorithms were chosen; returns the exit code."""
    if arguments[:1] == ["article"]:
        raise ConfigError(
            "vgg bench article moved: in a copy of the repository, run python -m experiments.tutorial.run --measure."
        )
    args: Train | Infer | Shapes | Features | Lpips | Choices | Calibrate
    args = parse(Command, arguments, prog="vgg bench", description=DESCRIPTION)
    if isinstance(args, Choices):
        from vggnet.accel.autotuning import autotuner
        from vggnet.accel.compilation import problem

        if problem():
            print(f"PyTorch computes all convolutions on this machine: {problem()}.", file=sys.stderr)
        measured = autotuner().measured()
        print(json.dumps(measured) if args.json else _choices_table(measured))
        return 0
    if isinstance(args, Calibrate):
        from vggnet.accel.calibration import calibrate
        from vggnet.report.text import to_json

        calibration = calibrate(progress=True)
        print(to_json(calibration) if args.json else calibration_as_text(calibration))
        return 0
    from vggnet.benchmarking.convolution_timing import bench_shapes
    from vggnet.benchmarking.feature_timing import bench_features, bench_lpips
    from vggnet.benchmarking.timing import bench_infer, bench_train
    from vggnet.report.text import to_json, to_plain

    options = {name: value for name, value in vars(args).items() if name != "json"}
    if isinstance(args, Shapes):
        shapes = bench_shapes(**options, progress=True)
        print(to_json({**to_plain(shapes), "ratio": shapes.ratio}) if args.json else shapes_as_text(shapes))
        return 0
    measures: dict[type, Any] = {Train: bench_train, Infer: bench_infer, Features: bench_features, Lpips: bench_lpips}
    bench: Bench = measures[type(args)](**options, progress=True)
    plain = {**to_plain(bench), "medians": bench.medians, "precisions": bench.precisions, "ratio": bench.ratio}
    print(to_json(plain) if args.json else bench_as_text(bench))
    return 0


def bench_as_text(bench: "Bench") -> str:
    """A line for each way, the fastest first; the last line is the ratio.

    The error is the largest difference from float64, relative to the largest value.
    """
    from vggnet.benchmarking.accuracy import BFLOAT16
    from vggnet.report.text import table

    memory = bench.peak_bytes or {}
    numbers = ["median (ms)", "fastest", "slowest", "images/s", *(["error"] if bench.errors else [])]
    headings = ["way", "precision", *numbers, *(["peak (MB)"] if memory else [])]
    rows = []
    for way, seconds in bench.medians.items():
        ms = [f"{1e3 * value:.1f}" for value in (seconds, min(bench.seconds[way]), max(bench.seconds[way]))]
        peak = [f"{memory[way] / 1e6:.0f}"] if memory else []
        found = [f"{bench.batch / seconds:.1f}", *([f"{bench.errors[way]:.1e}"] if bench.errors else [])]
        rows.append([way.removesuffix(BFLOAT16), bench.precisions[way], *ms, *found, *peak])
    last = f"{bench.ratio:.2f} times as fast as the fastest other way"
    return f"{bench.work}\n{table(headings, rows, left=(0, 1))}\n{last}"


def shapes_as_text(shapes: "ShapesBench") -> str:
    """A line for each pass of each shape; the last line is the smallest ratio."""
    from vggnet.report.text import table

    ways = list(shapes.rows[0]["ms"])
    headings = ["pass", "shape", "precision", *(f"{way} (ms)" for way in ways), "ratio", "errors"]
    rows = []
    for row in shapes.rows:
        ms = [f"{row['ms'][way]:.2f}" if way in row["ms"] else "-" for way in ways]
        errors = " ".join(f"{error:.0e}" for error in row["errors"].values())
        rows.append([row["pass"], row["shape"], row["precision"], *ms, f"{row['ratio']:.2f}", errors])
    last = f"at least {shapes.ratio:.2f} times as fast as PyTorch's fastest way in the same precision"
    return f"{table(headings, rows, left=(0, 1, 2))}\n{last}"


def calibration_as_text(calibration: "Calibration") -> str:
    """How good choices are without measuring, before and after; then where the rates are."""
    from vggnet.report.text import table

    rows = [
        ["PyTorch, channels-last", f"{calibration.stock:.2f}"],
        ["predicted, before", f"{calibration.before:.2f}"],
        ["predicted, after", f"{calibration.after:.2f}"],
    ]
    kept = f"kept in {calibration.path}" if calibration.kept else "not kept: the choices before were better"
    return (
        f"fitted to {calibration.shapes} shapes; float32, on {calibration.held_out} others:\n"
        f"{table(['choices', 'time by that of the best'], rows)}\n{kept}"
    )


def _choices_table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each pass and shape: the fastest algorithm, then the milliseconds of each that was measured."""
    if not measured:
        return "nothing was measured yet; train, test or predict on a CPU, or run vgg bench train"
    width = max(map(len, measured))
    lines = [f"{'pass and shape':<{width}}  algorithm  milliseconds"]
    for key, choice in sorted(measured.items()):
        times = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(choice["ms"].items(), key=lambda item: item[1]))
        lines.append(f"{key:<{width}}  {choice['algorithm']:<9}  {times}")
    return "\n".join(lines)
