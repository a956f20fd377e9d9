"""`vgg shrink`."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from vggnet.compression.shrink import ShrinkResult

UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """Make a trained network smaller, step by step, and show what each step changes.

    Example: vgg shrink vgg8_bn-cifar10-fast --steps fold,half -o small.safetensors

    To a fifth of the multiply-adds, with training: vgg shrink runs/mine --data cifar10 --steps prune,distill,fold,half
    --to-macs 0.2 -o small.safetensors

    The steps: prune (remove channels of convolutions), tune (train), distill (train, also on the answers of the given
    network), head (another head, trained alone), fold (batch norm into convolutions, at 32 pixels the repeated pool
    into fc6; the outputs stay the same), factorize (fully connected layers as two smaller ones), half or quantize
    (store weights as float16 or int8). Prune and fold come before factorize, storage comes last. Ctrl-C stops; the same
    command goes on.
    """

    # a run folder, a .safetensors file, or a name of `vgg weights list`
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    steps: str  # with commas between, as in prune,distill,fold,half
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the .safetensors file to write
    input: int | None = None  # pixels of both sides of the images; by default what the network was trained on
    data: str | None = None  # images to train on, and to measure accuracy on, as vgg train takes them
    to_macs: float | None = None  # prune: the share of multiply-adds that may remain, such as 0.4
    to_size: str | None = None  # prune: the size of the file, such as 250kB; also together with --to-macs
    # prune: percentage points of validation accuracy that may be lost, such as 0.3; five networks are trained to find
    # the smallest one
    max_drop: float | None = None
    # prune: what makes a channel count: the norm of its filter (l1, l2), the scale of its batch norm (bn), the change
    # of the loss without it (taylor), how independent its maps are of the others (chip); the last two need --data
    criterion: Literal["l1", "l2", "bn", "taylor", "chip"] = "l2"
    floor: float = 0.1  # prune: share of each layer's channels that remains at least
    # prune: channels remain in multiples of it; the fast convolutions need 32 for the matrix unit of a CPU (AMX) and
    # 16 for its vectors
    multiple: int = 32
    rounds: int = 1  # prune: in how many rounds; the network is trained between them
    round_epochs: int = 1  # prune: epochs between two rounds
    epochs: int = 10  # tune, distill, head: epochs
    rate: float = 0.25  # tune, distill, and between rounds: share of the learning rates that the network was trained at
    head: Literal["gap", "cifar"] | None = None  # head: the new one
    # factorize: share that is kept, such as 0.9: with --data of the variance of the outputs, else of the squares of the
    # singular values of the weights
    energy: float | None = None
    rank: int | None = None  # factorize: the rank of every layer, instead of --energy
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Shrink; returns the exit code."""
    args: Shrink = parse(Shrink, arguments, prog="vgg shrink")
    from vggnet.compression.shrink_options import ShrinkOptions

    steps = [step for step in args.steps.split(",") if step]
    options = ShrinkOptions(
        to_macs=args.to_macs,
        to_size=None if args.to_size is None else _num_bytes(args.to_size),
        max_drop=args.max_drop,
        criterion=args.criterion,
        floor=args.floor,
        multiple=args.multiple,
        rounds=args.rounds,
        round_epochs=args.round_epochs,
        energy=args.energy,
        rank=args.rank,
        head=args.head,
        epochs=args.epochs,
        rate=args.rate,
    )
    options.check(steps)
    from vggnet.compression.shrink import shrink
    from vggnet.report.text import table, to_json

    result = shrink(args.source, steps, args.out, options, size=args.input, data=args.data, progress=True)
    for note in result.notes:
        print(f"vgg: {note}", file=sys.stderr)
    if "prune" in steps and not {"tune", "distill"} & set(steps):
        fine_tune = f"vgg train --data {quote(args.data or 'DATA')} --init-from {quote(str(result.out))}"
        print(f"a pruned network needs fine-tuning: --steps prune,distill, or {fine_tune}", file=sys.stderr)
    picture = _draw(result)
    if args.json:
        print(to_json(result))
        return 0
    headings = [
        "step", "parameters", "MACs (M)", "weights (MB)", "ms", "images/s", "val (%)", "test (%)", "change",
    ]  # fmt: skip
    cells = [
        [
            row.step,
            f"{row.parameters:,}",
            f"{row.macs / 1e6:,.1f}",
            f"{row.weights_bytes / 1e6:,.3f}",
            f"{1000 * row.latency:,.2f}",
            f"{row.images_per_second:,.0f}",
            None if row.val_accuracy is None else f"{100 * row.val_accuracy:.2f}",
            None if row.test_accuracy is None else f"{100 * row.test_accuracy:.2f}",
            row.change,
        ]
        for row in result.rows
    ]
    print(table(headings, cells, left=(0, 8)))
    print(
        f"MACs: multiply-adds for one image of {result.size}x{result.size} pixels. ms: for one image on this machine; "
        f"images/s: in batches of {result.batch_size}, both in float32."
    )
    print(f"written: {result.out}, {result.file_bytes / 1e6:,.3f} MB{picture}")
    return 0


def _draw(result: "ShrinkResult") -> str:
    """Draw the steps beside the file, if there is matplotlib; what to say about it."""
    from vggnet.report.text import to_plain

    try:
        from vggnet.report.figures import draw_steps
    except MissingDependencyError as error:
        print(f"vgg: no figure: {error}", file=sys.stderr)
        return ""
    path = result.out.with_suffix(".png")
    draw_steps([to_plain(row) for row in result.rows], path, title=f"{Path(result.source).name}, shrunk")
    return f"; {path}"


def _num_bytes(text: str) -> int:
    """A size such as 250kB.  Raises: ConfigError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kMG]B)?", text.strip())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"to_size is {text}; it must be a size above 0 such as 250kB or 1.5MB.")
    return int(float(found[1]) * UNITS[found[2] or ""])
