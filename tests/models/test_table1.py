"""Table 1 and the model names."""

import pytest

from vggnet.errors import ConfigError
from vggnet.models.table1 import MODEL_NAMES, STRIDED, TABLE_1, layers, resolve


@pytest.mark.parametrize(
    ("column", "weight_layers"), [("A", 11), ("A-LRN", 11), ("B", 13), ("C", 16), ("D", 16), ("E", 19)]
)
def test_weight_layers_match_the_paper(column, weight_layers):
    """Oracle: the second row of Table 1 counts the weight layers, three of them fully connected."""
    assert sum(layer.kind == "conv" for layer in layers(column)) + 3 == weight_layers


def test_column_d_layer_by_layer():
    """Oracle: column D of Table 1, typed by hand."""
    assert [(layer.kind, layer.kernel, layer.channels) for layer in layers("D")] == [
        *[("conv", 3, 64)] * 2, ("pool", 2, 64),
        *[("conv", 3, 128)] * 2, ("pool", 2, 128),
        *[("conv", 3, 256)] * 3, ("pool", 2, 256),
        *[("conv", 3, 512)] * 3, ("pool", 2, 512),
        *[("conv", 3, 512)] * 3, ("pool", 2, 512),
    ]  # fmt: skip


def test_our_own_column():
    """Oracle: typed by hand; its pools leave one pixel of 32, as the paper's do."""
    assert [(layer.kind, layer.block, layer.number, layer.kernel, layer.channels) for layer in layers("S")] == [
        ("conv", 1, 1, 3, 32), ("conv", 1, 2, 3, 64), ("pool", 1, 0, 2, 64),
        ("conv", 2, 1, 3, 64), ("conv", 2, 2, 3, 256), ("pool", 2, 0, 2, 256),
        ("conv", 3, 1, 3, 256), ("conv", 3, 2, 3, 256), ("pool", 3, 0, 2, 256),
        ("conv", 4, 1, 3, 256), ("pool", 4, 0, 2, 256),
        ("pool", 5, 0, 2, 256),
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "expected"), [(0.5, [32, 64]), (0.01, [1, 1]), (1.5, [96, 192]), (0.055, [4, 7])])
def test_width_multiplies_the_channels(width, expected):
    """Oracle: by hand: 64 and 128 channels times the width, rounded, at least 1."""
    assert [layer.channels for layer in layers("A", width) if layer.kind == "conv"][:2] == expected


def test_lrn_stands_after_the_first_convolution():
    """Oracle: column A-LRN of Table 1, whose other layers are those of A."""
    found = list(layers("A-LRN"))
    assert found[:3] == [("conv", 1, 1, 3, 64, 1), ("lrn", 1, 1, 0, 64, 1), ("pool", 1, 0, 2, 64, 2)]
    assert [layer for layer in found if layer.kind != "lrn"] == list(layers("A"))


def test_the_shallow_net():
    """Oracle: section 4.1: five 5x5 convolutions in place of B's pairs; 25 weights a channel pair instead of 18."""
    assert [(layer.kernel, layer.channels) for layer in layers("B-5x5") if layer.kind == "conv"] == [
        (5, 64), (5, 128), (5, 256), (5, 512), (5, 512)
    ]  # fmt: skip


def test_column_c_ends_its_last_blocks_with_1x1():
    """Oracle: column C of Table 1 shows conv1 as the last of blocks 3, 4, 5."""
    kernels = [layer.kernel for layer in layers("C") if layer.kind == "conv"]
    assert kernels == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]


NAMES = {
    "vgg11": ("A", False), "vgg11_bn": ("A", True), "vgg11_lrn": ("A-LRN", False), "vgg13": ("B", False),
    "vgg13_bn": ("B", True), "vgg16_1x1": ("C", False), "vgg16_1x1_bn": ("C", True), "vgg16": ("D", False),
    "vgg16_bn": ("D", True), "vgg19": ("E", False), "vgg19_bn": ("E", True), "vgg13_5x5": ("B-5x5", False),
    "vgg8": ("S", False), "vgg8_bn": ("S", True),
    **{f"repvgg_{size.lower()}": (f"RepVGG-{size}", False) for size in ("A0", "A1", "A2", "B0", "B1")},
    **{f"repvgg_{size.lower()}_bn": (f"RepVGG-{size}", True) for size in ("A0", "A1", "A2", "B0", "B1")},
}  # fmt: skip


def test_the_names_are_those_of_the_documentation():
    """Oracle: the names, columns and batch norm, typed by hand; letters in upper and lower case are the same."""
    assert {name: resolve(name)[1:] for name in MODEL_NAMES} == NAMES
    for name, (column, batch_norm) in NAMES.items():
        letter = f"{column}_bn" if batch_norm else column
        assert resolve(name.upper()) == resolve(letter) == resolve(letter.lower()) == (name, column, batch_norm)


def test_every_name_and_letter_resolves():
    """Oracle: the list of products: six columns, five also with batch norm, the shallow net, both of ours, RepVGG."""
    assert len(MODEL_NAMES) == 24
    assert {resolve(name).column for name in MODEL_NAMES} == {*TABLE_1, "B-5x5", "S", *STRIDED}
    assert resolve("D") == resolve("vgg16")
    assert resolve("E_bn") == resolve("vgg19_bn")
    assert resolve("A-LRN").name == "vgg11_lrn"


@pytest.mark.parametrize("name", ["vgg12", "", "F", "A-LRN_bn", "vgg11_lrn_bn", "vgg8_lrn", "resnet18"])
def test_unknown_names_say_what_exists(name):
    """Oracle: the message names a model that does exist."""
    with pytest.raises(ConfigError, match="vgg16_bn"):
        resolve(name)
