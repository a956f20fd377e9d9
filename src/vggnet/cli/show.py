"""`vgg show`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vggnet.interpret.claims import Claims
    from vggnet.interpret.paper_tables import PaperTables
    from vggnet.interpret.summary import LayerTable

DEPTH_ROWS = Path("docs/depth.jsonl")  # where `vgg study depth` puts them
WIDE = 120  # columns of a terminal that all of the layer table goes into
UNSEEN = 140  # columns where the output is no terminal


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show a network layer by layer, with sizes, parameters, work, memory and receptive fields; or tables; or claims.

    Example: vgg show vgg16 --input 160 --html vgg16.html --svg vgg16.svg

    All tables of the paper: vgg show --paper

    What the tutorial says of VGG, recomputed or measured here: vgg show --claims --data cifar10
    """

    # a model's name (vgg16, D, vgg8_bn), a run folder, a .safetensors file, or a name of `vgg weights list`; by default
    # vgg16
    network: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK")] = None
    input: int | None = None  # pixels a side; by default what the weights were trained on, else 224, or 32 if small
    head: str | None = None  # paper, cifar, gap, dense, folded or none; by default paper, for vgg8_bn cifar
    width: float | None = None  # multiplies the channels of the convolutions
    classes: int | None = None  # by default 1000; 10 for the heads cifar and folded
    html: Path | None = None  # write the table and the drawing as one page, too
    svg: Path | None = None  # write the drawing, too
    paper: bool = False  # Tables 1 to 6 of the paper instead of a network
    claims: bool = False  # the tutorial's claims instead of a network, each checked; takes half a minute
    data: str | None = None  # with --claims: CIFAR-10, as in `vgg train`, whose deviation one of them is about
    receptive_field: Path | None = None  # draw (as PNG) what a 5x5 and two 3x3 see, and a 7x7 and three 3x3
    json: bool = False  # print one JSON object instead of tables


def main(arguments: list[str]) -> int:
    """Show; returns the exit code."""
    args: Show = parse(Show, arguments, prog="vgg show")
    _check(args)
    if args.paper:
        return _show_paper(args)
    if args.claims:
        return _show_claims(args)
    if args.receptive_field:
        return _draw_fields(args.receptive_field)
    return _show_network(args)


def _check(args: Show) -> None:
    """Raises: ConfigError for options that have no meaning together."""
    instead = {"--paper": args.paper, "--claims": args.claims, "--receptive-field": args.receptive_field}
    chosen = [option for option, given in instead.items() if given]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} are shown one at a time; leave out all but one.")
    of_network = {
        "the network": args.network, "--input": args.input, "--head": args.head, "--width": args.width,
        "--classes": args.classes, "--html": args.html, "--svg": args.svg,
    }  # fmt: skip
    given = [option for option, value in of_network.items() if value is not None]
    if chosen and given:
        raise ConfigError(f"{chosen[0]} is not about one network; leave out {', '.join(given)}.")
    if args.data and not args.claims:
        raise ConfigError("--data is for --claims; add that, or leave it out.")


def _show_network(args: Show) -> int:
    from vggnet.interpret.summary import layer_table

    table = layer_table(
        args.network or "vgg16", size=args.input, head=args.head, width=args.width, num_classes=args.classes
    )
    if args.json:
        print(table.as_json())
    else:
        _print_network(table)
    if args.svg or args.html:
        _write(table, args.svg, args.html)
    return 0


def _write(table: "LayerTable", svg: Path | None, html: Path | None) -> None:
    from vggnet.files import write_text
    from vggnet.interpret.summary import HEADINGS, NOTES, WORDS
    from vggnet.report.network_page import network_page, network_svg

    drawing = network_svg(table.as_dict()["rows"], title=table.title)
    page = network_page(
        title=table.title,
        summary=table.summary(),
        drawing=drawing,
        headings=HEADINGS,
        rows=[row.as_cells() for row in table.rows],
        totals=table.totals(),
        text_columns=WORDS,
        notes=NOTES,
    )
    for path, text in ((svg, drawing), (html, page)):
        if path is not None:
            write_text(path, text)
            print(f"written: {path}", file=sys.stderr)


def _print_network(table: "LayerTable") -> None:
    from vggnet.interpret.summary import HEADINGS, NOTES, WORDS

    console = _console()
    wide = console.width >= WIDE
    shown = [place for place, name in enumerate(HEADINGS) if wide or name not in ("stage", "channels", "remark")]
    grid = _grid(
        [HEADINGS[place].replace(" ", "\n") for place in shown],
        [shown.index(place) for place in WORDS if place in shown],
    )
    stages = [row.stage for row in table.rows]
    for row, following in zip(table.rows, [*stages[1:], None], strict=True):
        cells = row.as_cells()
        grid.add_row(*(cells[place] for place in shown), end_section=row.stage != following)
    totals = table.totals()
    grid.add_row(*("total" if place == shown[0] else totals[place] for place in shown), style="bold")
    console.print(table.title, style="bold", highlight=False)
    console.print(grid)
    for name, text in table.summary():
        console.print(f"{name}: {text}", highlight=False)
    for note in NOTES if wide else (*NOTES, f"A terminal of {WIDE} columns shows stage, channels and remarks as well."):
        console.print(note, style="dim", highlight=False)


