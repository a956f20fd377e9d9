"""The layer table, against the paper, the network itself, PyTorch's counter, and gradients."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vggnet
from vggnet.errors import ConfigError, InputError, WeightsError
from vggnet.interpret.summary import layer_table
from vggnet.models.vgg import build
from vggnet.report.layer_table_text import row_cells
from vggnet.weights.checkpoint import save

COLUMNS = ("A", "A-LRN", "B", "C", "D", "E")


@pytest.mark.parametrize(
    ("column", "parameters", "billions"),
    [
        ("A", 132_863_336, 7.609),
        ("B", 133_047_848, 11.308),
        ("C", 133_638_952, 11.771),
        ("D", 138_357_544, 15.470),
        ("E", 143_667_240, 19.632),
        ("A-LRN", 132_863_336, 7.609),
    ],
)
def test_sums_of_the_paper_s_columns(column, parameters, billions):
    """Oracle: the paper's networks, counted by others (torchvision's documentation gives the same sums)."""
    table = layer_table(column)
    assert table.parameters == parameters
    assert round(table.macs / 1e9, 3) == billions
    assert table.weights_bytes == 4 * parameters


def test_vgg16_by_hand():
    """Oracle: multiplied by hand."""
    table = vggnet.interpret.layer_table("vgg16")
    assert table.row("conv1_1").macs == 224 * 224 * 64 * 3 * 3 * 3 == 86_704_128
    assert table.row("fc6").macs == 512 * 7 * 7 * 4096 == 102_760_448
    assert table.row("conv1_1").parameters == 64 * 27 + 64
    assert table.row("fc8").parameters == 4096 * 1000 + 1000
    assert table.row("pool5").activation_bytes == 98 * 1024
    assert table.row("flatten").output == (25088,)
    assert table.row("flatten").activation_bytes == 0


def test_vgg16_as_the_tutorial_has_it():
    """Oracle: the tutorial's table, typed by hand: output, kernel, stride, padding, channels."""
    cells = {row.layer: row_cells(row) for row in layer_table("D").rows}
    assert cells["input"][:5] == ("input", "input", "3x224x224", "", "3")
    assert cells["conv1_2"][:6] == ("block 1", "conv1_2", "64x224x224", "3x3/1/1", "64", "ReLU")
    assert cells["pool1"][:5] == ("block 1", "pool1", "64x112x112", "2x2/2/0", "64")
    assert cells["conv3_3"][:5] == ("block 3", "conv3_3", "256x56x56", "3x3/1/1", "256")
    assert cells["pool5"][:5] == ("block 5", "pool5", "512x7x7", "2x2/2/0", "512")
    assert cells["fc7"] == ("head", "fc7", "4096", "", "4096", "ReLU, dropout 0.5", "16,781,312", "16.8", "16.0", "404")
    assert list(cells)[-5:] == ["pool", "flatten", "fc6", "fc7", "fc8"]


@pytest.mark.parametrize(
    ("name", "head", "size", "width"),
    [
        ("A-LRN", "paper", 224, 1.0),
        ("C", "gap", 170, 0.3),
        ("E_bn", "dense", 300, 1.0),
        ("D", "none", 75, 1.0),
        ("B", "paper", 448, 0.5),
        ("vgg13_5x5", "folded", 33, 1.0),
        ("vgg8_bn", "cifar", 32, 1.5),
        ("D", "paper", 32, 1.0),
    ],
)
def test_sizes_and_work_of_the_network_that_runs(name, head, size, width):
    """Oracle: the network run on the meta device: shapes by hooks, twice the MACs by PyTorch's counter."""
    network = build(name, head=head, width=width, num_classes=10, init=None)
    shapes = {}
    for part in (network.features, network.head):
        for layer, module in part.named_children():
            module.register_forward_hook(
                lambda module, inputs, output, layer=layer: shapes.update({layer: tuple(output.shape[1:])})
            )
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, size, size, device="meta"))
    table = layer_table(name, head=head, size=size, width=width, num_classes=10)
    assert table == layer_table(network, size=size)
    assert 2 * table.macs == counter.get_total_flops()
    assert table.parameters == sum(parameter.numel() for parameter in network.parameters())
    found = {row.layer: row.output for row in table.rows[1:]}
    assert found == {
        layer: shape for layer, shape in shapes.items() if not layer.startswith(("bn", "relu", "drop", "ch"))
    }
    numbers = [torch.Size(shape).numel() for layer, shape in found.items() if layer != "flatten"]
    assert table.activation_bytes == 4 * (3 * size * size + sum(numbers))


def seen(features, layer, size):
    """Side of the square of pixels that the gradient of the middle of a layer reaches."""
    image = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    x = image
    for name, module in features.named_children():
        x = module(x)
        if name == layer:
            break
    middle = x.shape[-1] // 2
    (gradient,) = torch.autograd.grad(x[0, 0, middle, middle], image)
    touched = gradient[0, 0].nonzero()
    return {int(side) for side in touched.max(0).values - touched.min(0).values + 1}


