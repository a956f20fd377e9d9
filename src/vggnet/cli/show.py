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
    from vggnet.report.layer_table_text import layer_table_dict
    from vggnet.report.text import to_json

    table = layer_table(
        args.network or "vgg16", size=args.input, head=args.head, width=args.width, num_classes=args.classes
    )
    print(to_json(layer_table_dict(table)) if args.json else network_as_text(table, _columns()))
    if args.svg or args.html:
        _write(table, args.svg, args.html)
    return 0


def _write(table: "LayerTable", svg: Path | None, html: Path | None) -> None:
    from vggnet.files import write_text
    from vggnet.report import layer_table_text as text
    from vggnet.report.network_page import network_page, network_svg

    title = text.layer_table_title(table)
    drawing = network_svg(text.layer_table_dict(table)["rows"], title=title)
    page = network_page(
        title=title,
        summary=text.layer_table_facts(table),
        drawing=drawing,
        headings=text.HEADINGS,
        rows=[text.row_cells(row) for row in table.rows],
        totals=text.total_cells(table),
        text_columns=text.WORDS,
        notes=text.NOTES,
    )
    for path, content in ((svg, drawing), (html, page)):
        if path is not None:
            write_text(path, content)
            print(f"written: {path}", file=sys.stderr)


def network_as_text(network: "LayerTable", columns: int) -> str:
    """The layer table, its sums and what its columns are; without some columns where the terminal is narrow."""
    from vggnet.report.layer_table_text import (
        HEADINGS,
        NOTES,
        WORDS,
        layer_table_facts,
        layer_table_title,
        row_cells,
        total_cells,
    )
    from vggnet.report.text import table

    def lines(places: list[int]) -> str:
        rows = [[cells[place] for place in places] for cells in (*map(row_cells, network.rows), totals)]
        rows[-1][0] = "total"
        return table([headings[place] for place in places], rows, left=[places.index(p) for p in WORDS if p in places])

    totals = total_cells(network)
    short = {"kernel/ stride/ padding": "k/s/p", "receptive field": "field (px)"}
    headings = [short.get(name, name) for name in HEADINGS]
    every = list(range(len(HEADINGS)))
    text = lines(every)
    notes = ["k/s/p: kernel, stride, padding. field: receptive field.", *NOTES]
    if max(map(len, text.splitlines())) > columns:
        text = lines([place for place in every if HEADINGS[place] not in NARROW])
        notes.append("A wider terminal shows stage, channels and remarks as well.")
    facts = [f"{name}: {fact}" for name, fact in layer_table_facts(network)]
    return "\n".join(
        [layer_table_title(network), text, "", *(textwrap.fill(line, columns) for line in (*facts, *notes))]
    )


def _show_paper(args: Show) -> int:
    from vggnet.interpret.paper_tables import paper_tables
    from vggnet.report.text import to_json

    tables = paper_tables()
    print(to_json(_paper_dict(tables)) if args.json else "\n".join(_paper_as_text(tables)))
    return 0


def _paper_dict(tables: "PaperTables") -> dict[str, object]:
    """All six tables, for JSON."""
    from vggnet.interpret.paper_tables import RESULTS, TABLE_2

    table_2 = {c: {"paper_millions": TABLE_2[c], "parameters": ours} for c, ours in tables.parameters.items()}
    results = {name.lower().replace(" ", "_"): table for name, table in RESULTS.items()}
    return {"table_1": tables.table_1, "table_2": table_2, **results}


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
