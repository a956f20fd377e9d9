"""`vgg bench`."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Train:
    """Time a training step: ours against stock PyTorch in both memory formats, measured in turns."""

    model: str = "vgg16_bn"
    width: float = 1.0
    head: str = "cifar"
    size: int = 32  # pixels
    batch: int = 128  # images
    rounds: int = 7
    compiled: bool = False  # torch.compile as well (minutes; needs a C++ compiler)
    json: bool = False  # print one JSON object instead of a table


@dataclass(frozen=True, kw_only=True)
class Infer:
    """Time the answer to a batch of images: ours against stock PyTorch in both memory formats, measured in turns."""

    model: str = "vgg16"
    width: float = 1.0
    head: str = "paper"
    size: int = 224  # pixels
    batch: int = 1  # images
    rounds: int = 15
    compiled: bool = False  # torch.compile as well (minutes; needs a C++ compiler)
    json: bool = False  # print one JSON object instead of a table


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Show which algorithm each convolution takes on this machine, and the milliseconds that were measured."""

    json: bool = False  # print one JSON object instead of a table


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Infer, tyro.conf.subcommand("infer")]
    | Annotated[Choices, tyro.conf.subcommand("choices")]
)
DESCRIPTION = """Measure how fast a network trains and answers on this CPU.

Example: vgg bench train --model vgg11_bn --width 0.5"""


def main(arguments: list[str]) -> int:
    """Measure, or show what was chosen; returns the exit code."""
    args = tyro.cli(Command, args=arguments, prog="vgg bench", description=DESCRIPTION)
    if isinstance(args, Choices):
        from vggnet.conv3x3.choice import choices

        found = choices()
        print(json.dumps(found.as_dict()) if args.json else found.as_table())
        return 0
    from vggnet.studies.bench import bench_infer, bench_train

    measure = bench_train if isinstance(args, Train) else bench_infer
    bench = measure(
        args.model, width=args.width, head=args.head, size=args.size, batch=args.batch, rounds=args.rounds,
        compiled=args.compiled, progress=sys.stderr.isatty(),
    )  # fmt: skip
    print(bench.as_json() if args.json else bench.as_table())
    return 0
