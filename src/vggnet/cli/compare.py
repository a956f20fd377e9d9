"""`vgg compare`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Compare:
    """VGGs beside AlexNet, GoogLeNet, ResNets, MobileNets and SqueezeNet: what they cost, how fast they answer here.

    Example: vgg compare --models vgg16 resnet18 mobilenet_v2

    By the same training as well: vgg compare --train --data cifar10 --models vgg11_bn resnet18 --epochs 5

    Each finished network is a row, and what is there is not measured again. Stopped, it goes on where it was.
    """

    models: tuple[str, ...] = ()  # VGGs, or torchvision's names; by default twelve of them
    size: int = 224  # pixels
    batch: int = 16  # images at a time, for images/s; latency is of one image
    rounds: int = 9  # of each way to answer: our engine, stock PyTorch in both memory formats
    train: bool = False  # train each as well, by the same budget, on --data; hours for all of them
    data: str | None = None
    epochs: int = 5
    seeds: int = 1  # runs of each
    out: Path = Path("runs/compare")  # checkpoints of the trainings
    rows: Path = Path("docs/compare.jsonl")
    figure: Path | None = None  # accuracy against latency; by default beside the rows
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Measure, and train if asked; returns the exit code."""
    args: Compare = parse(Compare, arguments, prog="vgg compare")
    if args.train != (args.data is not None):
        raise ConfigError("--train and --data go together: add the other one, as in --train --data cifar10.")
    from vggnet.studies.compare import OTHERS, VGGS, compare_speed, compare_training, draw_comparison
    from vggnet.studies.fitting import open_both

    if args.data is not None:
        open_both(args.data)  # what is missing is said first
    models = args.models or (*VGGS, *OTHERS)
    shared: dict[str, Any] = {"rows": args.rows, "progress": True}
    found = compare_speed(models, size=args.size, batch=args.batch, rounds=args.rounds, **shared)
    if found.finished and args.data is not None:
        found = compare_training(args.data, models, epochs=args.epochs, seeds=args.seeds, out=args.out, **shared)
    print(found.as_json() if args.json else found.as_table())
    if not found.finished:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return 130
    figure = args.figure or args.rows.with_suffix(".png")
    draw_comparison(found.rows, figure)
    print(f"drawn: {figure}", file=sys.stderr)
    return 0
