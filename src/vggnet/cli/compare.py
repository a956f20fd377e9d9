"""`vgg compare`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from vggnet.benchmarking.comparison import NetworkSpeed

HEADINGS = (
    "network", "parameters (millions)", "GMACs", "file (MB)", "activations (MB)", "latency (ms)", "images/s",
    "fastest by", "top-1 on ImageNet (%)",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare VGGs with AlexNet, GoogLeNet, ResNet, MobileNet and SqueezeNet: what they cost, how fast they infer here.

    Example: vgg compare --models vgg16 resnet18 mobilenet_v2
    """

    models: tuple[str, ...] = ()  # VGGs, or torchvision's names; by default twelve of them (ten minutes on two cores)
    size: int = 224  # pixels
    batch: int = 16  # images at a time, for images/s; latency is of one image
    rounds: int = 9  # for each of three ways: our engine, stock PyTorch in both memory formats
    figure: Path | None = None  # draw published accuracy against latency (PNG), too
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit code."""
    if {"--train", "--data", "--rows"} & {argument.partition("=")[0] for argument in arguments}:
        raise ConfigError(
            "the comparison by training moved: in a copy of the repository, run python -m experiments.comparison.run "
            "--train --data cifar10. vgg compare measures costs and speed."
        )
    args: Compare = parse(Compare, arguments, prog="vgg compare")
    from vggnet.benchmarking.comparison import OTHERS, VGGS, compare_speed, draw_comparison
    from vggnet.report.text import table, to_json

    found: list[NetworkSpeed] = []
    code = 0
    try:
        models = args.models or (*VGGS, *OTHERS)
        for network in compare_speed(models, size=args.size, batch=args.batch, rounds=args.rounds, progress=True):
            found.append(network)  # noqa: PERF402 (what is measured is kept when Ctrl-C comes)
    except KeyboardInterrupt:
        print("stopped; these networks were measured", file=sys.stderr)
        code = 130
    found.sort(key=lambda network: -published(network))
    if args.json:
        print(to_json({"networks": found}))
    elif found:
        print(table(HEADINGS, [cells(network) for network in found], left=(0, 7)))
        print(*(f"\n{note}" for note in notes(found)), sep="")
    if args.figure and not code:
        draw_comparison(found, args.figure)
        print(f"drawn: {args.figure}", file=sys.stderr)
    return code


def published(network: "NetworkSpeed") -> float:
    """Top-1 accuracy on ImageNet (%) of torchvision's older weights, 0 if there are none."""
    from vggnet.benchmarking.comparison import PUBLISHED

    return network.accuracy.get(PUBLISHED, 0.0)


def cells(network: "NetworkSpeed") -> list[str | None]:
    """Text below HEADINGS."""
    ms = [1e3 * seconds for seconds in network.latency[network.fastest]]
    accuracy, best = published(network), max(network.accuracy.values(), default=0.0)
    return [
        network.model,
        f"{network.parameters / 1e6:.2f}",
        f"{network.macs / 1e9:.3f}",
        f"{network.file_bytes / 1e6:.1f}",
        f"{network.activation_bytes / 1e6:.1f}",
        f"{median(ms):.1f} ({min(ms):.1f}-{max(ms):.1f})",
        f"{network.images_per_second:.1f}",
        network.fastest,
        (f"{accuracy:.2f}" + (f" ({best:.2f})" if best > accuracy else "")) if accuracy else None,
    ]


def notes(networks: Sequence["NetworkSpeed"]) -> Iterator[str]:
    """What the columns are, and where the numbers come from."""
    from vggnet.benchmarking.comparison import PUBLISHED

    one = networks[0]
    yield (
        f"Counted for one image of {one.size}x{one.size} pixels: GMACs are billions of multiply-adds; the file holds "
        "float32; activations are what training keeps of the image for its backward pass. MB are millions of bytes."
    )
    yield (
        f"Latency is of one image, images/s are in batches of {one.batch}; medians of {one.rounds} rounds, "
        "from the fastest to the slowest in parentheses; the fastest of three ways, measured in turns with random "
        "weights: vggnet's engine, and stock PyTorch in either memory format."
    )
    yield (
        f"Accuracy on ImageNet is not measured here: torchvision {one.environment['torchvision']} states it of its "
        f"weights {PUBLISHED}, trained by the recipes of their time; in parentheses of its best weights, where they "
        "are better."
    )
