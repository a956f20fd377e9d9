"""Tables 2 to 6 of the VGG paper as data, and Table 1 in the paper's layout.

Source: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015,
arXiv:1409.1556v6). Errors are percent of ILSVRC-2012's validation images. Sizes are pixels of the shorter side.
"""

from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from vggnet.interpret.summary import layer_table
from vggnet.models.table1 import FC_WIDTH, TABLE_1, Layer, layers


class Result(NamedTuple):
    """One line of Tables 3 to 6."""

    network: str  # a column, or several whose softmax outputs are averaged
    train: str  # S
    test: str  # Q
    protocol: str
    top1_error: float
    top5_error: float


# Table 2: millions.
TABLE_2 = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}

FIXED_256, FIXED_384, JITTERED = "256", "384", "256 to 512"
DENSE, MULTICROP, BOTH = "dense", "multi-crop", "multi-crop and dense"

# Table 3, section 4.1: one test scale.
TABLE_3 = (
    Result("A", FIXED_256, "256", DENSE, 29.6, 10.4),
    Result("A-LRN", FIXED_256, "256", DENSE, 29.7, 10.5),
    Result("B", FIXED_256, "256", DENSE, 28.7, 9.9),
    Result("C", FIXED_256, "256", DENSE, 28.1, 9.4),
    Result("C", FIXED_384, "384", DENSE, 28.1, 9.3),
    Result("C", JITTERED, "384", DENSE, 27.3, 8.8),
    Result("D", FIXED_256, "256", DENSE, 27.0, 8.8),
    Result("D", FIXED_384, "384", DENSE, 26.8, 8.7),
    Result("D", JITTERED, "384", DENSE, 25.6, 8.1),
    Result("E", FIXED_256, "256", DENSE, 27.3, 9.0),
    Result("E", FIXED_384, "384", DENSE, 26.9, 8.7),
    Result("E", JITTERED, "384", DENSE, 25.5, 8.0),
)

_NEAR_256, _NEAR_384, _ALL = "224, 256, 288", "352, 384, 416", "256, 384, 512"

# Table 4, section 4.2: several test scales.
TABLE_4 = (
    Result("B", FIXED_256, _NEAR_256, DENSE, 28.2, 9.6),
    Result("C", FIXED_256, _NEAR_256, DENSE, 27.7, 9.2),
    Result("C", FIXED_384, _NEAR_384, DENSE, 27.8, 9.2),
    Result("C", JITTERED, _ALL, DENSE, 26.3, 8.2),
    Result("D", FIXED_256, _NEAR_256, DENSE, 26.6, 8.6),
    Result("D", FIXED_384, _NEAR_384, DENSE, 26.5, 8.6),
    Result("D", JITTERED, _ALL, DENSE, 24.8, 7.5),
    Result("E", FIXED_256, _NEAR_256, DENSE, 26.9, 8.7),
    Result("E", FIXED_384, _NEAR_384, DENSE, 26.7, 8.6),
    Result("E", JITTERED, _ALL, DENSE, 24.8, 7.5),
)

# Table 5, section 4.3: dense against multi-crop.
TABLE_5 = (
    Result("D", JITTERED, _ALL, DENSE, 24.8, 7.5),
    Result("D", JITTERED, _ALL, MULTICROP, 24.6, 7.5),
    Result("D", JITTERED, _ALL, BOTH, 24.4, 7.2),
    Result("E", JITTERED, _ALL, DENSE, 24.8, 7.5),
    Result("E", JITTERED, _ALL, MULTICROP, 24.6, 7.4),
    Result("E", JITTERED, _ALL, BOTH, 24.4, 7.1),
)

# Table 6, section 4.4: D and E together, after the challenge. Its other line, the seven networks sent to ILSVRC-2014
# (24.7 and 7.5), mixes training sizes and test scales.
TABLE_6 = (
    Result("D and E", JITTERED, _ALL, DENSE, 24.0, 7.1),
    Result("D and E", JITTERED, _ALL, MULTICROP, 23.9, 7.2),
    Result("D and E", JITTERED, _ALL, BOTH, 23.7, 6.8),
)

RESULTS = {"Table 3": TABLE_3, "Table 4": TABLE_4, "Table 5": TABLE_5, "Table 6": TABLE_6}
CAPTIONS = {
    "Table 1": "configurations: convolutions as kernel-channels",
    "Table 2": "parameters",
    "Table 3": "one test scale",
    "Table 4": "several test scales",
    "Table 5": "dense and multi-crop evaluation",
    "Table 6": "the softmax outputs of two networks averaged",
}

TEST_TOP5_ERROR_OF_E = 7.3  # section 4.2: several scales, the test images instead of the validation images
TRAINING_WEEKS = (2, 3)  # section 3.3: one network, "depending on the architecture"
TRAINING_HARDWARE = "four Titan Black"
TRAINING_EPOCHS = 74  # section 3.1
TRAINING_IMAGES = 1_281_167  # of ILSVRC-2012


def single_scale(column: str, train: str = FIXED_256) -> Result:
    """The line of Table 3."""
    return next(result for result in TABLE_3 if (result.network, result.train) == (column, train))


@dataclass(frozen=True, kw_only=True)
class PaperTables:
    """Tables 1 and 2, with the parameters of our networks beside those of the paper; RESULTS has Tables 3 to 6."""

    table_1: tuple[tuple[str, ...], ...]  # columns side by side
    parameters: dict[str, int]  # computed

    @property
    def table_2(self) -> tuple[tuple[str, ...], ...]:
        """Column, the paper's millions, ours."""
        return tuple((column, f"{TABLE_2[column]} M", f"{ours:,}") for column, ours in self.parameters.items())


def paper_tables() -> PaperTables:
    """Lay out Table 1 as in the paper, and compute the parameters of Table 2.

    Source:
        Simonyan & Zisserman, arXiv:1409.1556v6.

    Example:
        >>> paper_tables().table_2[4]
        ('D', '138 M', '138,357,544')
    """
    parameters = {column: layer_table(column).parameters for column in TABLE_1}
    return PaperTables(table_1=tuple(_table_1()), parameters=parameters)


def _table_1() -> list[tuple[str, ...]]:
    """The rows of Table 1 below its letters: every block as high as its deepest column, then the head."""
    columns = {column: list(layers(column)) for column in TABLE_1}
    weight_layers = [sum(layer.kind == "conv" for layer in found) + 3 for found in columns.values()]
    rows = [tuple(f"{number} weight layers" for number in weight_layers)]
    for block in range(1, 6):
        members = [[_cell(layer) for layer in found if layer.block == block] for found in columns.values()]
        pool = members[0][-1]
        rows += zip_longest(*(cells[:-1] for cells in members), fillvalue="")
        rows.append((pool,) * len(columns))
    return rows + [(text,) * len(columns) for text in (*[f"FC-{FC_WIDTH}"] * 2, "FC-1000", "soft-max")]


def _cell(layer: Layer) -> str:
    return {"conv": f"conv{layer.kernel}-{layer.channels}", "lrn": "LRN", "pool": "maxpool"}[layer.kind]
