"""Heads for pixels: each against its paper, on every column, for images of any size."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vggnet
from vggnet.compression.fold import fold
from vggnet.compression.prune import macs_limit, prune
from vggnet.errors import ConfigError
from vggnet.models.initialization import bilinear_kernel
from vggnet.models.table1 import MASK_HEADS, MODEL_NAMES, STRIDED, levels, resolve
from vggnet.models.vgg import Architecture, build
from vggnet.weights.adaptation import transfer

PREPROCESS = vggnet.Preprocess(resize=64, crop=64)


def make(head, name="vgg11", **options):
    """A network whose batch norm and biases have values of their own."""
    torch.manual_seed(0)
    model = build(name, num_classes=3, head=head, **{"width": 0.1, **options})
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for buffer in model.buffers():
        if buffer.ndim == 1:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return model.eval()


def features_by_hand(model, images):
    """Outputs of all layers by name."""
    found = {}
    for name, layer in model.features.named_children():
        images = found[name] = layer(images)
    return found


def enlarge(maps, factor):
    """Each pixel is the mean of the cells whose centers lie nearer than a cell, weighted by 1 - distance."""

    def matrix(size):
        at = (np.arange(size * factor) + 0.5) / factor - 0.5
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))

    rows, columns = (matrix(size) for size in maps.shape[2:])
    return torch.from_numpy(rows @ maps.detach().double().numpy() @ columns.T).float()


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_transposed_convolutions_start_as_bilinear_interpolation(factor):
    """Oracle: NumPy, the formula of bilinear interpolation with zeros outside; channels do not mix."""
    maps = torch.rand(2, 3, 4, 5)
    found = F.conv_transpose2d(maps, bilinear_kernel(3, factor), stride=factor, padding=factor // 2)
    torch.testing.assert_close(found, enlarge(maps, factor))


@pytest.mark.parametrize("head", ["fcn8", "fcn32"])
def test_fcn_adds_the_scores_of_shallower_maps(head):
    """Oracle: Long et al., section 4.2, by functions of PyTorch and the formula of bilinear interpolation."""
    model, images = make(head), torch.rand(2, 3, 96, 64)
    maps, state = features_by_hand(model, images), model.head.state_dict()

    def score(name, x, **options):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    x = score("fc7", score("fc6", maps["pool5"], padding=3).relu()).relu()
    expected = score("scores.fc8", x)
    if head == "fcn8":
        expected = enlarge(expected, 2) + score("scores.pool4", maps["pool4"])
        expected = enlarge(expected, 2) + score("scores.pool3", maps["pool3"])
    torch.testing.assert_close(model(images), enlarge(expected, 8 if head == "fcn8" else 32), rtol=1e-4, atol=1e-4)


def block(x, state, name, first=0):
    """Convolution, batch norm in eval mode, ReLU."""
    x = F.conv2d(x, state[f"{name}.{first}.weight"], padding=1)
    mean, variance, weight, bias = (
        state[f"{name}.{first + 1}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, weight, bias).relu()


def test_segnet_puts_values_back_where_they_came_from():
    """Oracle: PyTorch's max pool with indices and its unpooling, inside the network's own layers."""
    model, images = make("segnet", "vgg13"), torch.rand(2, 3, 64, 96)
    state, places, x = model.head.state_dict(), [], images
    for layer in model.features:
        if isinstance(layer, nn.MaxPool2d):
            x, where = nn.MaxPool2d(2, return_indices=True)(x)
            places.append(where)
        else:
            x = layer(x)
    for stage, where in enumerate(reversed(places)):
        x = nn.MaxUnpool2d(2)(x, where)
        for convolution in range(2 if stage < 4 else 1):
            x = block(x, state, f"stages.{stage}", 3 * convolution)
    expected = F.conv2d(x, state["scores.pixels.weight"], state["scores.pixels.bias"], padding=1)
    torch.testing.assert_close(model(images), expected)


def test_unet_joins_the_maps_of_its_size():
    """Oracle: functions of PyTorch, with what repeats each cell written as NumPy's repeat."""
    model, images = make("unet"), torch.rand(2, 3, 64, 96)
    maps, state = features_by_hand(model, images), model.head.state_dict()
    x = block(maps["pool5"], state, "center")
    for stage, name in enumerate(("relu5_2", "relu4_2", "relu3_2", "relu2_1", "relu1_1")):
        twice = torch.from_numpy(x.detach().numpy().repeat(2, 2).repeat(2, 3))
        x = block(block(torch.cat([twice, maps[name]], 1), state, f"stages.{stage}"), state, f"stages.{stage}", 3)
    expected = F.conv2d(x, state["scores.pixels.weight"], state["scores.pixels.bias"])
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("head", MASK_HEADS)
def test_images_of_any_size_on_every_column(head):
    """Oracle: the same images with zeros beside them, up to multiples of 32."""
    for name in (name for name in MODEL_NAMES if resolve(name).column not in STRIDED):
        model, images = make(head, name, width=0.02), torch.rand(1, 3, 33, 70)
        expected = model(F.pad(images, (0, 26, 0, 31)))[:, :, :33, :70]
        torch.testing.assert_close(model(images), expected, msg=name)
        assert model.task == "segment"


