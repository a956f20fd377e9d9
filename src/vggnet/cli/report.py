"""`vgg report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write what a run has shown as one page: curves, mistakes, calibration, configuration. It needs no network.

    Example: vgg report runs/mine

    Compare: vgg report runs/mine runs/wider --out comparison.html
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]  # run folders
    # the file; by default report.html in the folder of the run, or comparison.html here
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    json: bool = False  # print one JSON object instead of lines


def main(arguments: list[str]) -> int:
    """Write the report; returns the exit code."""
    args: Report = parse(Report, arguments, prog="vgg report")
    if not args.runs:
        raise ConfigError("no run was given; give the folder of one, or of several to compare them.")
    from vggnet.training.run_report import write_report

    report = write_report(args.runs, out=args.out)
    print(report.as_json() if args.json else report.as_table())
    return 0
