"""The layer table of `vggnet.interpret.layer_table` as text: cells, sums, facts and notes."""

from typing import TYPE_CHECKING, Any

from vggnet.report.text import to_plain

if TYPE_CHECKING:
    from vggnet.interpret.summary import LayerRow, LayerTable

HEADINGS = (
    "stage", "layer", "output", "kernel/ stride/ padding", "channels", "remark", "parameters", "MACs (M)",
    "memory (KiB)", "receptive field",
)  # fmt: skip
WORDS = (0, 1, 2, 3, 5)  # the columns that are text, by their place in HEADINGS
NOTES = (
    "MACs: multiply-adds of convolutions and fully connected layers for one image.",
    "Memory: a layer's output in float32 for one image; the total includes the image.",
    "Receptive field: side of the square of pixels that one output depends on. Near an edge part of it is padding.",
)
SUMS = ("parameters", "macs", "activation_bytes", "weights_bytes")


def layer_table_dict(table: "LayerTable") -> dict[str, Any]:
    """Plain values, for JSON: the fields and the sums."""
    return {**to_plain(table), **{name: getattr(table, name) for name in SUMS}}


def layer_table_title(table: "LayerTable") -> str:
    """One line that names the network."""
    width = ", pruned" if table.pruned else "" if table.width == 1 else f", width {table.width:g}"
    classes = f", {table.num_classes:,} classes" if table.num_classes else ""
    network = f"{table.model} (column {table.column}){width}, head {table.head}{classes}"
    return f"{network}, {table.size}x{table.size} pixels"


def row_cells(row: "LayerRow") -> tuple[str, ...]:
    """A row below HEADINGS."""
    window = "" if row.stride is None else f"{row.kernel}x{row.kernel}/{row.stride}/{row.padding}"
    return (
        row.stage,
        row.layer,
        "x".join(map(str, row.output)),
        window,
        f"{row.channels}",
        row.remark,
        f"{row.parameters:,}" if row.parameters else "",
        _millions(row.macs) if row.macs else "",
        _kibibytes(row.activation_bytes) if row.activation_bytes else "",
        f"{row.receptive_field}",
    )


def total_cells(table: "LayerTable") -> tuple[str, ...]:
    """The sums below HEADINGS."""
    sums = (f"{table.parameters:,}", _millions(table.macs), _kibibytes(table.activation_bytes))
    return ("total", "", "", "", "", "", *sums, "")


def layer_table_facts(table: "LayerTable") -> tuple[tuple[str, str], ...]:
    """The most important numbers: name and text."""
    facts = [
        ("parameters", f"{table.parameters:,}"),
        ("file in float32", f"{table.weights_bytes / 1e6:,.1f} MB ({table.weights_bytes / 2**20:,.1f} MiB)"),
        ("MACs for one image", f"{table.macs / 1e9:,.3f} G"),
        ("outputs of all layers", f"{table.activation_bytes / 2**20:,.1f} MiB for one image in float32"),
    ]
    for part, in_head in (("blocks 1 to 5", False), ("head", True)):
        rows = [row for row in table.rows if (row.stage == "head") == in_head]
        parameters, macs = sum(row.parameters for row in rows), sum(row.macs for row in rows)
        if parameters:
            share, work = 100 * parameters / table.parameters, 100 * macs / table.macs
            facts.append((part, f"{parameters:,} parameters ({share:.1f} %), {work:.1f} % of the MACs"))
    return tuple(facts)


def _millions(macs: int) -> str:
    return f"{macs / 1e6:,.1f}" if macs >= 1e5 else f"{macs / 1e6:.3f}"


def _kibibytes(num_bytes: int) -> str:
    kibibytes = num_bytes / 1024
    return f"{kibibytes:,.0f}" if kibibytes >= 100 else f"{kibibytes:.1f}" if kibibytes >= 1 else f"{kibibytes:.2g}"
