"""`vgg report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from vggnet.run_report import Report as Written


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the report of a run as one HTML page: curves, mistakes, calibration, configuration. It works offline.

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
    from vggnet.report.text import to_json
    from vggnet.run_report import write_report

    report = write_report(args.runs, out=args.out)
    print(to_json(report) if args.json else _text(report))
    return 0


def _text(report: "Written") -> str:
    """A line for each run, then what is missing; the last line is the path of the report."""
    lines = []
    for run in report.runs:
        split = run["test_split"]
        shares = {
            "validation accuracy": run["val_accuracy"],
            f"{split} accuracy": run["test_accuracy"],
            f"{split} localization error, class given,": run["box_error"],
        }
        known = [f"{name} {100 * share:.2f} %" for name, share in shares.items() if share is not None]
        lines.append(", ".join([f"{run['run']}: epochs {run['epochs']}", *known]))
    return "\n".join([*lines, *report.notes, f"report: {report.path}"])
