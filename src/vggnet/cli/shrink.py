"""`vgg shrink`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import tyro

from vggnet.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """Make a trained network smaller, step by step, and show what each step changes.

    Example: vgg shrink vgg8_bn-cifar10-fast --steps fold,half -o small.safetensors

    To half of the multiply-adds: vgg shrink runs/mine --steps prune --to-macs 0.5 -o pruned.safetensors

    Then fine-tune: vgg train --data cifar10 --init-from pruned.safetensors --epochs 4

    The steps: fold (batch norm into convolutions, at 32 pixels the repeated pool into fc6; the outputs stay the same),
    prune (remove channels of convolutions), factorize (fully connected layers as two smaller ones), half (store weights
    as float16). Fold and prune come before factorize, half comes last.
    """

    # a run folder, a .safetensors file, or a name of `vgg weights list`
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    steps: str  # with commas between, as in prune,fold,factorize,half
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the .safetensors file to write
    input: int | None = None  # pixels of both sides of the images; by default what the network was trained on
    to_macs: float | None = None  # prune: the share of multiply-adds that may remain, such as 0.4
    # prune: what makes a channel count: the norm of its filter (sum of absolute values, or Euclidean), or the scale of
    # its batch norm
    criterion: Literal["l1", "l2", "bn"] = "l2"
    floor: float = 0.1  # prune: share of each layer's channels that remains at least
    energy: float | None = None  # factorize: share of the squares of the singular values that is kept, such as 0.9
    rank: int | None = None  # factorize: the rank of every layer, instead of --energy
    data: str | None = None  # measure the accuracy after each step on the test images of these data
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Shrink; returns the exit code."""
    args: Shrink = parse(Shrink, arguments, prog="vgg shrink")
    from vggnet.compression.shrink import shrink
    from vggnet.report.text import table, to_json

    steps = [step for step in args.steps.split(",") if step]
    result = shrink(
        args.source,
        steps,
        args.out,
        size=args.input,
        to_macs=args.to_macs,
        criterion=args.criterion,
        floor=args.floor,
        energy=args.energy,
        rank=args.rank,
        data=args.data,
        progress=True,
    )
    for note in result.notes:
        print(f"vgg: {note}", file=sys.stderr)
    if "prune" in steps:
        fine_tune = f"vgg train --data {quote(args.data or 'DATA')} --init-from {quote(str(result.out))}"
        print(f"a pruned network needs fine-tuning: {fine_tune}", file=sys.stderr)
    if args.json:
        print(to_json(result))
        return 0
    headings = ["step", "parameters", "MACs (M)", "weights (MB)", "accuracy (%)", "change"]
    cells = [
        [
            row.step,
            f"{row.parameters:,}",
            f"{row.macs / 1e6:,.1f}",
            f"{row.weights_bytes / 1e6:,.2f}",
            None if row.accuracy is None else f"{100 * row.accuracy:.2f}",
            row.change,
        ]
        for row in result.rows
    ]
    print(table(headings, cells, left=(0, 5)))
    print(f"MACs: multiply-adds for one image of {result.size}x{result.size} pixels.")
    print(f"written: {result.out}, {result.file_bytes / 1e6:,.2f} MB")
    return 0
