"""Heads: which images they take, what they compute, and the conversions between them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vggnet.errors import ConfigError, InputError
from vggnet.models.heads import HEADS, build_head, folded_from_paper, takes
from vggnet.models.vgg import build, fold_repeated_pool, from_dense, to_dense


def relative_difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("head", [*HEADS, "round"])
@pytest.mark.parametrize("crop", [32, 33, 63, 64, 65, 223, 224, 225, 448])
def test_a_head_takes_what_it_says(head, crop):
    """Oracle: a network with this head, called; the head "none" has no outputs, and "round" does not exist."""
    try:
        build("vgg11", head=head, init=None)(torch.empty(1, 3, crop, crop, device="meta"))
        works = head != "none"
    except (ConfigError, InputError):
        works = False
    assert takes(head, crop) is works


@pytest.mark.parametrize("size", [64, 128])
def test_the_grid_knows_what_lies_where(size):
    """Oracle: NumPy: the 2x2 or 4x4 cells of the last map, each as often as it fills a grid of 4x4, of length 1."""
    torch.manual_seed(0)
    model, images = build("vgg11", num_classes=3, head="grid", width=0.1).eval(), torch.randn(2, 3, size, size)
    with torch.no_grad():
        cells, found = model.features(images).numpy(), model(images).numpy()
    grid = cells.repeat(4 // cells.shape[2], 2).repeat(4 // cells.shape[3], 3).reshape(2, -1)
    grid = grid / np.sqrt((grid**2).sum(1, keepdims=True))
    weight, bias = (tensor.detach().numpy() for tensor in (model.head.fc.weight, model.head.fc.bias))
    np.testing.assert_allclose(found, grid @ weight.T + bias, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def small_paper_model():
    torch.manual_seed(1)
    model = build("vgg11", num_classes=5, width=0.1, init="he").eval()
    for name in ("fc6", "fc7", "fc8"):
        nn.init.normal_(model.head.get_submodule(name).weight, std=0.05)
        nn.init.normal_(model.head.get_submodule(name).bias)
    return model


def test_dense_equals_paper_at_224(small_paper_model):
    """Oracle: the fully connected head, at the size where the score map is 1x1 (section 3.2)."""
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = small_paper_model(images)
        assert relative_difference(to_dense(small_paper_model)(images), expected) < 1e-5


def test_dense_averages_the_head_over_all_windows(small_paper_model):
    """Oracle: the paper head applied by a loop to every 7x7 window of the last feature map."""
    images = torch.randn(1, 3, 256, 288)
    with torch.inference_mode():
        fmap = small_paper_model.features(images)  # 8 x 9
        windows = [small_paper_model.head(fmap[:, :, i : i + 7, j : j + 7]) for i in range(2) for j in range(3)]
        expected = torch.stack(windows).mean(0)
        assert relative_difference(to_dense(small_paper_model)(images), expected) < 1e-5


def test_conversion_to_dense_and_back_is_exact(small_paper_model):
    """Oracle: the original weights, bit for bit, with the original left unchanged and nothing shared."""
    before = copy.deepcopy(small_paper_model.state_dict())
    back = from_dense(to_dense(small_paper_model))
    for name, tensor in before.items():
        assert torch.equal(back.state_dict()[name], tensor)
        assert torch.equal(small_paper_model.state_dict()[name], tensor)
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.zero_()
    assert torch.equal(small_paper_model.head.fc6.weight, before["head.fc6.weight"])


def test_fold_equals_the_unfolded_head(small_paper_model):
    """Oracle: the paper's head on 32x32 images, where it sees 49 copies of one pixel."""
    images = torch.randn(4, 3, 32, 32)
    folded = fold_repeated_pool(small_paper_model)
    with torch.inference_mode():
        assert relative_difference(folded(images), small_paper_model(images)) < 1e-5


def test_fold_saves_a_hundred_million_parameters():
    """Oracle: hand count, 512 * 48 * 4096 weights of fc6."""
    model = build("vgg16", init=None, num_classes=10)
    assert num_parameters(model) - num_parameters(build("vgg16", head="folded", init=None, num_classes=10)) == (
        512 * 48 * 4096
    )


@pytest.mark.parametrize("head", ["cifar", "folded"])
def test_small_heads_refuse_larger_images(head):
    """Oracle: 64 pixels leave a 2x2 map."""
    with pytest.raises(InputError, match="2x2"):
        build("vgg11", head=head, init=None)(torch.empty(1, 3, 64, 64, device="meta"))


def test_dense_refuses_smaller_images():
    """Oracle: 223 pixels leave a 6x6 map."""
    with pytest.raises(InputError, match="6x6"):
        build("vgg11", head="dense", init=None)(torch.empty(1, 3, 223, 223, device="meta"))


