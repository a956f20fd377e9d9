"""`vgg bench`."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vggnet.cli.parsing import parse


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
    """Time the answer to a batch of images: ours against stock PyTorch and the other libraries that are installed."""

    model: str = "vgg16"  # or one of torchvision's, such as resnet18
    width: float = 1.0
    head: str = "paper"
    size: int = 224  # pixels
    batch: int = 1  # images
    rounds: int = 15
    compiled: bool = False  # torch.compile as well (minutes; needs a C++ compiler)
    peers: bool = True  # onnxruntime, openvino, ncnn, if installed: pip install 'vggnet[peers]'


@dataclass(frozen=True, kw_only=True)
class Article(_Measured):
    """Time a training step with its loading: ours against the article's script as it stands."""

    rounds: int = 5


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


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Infer, tyro.conf.subcommand("infer")]
    | Annotated[Article, tyro.conf.subcommand("article")]
    | Annotated[Shapes, tyro.conf.subcommand("shapes")]
    | Annotated[Features, tyro.conf.subcommand("features")]
    | Annotated[Lpips, tyro.conf.subcommand("lpips")]
    | Annotated[Choices, tyro.conf.subcommand("choices")]
)
DESCRIPTION = """Measure how fast a network trains and answers on this CPU.

Example: vgg bench train --model vgg11_bn --width 0.5"""


def main(arguments: list[str]) -> int:
    """Measure, or show what was chosen; returns the exit code."""
    args: Train | Infer | Article | Shapes | Features | Lpips | Choices
    args = parse(Command, arguments, prog="vgg bench", description=DESCRIPTION)
    if isinstance(args, Choices):
        from vggnet.accel.autotuning import autotuner

        measured = autotuner().measured()
        print(json.dumps(measured) if args.json else _choices_table(measured))
        return 0
    from vggnet.studies.bench import bench_infer, bench_train
    from vggnet.studies.bench_article import bench_article
    from vggnet.studies.bench_reuse import bench_features, bench_lpips
    from vggnet.studies.bench_shapes import bench_shapes

    options = {name: value for name, value in vars(args).items() if name != "json"}
    measures: dict[type, Any] = {
        Train: bench_train, Infer: bench_infer, Article: bench_article, Shapes: bench_shapes,
        Features: bench_features, Lpips: bench_lpips,
    }  # fmt: skip
    bench = measures[type(args)](**options, progress=sys.stderr.isatty())
    print(bench.as_json() if args.json else bench.as_table())
    return 0


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