def _show_paper(args: Show) -> int:
    from vggnet.interpret.paper_tables import paper_tables

    tables = paper_tables()
    if args.json:
        print(tables.as_json())
    else:
        _print_paper(tables)
    return 0


def _print_paper(tables: "PaperTables") -> None:
    from vggnet.interpret.paper_tables import CAPTIONS, RESULTS
    from vggnet.models.table1 import TABLE_1

    console = _console()
    console.print("Simonyan & Zisserman, arXiv:1409.1556v6; errors on ILSVRC-2012's validation images", highlight=False)
    configurations = _grid(list(TABLE_1), range(len(TABLE_1)))
    rows = tables.table_1
    for row, following in zip(rows, [*rows[1:], ("",)], strict=True):
        configurations.add_row(*row, end_section="maxpool" in (row[0], following[0]) or row is rows[0])
    counts = _grid(["column", "the paper", "computed"], [0])
    for line in tables.table_2:
        counts.add_row(*line)
    printed = {"Table 1": configurations, "Table 2": counts}
    for name, results in RESULTS.items():
        headings = "network", "train\n(pixels)", "test\n(pixels)", "protocol", "top-1\nerror (%)", "top-5\nerror (%)"
        printed[name] = _grid(headings, range(4))
        for result, after in zip(results, [*results[1:], results[-1]], strict=True):
            printed[name].add_row(*map(str, result), end_section=after.network != result.network)
    for name, grid in printed.items():
        console.print(f"\n{name}: {CAPTIONS[name]}", style="bold", highlight=False)
        console.print(grid)


def _show_claims(args: Show) -> int:
    from vggnet.interpret.claims import check_claims, measure_deviations, measure_inference

    deviations = measure_deviations(args.data) if args.data else None  # a mistake in its name is said first
    print("timing VGG-16 on one image ...", file=sys.stderr)
    claims = check_claims(measure_inference(), deviations)
    if args.json:
        print(claims.as_json())
    else:
        _print_claims(claims)
    return 0


def _print_claims(claims: "Claims") -> None:
    console = _console()
    grid = _grid(["claim", "verdict", "what is found", "from"], range(4))
    for claim in claims.claims:
        grid.add_row(claim.claim, claim.verdict, claim.finding, claim.source, end_section=True)
    console.print(grid)
    console.print(f"measured on {claims.inference.machine}, {claims.inference.environment['date']}", highlight=False)
    for line in _depth_verdicts():
        console.print(line, highlight=False)


def _depth_verdicts() -> list[str]:
    """What `vgg study depth` has found here, or that it would."""
    if not DEPTH_ROWS.is_file():
        return [
            "Whether depth, 3x3 and LRN do on CIFAR-10 what the paper finds on ImageNet: vgg study depth --data cifar10"
        ]
    from vggnet.studies.depth import verdicts
    from vggnet.studies.rows import read_rows

    found = [f"- {line.replace('**', '')}" for line in verdicts(read_rows(DEPTH_ROWS))]
    return [f"On small images, by the runs in {DEPTH_ROWS}:", *found]


def _draw_fields(path: Path) -> int:
    from vggnet.interpret.receptive_field import CHANNELS, IMAGES, PAIRS, Stack, extent, gradient_map
    from vggnet.report.receptive_field_figure import Field, draw_receptive_fields

    def field(stack: Stack) -> Field:
        strength = gradient_map(stack)
        return Field(stack.label, stack.weights, extent(strength), strength.numpy())

    title = f"What one output sees: {CHANNELS} channels a layer, ReLU, He's weights, {IMAGES} images of noise"
    draw_receptive_fields([(field(one), field(many)) for one, many in PAIRS], path, title=title)
    print(f"drawn: {path}", file=sys.stderr)
    return 0


def _console() -> "Console":
    from rich.console import Console

    is_unseen = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=UNSEEN if is_unseen else None)


def _grid(headings: Sequence[str], words: Sequence[int]) -> "Table":
    """An empty table; columns in `words` stand left, the others right."""
    from rich.box import SIMPLE
    from rich.table import Table

    grid = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        grid.add_column(heading, justify="left" if place in words else "right", vertical="top")
    return grid
