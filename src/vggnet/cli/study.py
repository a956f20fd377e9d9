"""`vgg study`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from vggnet.cli.parsing import parse_only


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Train presets on all of train, test each once, and draw accuracy against time. Stopped, it goes on where it was.

    Example: vgg study speed --data cifar10 --presets quick --seeds 1
    """

    data: str
    presets: tuple[str, ...] = ("quick", "fast")
    seeds: int = 3  # runs of each preset
    out: Path = Path("runs/speed")  # the run folders
    rows: Path = Path("docs/speed.jsonl")  # a row for each finished run; what is there is not run again
    figure: Path | None = None  # where the picture goes; by default beside the rows
    json: bool = False  # print one JSON object instead of a table


USAGE = """usage: vgg study speed --data DATA ...

Train many networks and compare them.

studies:
  speed    accuracy against time: the presets, with several seeds each

Example: vgg study speed --data cifar10 --presets quick --seeds 1

`vgg study speed --help` has its options."""


def main(arguments: list[str]) -> int:
    """Run the study; returns the exit code."""
    args: Speed | None = parse_only(Speed, "speed", arguments, prog="vgg study", usage=USAGE)
    if args is None:
        return 0
    from vggnet.report.figures import draw_speed
    from vggnet.studies.speed import by_preset, study_speed

    study = study_speed(args.data, presets=args.presets, seeds=args.seeds, out=args.out, rows=args.rows, progress=True)
    print(study.as_json() if args.json else study.as_table())
    if not study.finished:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return 130
    figure = args.figure or args.rows.with_suffix(".png")
    draw_speed(by_preset(study.rows), figure)
    print(f"drawn: {figure}", file=sys.stderr)
    return 0