# Layers by hand: Table 1 for "paper", "dense" and "folded"; the others have one layer.
LAYERS = {
    "paper": ["pool", "flatten", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"],
    "folded": ["flatten", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"],
    "dense": ["check", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8", "average"],
    "cifar": ["flatten", "fc"],
    "gap": ["pool", "flatten", "fc"],
    "grid": ["pool", "flatten", "fc"],
    "none": [],
}


@pytest.mark.parametrize("name", HEADS)
def test_layers_and_sizes(name, monkeypatch):
    """Oracle: typed by hand: the names of the layers, inputs and outputs of the linear ones, dropout after fc6, fc7."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 8)
    head = build_head(name, channels=5, num_classes=3, dropout=0.25)
    assert [layer for layer, _ in head.named_children()] == LAYERS[name]
    shapes = {layer: tuple(module.weight.shape) for layer, module in head.named_children() if hasattr(module, "weight")}
    assert (
        shapes
        == {
            "paper": {"fc6": (8, 5 * 49), "fc7": (8, 8), "fc8": (3, 8)},
            "folded": {"fc6": (8, 5), "fc7": (8, 8), "fc8": (3, 8)},
            "dense": {"fc6": (8, 5, 7, 7), "fc7": (8, 8, 1, 1), "fc8": (3, 8, 1, 1)},
            "cifar": {"fc": (3, 5)},
            "gap": {"fc": (3, 5)},
            "grid": {"fc": (3, 5 * 16)},
            "none": {},
        }[name]
    )
    dropped = {layer: module.p for layer, module in head.named_children() if isinstance(module, nn.Dropout)}
    assert dropped == ({"drop6": 0.25, "drop7": 0.25} if name in ("paper", "folded", "dense") else {})


@pytest.mark.parametrize(
    ("name", "size"),
    [("paper", (7, 7)), ("paper", (9, 5)), ("folded", (1, 1)), ("cifar", (1, 1)), ("gap", (3, 2)), ("grid", (4, 4)),
     ("grid", (3, 6)), ("dense", (7, 7)), ("dense", (8, 10)), ("none", (2, 3))],
)  # fmt: skip
def test_outputs_of_a_map(name, size, monkeypatch):
    """Oracle: functions of PyTorch in the order of Table 1, with the same parameters."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 8)
    torch.manual_seed(0)
    head = build_head(name, channels=5, num_classes=3, dropout=0.5).eval()
    features = torch.rand(2, 5, *size)
    weights = [parameter.detach().flatten(1) if parameter.ndim > 2 else parameter for parameter in head.parameters()]
    if name == "none":
        expected = features
    elif name == "dense":  # every window of 7x7 cells by itself
        rows, columns = size[0] - 6, size[1] - 6
        windows = [features[:, :, i : i + 7, j : j + 7].flatten(1) for i in range(rows) for j in range(columns)]
        expected = torch.stack([fully_connected(window, weights) for window in windows]).mean(0)
    else:
        sides = {"paper": 7, "grid": 4}.get(name, 1)
        x = F.adaptive_avg_pool2d(features, sides).flatten(1)
        x = x / x.square().sum(1, keepdim=True).sqrt() if name == "grid" else x
        expected = fully_connected(x, weights)
    with torch.no_grad():
        torch.testing.assert_close(head(features), expected)


def fully_connected(x, parameters):
    """Layers of weights and biases with ReLU between them."""
    for number in range(0, len(parameters), 2):
        x = F.linear(x if number == 0 else x.relu(), parameters[number], parameters[number + 1])
    return x


@pytest.mark.parametrize(
    ("name", "size", "facts"),
    [
        ("cifar", (2, 1), ["32 to 63 pixels", "2x1", "Resize the images to 32 pixels", 'head="gap"']),
        ("folded", (1, 3), ["32 to 63 pixels", "1x3"]),
        ("dense", (7, 6), ["at least 7x7", "224x224 pixels", "7x6", 'head="paper"']),
        ("dense", (6, 9), ["6x9"]),
    ],
)
def test_maps_that_do_not_fit(name, size, facts, monkeypatch):
    """Oracle: by hand: one line that says what was found, what was expected, and what to do."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 8)
    with pytest.raises(InputError) as error:
        build_head(name, channels=5, num_classes=3, dropout=0.5)(torch.zeros(1, 5, *size))
    assert [fact for fact in facts if fact not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_an_unknown_head_is_refused():
    """Oracle: the contract: the message names the heads."""
    with pytest.raises(ConfigError, match="'round'.* paper, cifar, gap, grid, dense, folded, none"):
        build_head("round", channels=5, num_classes=3, dropout=0.5)


def test_folding_sums_in_float64():
    """Oracle: NumPy's sum in float64, rounded once; a sum in float32 loses the small weights."""
    weight = torch.full((1, 49), 1e-4)
    weight[0, 0], weight[0, 48] = 1e4, -1e4
    expected = np.float32(weight.double().numpy().sum())
    found = folded_from_paper({"fc6.weight": weight, "fc8.bias": torch.ones(2)})
    assert found["fc6.weight"].tolist() == [[expected]]
    assert found["fc6.weight"].dtype == torch.float32
    assert found["fc8.bias"].tolist() == [1, 1]
