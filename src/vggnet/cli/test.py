"""`vgg test`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vggnet.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Test:
    """Measure a trained network: accuracy, loss, each class, confusion, calibration; draws the mistakes.

    Example: vgg test runs/mine --data cifar10 --split test
    """

    # a run folder, a .safetensors file, or a name of `vgg weights list`
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    data: str | None = None  # by default what it was trained on
    split: str = "test"
    batch_size: int | None = None  # by default 500 small images or 32 photos
    workers: int | None = None  # loader processes; by default none for small images, else one a core
    device: str | None = None  # by default a GPU if there is one
    views: Literal[1, 6] = 1  # 6: mean over the image, two shifts of a pixel, and their mirror images
    out: Path | None = None  # where test.json and the pictures go; by default the run folder
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Test; returns the exit code."""
    args: Test = parse(Test, arguments, prog="vgg test")
    from vggnet.errors import ConfigError
    from vggnet.evaluation.testing import test
    from vggnet.training.run import Run
    from vggnet.weights.files import locate
    from vggnet.weights.named import card, find

    locate(args.model)  # what is missing is said first
    is_run = args.model.is_dir()
    named = find(args.model) is not None
    if args.data is None and not is_run and not named:
        raise ConfigError(f"{args.model} does not say which data to test on; add --data.")
    data = args.data or (card(str(args.model)).data if named else Run.open(args.model).data)
    out = args.out or (args.model if is_run else None)
    result = test(
        args.model,
        data=data,
        split=args.split,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        views=args.views,
        out=out,
    )
    print(result.as_json() if args.json else result.as_table())
    if result.error:
        print(f"vgg: {result.error}", file=sys.stderr)
    return 2 if result.error else 0
