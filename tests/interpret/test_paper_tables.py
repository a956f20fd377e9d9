"""The paper's tables."""

import pytest

from vggnet.interpret.paper_tables import TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, paper_tables, single_scale

# Typed from the paper a second time, in another shape: top-1/top-5 error in percent.
PRINTED = (
    (TABLE_3, "A 29.6/10.4; A-LRN 29.7/10.5; B 28.7/9.9; C 28.1/9.4, 28.1/9.3, 27.3/8.8; "
     "D 27.0/8.8, 26.8/8.7, 25.6/8.1; E 27.3/9.0, 26.9/8.7, 25.5/8.0"),
    (TABLE_4, "B 28.2/9.6; C 27.7/9.2, 27.8/9.2, 26.3/8.2; D 26.6/8.6, 26.5/8.6, 24.8/7.5; "
     "E 26.9/8.7, 26.7/8.6, 24.8/7.5"),
    (TABLE_5, "D 24.8/7.5, 24.6/7.5, 24.4/7.2; E 24.8/7.5, 24.6/7.4, 24.4/7.1"),
    (TABLE_6, "D and E 24.0/7.1, 23.9/7.2, 23.7/6.8"),
)  # fmt: skip


@pytest.mark.parametrize(("table", "printed"), PRINTED)
def test_errors_as_printed(table, printed):
    """Oracle: Tables 3 to 6 of arXiv:1409.1556v6."""
    networks = dict.fromkeys(result.network for result in table)
    lines = [
        f"{network} "
        + ", ".join(f"{found.top1_error}/{found.top5_error}" for found in table if found.network == network)
        for network in networks
    ]
    assert "; ".join(lines) == printed


def test_sizes_as_printed():
    """Oracle: section 3.2: one size for training, or from 256 to 512; three for several test scales."""
    assert [(found.train, found.test) for found in TABLE_3 if found.network == "D"] == [
        ("256", "256"), ("384", "384"), ("256 to 512", "384")
    ]  # fmt: skip
    assert [(found.train, found.test) for found in TABLE_4 if found.network == "E"] == [
        ("256", "224, 256, 288"), ("384", "352, 384, 416"), ("256 to 512", "256, 384, 512")
    ]  # fmt: skip
    assert single_scale("E").top1_error == 27.3
    assert single_scale("E", "384").top1_error == 26.9


def test_computed_parameters_are_the_paper_s():
    """Oracle: Table 2, which prints millions."""
    assert TABLE_2 == {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}
    tables = paper_tables()
    assert {column: round(number / 1e6) for column, number in tables.parameters.items()} == TABLE_2
    assert tables.table_2[4] == ("D", "138 M", "138,357,544")


def test_table_1_side_by_side():
    """Oracle: Table 1, its columns A-LRN and C typed by hand."""
    columns = list(zip(*paper_tables().table_1, strict=True))
    assert [column[0] for column in columns] == [f"{number} weight layers" for number in (11, 11, 13, 16, 16, 19)]
    a_lrn, c = ([cell for cell in column[1:] if cell] for column in (columns[1], columns[3]))
    head = ["FC-4096", "FC-4096", "FC-1000", "soft-max"]
    assert a_lrn == [
        "conv3-64", "LRN", "maxpool", "conv3-128", "maxpool", *["conv3-256"] * 2, "maxpool",
        *[*["conv3-512"] * 2, "maxpool"] * 2, *head,
    ]  # fmt: skip
    assert c == [
        *["conv3-64"] * 2, "maxpool", *["conv3-128"] * 2, "maxpool", *["conv3-256"] * 2, "conv1-256", "maxpool",
        *[*["conv3-512"] * 2, "conv1-512", "maxpool"] * 2, *head,
    ]  # fmt: skip
    pools = [[row for row, cell in enumerate(column) if cell == "maxpool"] for column in columns]
    assert pools == [pools[0]] * 6  # on one line each
