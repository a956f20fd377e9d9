"""The glossary's table of torchvision's layer numbers."""

import re
from pathlib import Path

import torch
import torchvision

import vggnet

PAGE = Path(__file__).parents[2] / "docs" / "glossary.md"
ROW = re.compile(r"^\| `(\w+\d(?:_\d)?)` \| (\d+|-) \| (\d+) \|$", re.MULTILINE)


def listed(column):
    """The layers of the table with a number in `column`, by that number."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return {int(row[column]): row[0] for row in rows if row[column] != "-"}


def test_the_layer_numbers_are_those_of_torchvision():
    """Oracle: torchvision's own networks; each layer has the type and channels of the one that our network has."""
    for column, name in ((1, "vgg16"), (2, "vgg16_bn")):
        with torch.device("meta"):
            theirs = torchvision.models.get_model(name, weights=None).features
            ours = vggnet.create_model(name).features
        names = listed(column)
        assert sorted(names) == list(range(len(theirs)))
        for number, layer in enumerate(theirs):
            own = getattr(ours, names[number])
            assert type(own) is type(layer)
            assert getattr(own, "out_channels", None) == getattr(layer, "out_channels", None)
            assert list(ours.children())[number] is own  # and stands at the same place
