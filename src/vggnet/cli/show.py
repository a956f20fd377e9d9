"""`vgg show`."""

import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from vggnet.interpret.paper_tables import PaperTables
    from vggnet.interpret.receptive_field import Stack
    from vggnet.interpret.summary import LayerTable
    from vggnet.report.receptive_field_figure import Field

UNSEEN = 140  # columns where the output is no terminal
NARROW = {"stage", "channels", "remark"}  # columns that a narrow terminal leaves out


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show a network layer by layer, with sizes, parameters, MACs, memory and receptive fields; or the paper's tables.

    Example: vgg show vgg16 --input 160 --html vgg16.html --svg vgg16.svg

    All tables of the paper: vgg show --paper
    """

    # a model's name (vgg16, D, vgg8_bn), a run folder, a .safetensors file, or a name of `vgg weights list`; by default
    # vgg16
    network: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK")] = None
    input: int | None = None  # pixels a side; by default what the weights were trained on, else 224, or 32 if small
    head: str | None = None  # paper, cifar, gap, dense, folded or none; by default paper, for vgg8_bn cifar
    width: float | None = None  # multiplies the channels of the convolutions
    classes: int | None = None  # by default 1000; 10 for the heads cifar and folded
    html: Path | None = None  # also write the table and the drawing as one page
    svg: Path | None = None  # also write the drawing
    paper: bool = False  # Tables 1 to 6 of the paper instead of a network
    receptive_field: Path | None = None  # draw (as PNG) what a 5x5 and two 3x3 see, and a 7x7 and three 3x3
    json: bool = False  # print one JSON object instead of tables


def main(arguments: list[str]) -> int:
    """Show; returns the exit code."""
    if "--claims" in arguments:
        raise ConfigError(
            "vgg show --claims moved: in a copy of the repository, run python -m experiments.tutorial.run, or read "
            "experiments/tutorial/README.md."
        )
    args: Show = parse(Show, arguments, prog="vgg show")
    _check(args)
    if args.paper:
        return _show_paper(args)
    if args.receptive_field:
        return _draw_fields(args.receptive_field)
    return _show_network(args)


def _check(args: Show) -> None:
    """Raises: ConfigError for options that have no meaning together."""
    instead = {"--paper": args.paper, "--receptive-field": args.receptive_field}
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


def _show_network(args: Show) -> int:
    from vggnet.interpret.summary import layer_table

    table = layer_table(
        args.network or "vgg16", size=args.input, head=args.head, width=args.width, num_classes=args.classes
    )
    print(table.as_json() if args.json else network_as_text(table, _columns()))
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


def network_as_text(network: "LayerTable", columns: int) -> str:
    """The layer table, its sums and what its columns are; without some columns where the terminal is narrow."""
    from vggnet.interpret.summary import HEADINGS, NOTES, WORDS
    from vggnet.report.text import table

    def lines(places: list[int]) -> str:
        rows = [[cells[place] for place in places] for cells in (*(row.as_cells() for row in network.rows), totals)]
        rows[-1][0] = "total"
        return table([headings[place] for place in places], rows, left=[places.index(p) for p in WORDS if p in places])

    totals = network.totals()
    short = {"kernel/ stride/ padding": "k/s/p", "receptive field": "field (px)"}
    headings = [short.get(name, name) for name in HEADINGS]
    every = list(range(len(HEADINGS)))
    text = lines(every)
    notes = ["k/s/p: kernel, stride, padding. field: receptive field.", *NOTES]
    if max(map(len, text.splitlines())) > columns:
        text = lines([place for place in every if HEADINGS[place] not in NARROW])
        notes.append("A wider terminal shows stage, channels and remarks as well.")
    facts = [f"{name}: {fact}" for name, fact in network.summary()]
    return "\n".join([network.title, text, "", *(textwrap.fill(line, columns) for line in (*facts, *notes))])


def _show_paper(args: Show) -> int:
    from vggnet.interpret.paper_tables import paper_tables

    tables = paper_tables()
    print(tables.as_json() if args.json else "\n".join(_paper_as_text(tables)))
    return 0


def _paper_as_text(tables: "PaperTables") -> Iterator[str]:
    from vggnet.interpret.paper_tables import CAPTIONS, RESULTS
    from vggnet.models.table1 import TABLE_1
    from vggnet.report.text import table

    headings = ("network", "train (px)", "test (px)", "protocol", "top-1 (%)", "top-5 (%)")
    first, *blocks = tables.table_1
    configurations = [[text.replace(" weight", "") for text in first], *blocks]
    printed = {
        "Table 1": table(list(TABLE_1), configurations, left=range(len(TABLE_1))),
        "Table 2": table(["column", "the paper", "computed"], tables.table_2),
        **{name: table(headings, results, left=range(4)) for name, results in RESULTS.items()},
    }
    yield "Simonyan & Zisserman, arXiv:1409.1556v6. Errors: ILSVRC-2012 validation set"
    for name, text in printed.items():
        yield f"\n{name}: {CAPTIONS[name]}\n{text}"


def _draw_fields(path: Path) -> int:
    from vggnet.interpret.receptive_field import CHANNELS, IMAGES, PAIRS
    from vggnet.report.receptive_field_figure import draw_receptive_fields

    title = f"What one output sees: {CHANNELS} channels a layer, ReLU, He's weights, {IMAGES} images of noise"
    draw_receptive_fields([(_field(one), _field(many)) for one, many in PAIRS], path, title=title)
    print(f"drawn: {path}", file=sys.stderr)
    return 0


def _field(stack: "Stack") -> "Field":
    from vggnet.interpret.receptive_field import gradient_map
    from vggnet.report.receptive_field_figure import Field

    return Field(stack.label, stack.weights, stack.size, gradient_map(stack).numpy())


def _columns() -> int:
    """Of the terminal."""
    return shutil.get_terminal_size((UNSEEN, 24)).columns
