"""`vgg study`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vggnet.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class _Study:
    data: str
    seeds: int = 3  # runs of each
    figure: Path | None = None  # where the picture goes; by default beside the rows
    json: bool = False  # print one JSON object instead of a table


@dataclass(frozen=True, kw_only=True)
class Speed(_Study):
    """Accuracy against time: train presets on all of train, test each once. Stopped, it goes on where it was.

    Example: vgg study speed --data cifar10 --presets quick --seeds 1
    """

    presets: tuple[str, ...] = ("quick", "fast")
    out: Path = Path("runs/speed")  # the run folders
    rows: Path = Path("docs/speed.jsonl")  # a row for each finished run; what is there is not run again


@dataclass(frozen=True, kw_only=True)
class Depth(_Study):
    """Error against depth: the columns of Table 1 and B's shallow 5x5 twin with one budget; a verdict on each claim.

    Example: vgg study depth --data cifar10 --seeds 3
    """

    width: float = 0.25  # multiplies the channels of the convolutions
    epochs: int = 10
    out: Path = Path("runs/depth")  # the run folders, which networks that start from column A need
    rows: Path = Path("docs/depth.jsonl")  # a row for each finished run; what is there is not run again


Command = Annotated[Speed, tyro.conf.subcommand("speed")] | Annotated[Depth, tyro.conf.subcommand("depth")]
DESCRIPTION = """Train many networks and compare them.

Example: vgg study speed --data cifar10 --presets quick --seeds 1"""


def main(arguments: list[str]) -> int:
    """Run the study; returns the exit code."""
    args: Speed | Depth = parse(Command, arguments, prog="vgg study", description=DESCRIPTION)
    from vggnet.report.figures import draw_depth, draw_speed
    from vggnet.studies.depth import by_label, study_depth
    from vggnet.studies.speed import by_preset, study_speed

    options = {name: value for name, value in vars(args).items() if name not in ("figure", "json")}
    is_speed = isinstance(args, Speed)
    study = study_speed(**options, progress=True) if is_speed else study_depth(**options, progress=True)
    print(study.as_json() if args.json else study.as_table())
    if not study.finished:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return 130
    figure = args.figure or args.rows.with_suffix(".png")
    if is_speed:
        draw_speed(by_preset(study.rows), figure)
    else:
        draw_depth(by_label(study.rows), figure)
    print(f"drawn: {figure}", file=sys.stderr)
    return 0