def transparent(network):
    """One channel a layer, weights of 1, means instead of maxima: no gradient is lost on its way."""
    for name, module in network.features.named_children():
        if isinstance(module, nn.MaxPool2d):
            network.features.add_module(name, nn.AvgPool2d(module.kernel_size, module.stride))
    network.features.double()
    for parameter in network.features.parameters():
        nn.init.ones_(parameter)
    return network


@pytest.mark.parametrize("column", [*COLUMNS, "vgg13_5x5"])
def test_receptive_fields(column):
    """Oracle: brute force, the pixels that a real network's gradient reaches, for every layer of the column."""
    network = transparent(build(column, head="none", width=0.001, in_channels=1))
    rows = [row for row in layer_table(column, head="none", size=320).rows[1:] if row.kind != "lrn"]
    assert {row.layer: {row.receptive_field} for row in rows} == {
        row.layer: seen(network.features, row.layer, 320) for row in rows
    }


def test_receptive_field_of_the_dense_head():
    """Oracle: brute force on features and fc6, a 7x7 convolution."""
    network = transparent(build("D", head="dense", width=0.001, in_channels=1))
    network.features.add_module("fc6", nn.Conv2d(1, 1, 7).double())
    nn.init.ones_(network.features.fc6.weight)
    assert seen(network.features, "fc6", 512) == {layer_table("D", head="dense").row("fc6").receptive_field} == {404}


@pytest.mark.parametrize(
    ("size", "expected"), [(224, 212), (448, 212 + 32), (160, 212 + 32), (96, 212 + 32), (32, 212)]
)
def test_receptive_field_of_the_adaptive_pool(size, expected):
    """Oracle: by hand: maps of 7, 14, 5, 3 and 1 cells are pooled to 7 by windows of at most 1, 2, 2, 2 and 1."""
    table = layer_table("D", size=size)
    assert table.row("pool").receptive_field == expected
    assert table.row("fc6").receptive_field == 212 + 32 * (size // 32 - 1)


def test_remarks_say_what_a_layer_is_followed_by():
    """Oracle: by hand."""
    assert layer_table("D_bn").row("conv1_1").remark == "batch norm, ReLU"
    assert layer_table("D_bn").row("conv1_1").parameters == 64 * 27 + 64 + 2 * 64
    assert layer_table("A-LRN").row("lrn1_1").remark == "over 5 channels"
    assert layer_table("D", size=32).row("pool").remark == "repeats the one cell 49 times"
    assert layer_table("D").row("pool").remark == "the map has 7x7 already"
    assert layer_table(build("A", boxes="shared", num_classes=5, init=None)).rows[-1].remark == "a box"
    assert layer_table("D", head="none").rows[-1].remark == "maximum, feature map"


def test_defaults_of_small_networks():
    """Oracle: the package's own column is made for 32x32 images and one linear layer."""
    table = layer_table("vgg8_bn")
    assert (table.head, table.size, table.num_classes) == ("cifar", 32, 10)
    assert layer_table("vgg8_bn", head="paper").size == 224


def test_weights_by_name_file_and_folder(tmp_path, monkeypatch):
    """Oracle: what was saved; names that are not fetched stand for what they would be."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    model = build("vgg11", head="gap", width=0.1, num_classes=3)
    save(model, tmp_path / "run" / "weights.safetensors", preprocess=vggnet.Preprocess(resize=72, crop=64))
    for source in (tmp_path / "run", str(tmp_path / "run" / "weights.safetensors")):
        table = layer_table(source)
        assert (table.model, table.head, table.width, table.num_classes, table.size) == ("vgg11", "gap", 0.1, 3, 64)
    assert layer_table("vgg8_bn-cifar10-fast").num_classes == 10
    assert layer_table("vgg16:features").parameters == 14_714_688
    assert layer_table("vgg19:torchvision").parameters == 143_667_240
    with pytest.raises(ConfigError, match="own head"):
        layer_table(tmp_path / "run", head="paper")
    with pytest.raises(ConfigError, match="own width"):
        layer_table("vgg16:torchvision", width=0.5)
    with pytest.raises(ConfigError, match="own num_classes"):
        layer_table(model, num_classes=2)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": "vgg12"}, ConfigError, "vgg16_bn"),
        ({"model": "runs/missing"}, WeightsError, "runs/missing"),
        ({"model": "missing.safetensors"}, WeightsError, "missing.safetensors"),
        ({"size": 31}, ConfigError, "31 pixels"),
        ({"head": "dense", "size": 200}, InputError, "224x224"),
        ({"head": "cifar", "size": 64}, InputError, "2x2"),
        ({"head": "round"}, ConfigError, "round"),
        ({"width": 0}, ConfigError, "width is 0"),
        ({"num_classes": 0}, ConfigError, "num_classes is 0"),
    ],
)
def test_mistakes(arguments, error, said):
    """Oracle: the message names what was given, or what would do."""
    with pytest.raises(error, match=said):
        layer_table(**arguments)