@pytest.mark.parametrize("head", MASK_HEADS)
def test_accelerated_and_traced(head):
    """Oracle: the network itself; a step of training gives the same gradients."""
    torch.manual_seed(0)
    model, images = make(head, "vgg11_bn", dropout=0.0), torch.rand(2, 3, 64, 80)
    fast = vggnet.accelerate(copy.deepcopy(model))
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(images), model(images))
    for network in (fast, model):
        torch.manual_seed(1)
        network.train()(images).square().mean().backward()
    for (name, one), other in zip(model.named_parameters(), fast.parameters(), strict=True):
        if one.ndim > 1:  # of biases before batch norm the gradient is 0
            assert (one.grad - other.grad).norm() < 1e-2 * one.grad.norm(), name


@pytest.mark.parametrize("head", MASK_HEADS)
def test_files_and_other_classes(head, tmp_path):
    """Oracle: the network before it was saved; with other classes all layers but those of scores stay."""
    model, images = make(head), torch.rand(1, 3, 64, 64)
    vggnet.save(model, tmp_path / "model.safetensors", preprocess=PREPROCESS)
    opened = vggnet.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(opened(images), model(images), rtol=0, atol=0)
    assert opened.task == "segment"
    other = vggnet.load(tmp_path / "model.safetensors", num_classes=5)
    assert other(images).shape == (1, 5, 64, 64)
    changed = {name for name, tensor in model.state_dict().items() if tensor.shape != other.state_dict()[name].shape}
    assert {name.rpartition(".")[0] for name in changed} == set(model.class_layers)
    for name, tensor in model.state_dict().items():
        if name not in changed:
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)
    ups = {name for name in changed if ".up" in name}
    assert all(torch.equal(other.state_dict()[n], bilinear_kernel(5, tensor_factor(model, n))) for n in ups)


def tensor_factor(model, name):
    return model.get_submodule(name.removesuffix(".weight")).stride[0]


def test_fcn_starts_from_the_fully_connected_layers_of_a_classifier(monkeypatch):
    """Oracle: on one window of 7x7 cells the center of fc6 is what the classifier has."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 8 * 51)
    classifier = make("paper")
    model = build("vgg11", num_classes=3, head="fcn8", width=0.1).eval()
    fresh = transfer(classifier, model)
    assert {name.split(".")[1] for name in fresh} == {"scores"}
    maps = torch.rand(1, 51, 7, 7)
    expected = F.linear(maps.flatten(1), classifier.head.fc6.weight, classifier.head.fc6.bias)
    torch.testing.assert_close(model.head.fc6(maps)[:, :, 3, 3], expected)


def test_a_norm_is_folded_and_channels_are_not_pruned():
    """Oracle: the network before; the maps of several layers are joined, so that none may lose a channel."""
    model, images = make("unet", "vgg11_bn"), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(fold(model, size=64)(images), model(images), rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="unet takes the maps of several layers"):
        prune(model, [macs_limit(model, 0.5, 64)])


def test_levels_of_a_column():
    """Oracle: Table 1 by hand; column S has no convolution in its last block, A-LRN normalizes before the pool."""
    assert [level.last for level in levels("E")] == ["relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4"]
    assert [level.last for level in levels("S")][-2:] == ["relu4_1", "pool4"]
    assert levels("A-LRN")[0].last == "lrn1_1"
    assert [level.channels for level in levels("D", 0.5)] == [32, 64, 128, 256, 256]
    assert [level.convolutions for level in levels("C")] == [2, 2, 3, 3, 3]


def test_boxes_and_masks_exclude_each_other():
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match="boxes is 'shared', but the head unet"):
        Architecture(head="unet", boxes="shared")
    with pytest.raises(ConfigError, match="repvgg_a0 has no pools"):
        Architecture(name="repvgg_a0", head="unet")
