"""Branches and their folding, against float64 by functions of PyTorch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError
from vggnet.models.branches import BranchedConv, add_branches
from vggnet.models.vgg import build
from vggnet.weights.checkpoint import Checkpoint, save


def randomize(module, seed=0):
    """Parameters and running statistics as those of a trained network: no two alike, variances over decades."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(10 ** (torch.rand(tensor.shape, generator=generator) * 4 - 3))
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)
    return module


def by_hand(state, x):
    """The sum of the branches in eval mode, in float64: convolution, mean, deviation, scale and bias written out."""
    state = {name: tensor.double() for name, tensor in state.items()}
    total = 0
    for branch, height, width in (("3x3", 3, 3), ("1x3", 1, 3), ("3x1", 3, 1), ("1x1", 1, 1), ("identity", 0, 0)):
        if f"{branch}.conv.weight" in state:
            y = F.conv2d(x, state[f"{branch}.conv.weight"], padding=(height // 2, width // 2))
            norm = f"{branch}.bn"
        elif branch == "identity" and "identity.weight" in state:
            y, norm = x, branch
        else:
            continue
        mean, variance, weight, bias = (
            state[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        total = total + (y - mean) / (variance + 1e-5).sqrt() * weight + bias
    return total


@settings(max_examples=30)
@given(
    kind=st.sampled_from(["acb", "repvgg"]), channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)), square=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_a_convolution_folds_exactly(kind, channels, size, square, seed):
    """Oracle: the branches in float64, written out; relative to the largest value, as single ones may cancel."""
    inputs, outputs = (channels[0], channels[0]) if square else channels
    module = randomize(BranchedConv(inputs, outputs, kind), seed).eval()
    x = torch.randn(2, inputs, *size, generator=torch.Generator().manual_seed(seed))
    expected = by_hand(module.state_dict(), x.double())
    kernel, bias = module.folded()
    assert (kernel.shape, kernel.dtype) == ((outputs, inputs, 3, 3), torch.float32)
    for found in (F.conv2d(x, kernel, bias, padding=1), module(x)):
        assert (found.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_branches_are_those_of_the_papers():
    """Oracle: arXiv:1908.03930, figure 1; arXiv:2101.03697, figure 2: identity where the shapes are equal."""
    branches = {
        (kind, channels): list(dict(BranchedConv(4, channels, kind).named_children()))
        for kind in ("acb", "repvgg")
        for channels in (4, 5)
    }
    assert branches["acb", 4] == branches["acb", 5] == ["3x3", "1x3", "3x1"]
    assert (branches["repvgg", 4], branches["repvgg", 5]) == (["3x3", "1x1", "identity"], ["3x3", "1x1"])


@pytest.mark.parametrize("channels", [(6, 6), (4, 6)])
def test_repvgg_is_that_of_timm(channels):
    """Oracle: a block of timm with the same tensors: its outputs before its ReLU, and the kernel that timm folds."""
    byobnet = pytest.importorskip("timm.models.byobnet")
    module = randomize(BranchedConv(*channels, "repvgg")).eval()
    theirs = byobnet.RepVggBlock(*channels).eval()
    names = {"3x3": "conv_kxk", "1x1": "conv_1x1", "identity": "identity"}
    theirs.load_state_dict({
        f"{names[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor
        for name, tensor in module.state_dict().items()
    })  # fmt: skip
    x = torch.randn(2, channels[0], 9, 9)
    kernel, bias = module.folded()
    torch.testing.assert_close(F.conv2d(x, kernel, bias, padding=1).relu(), theirs(x), rtol=1e-5, atol=1e-4)
    theirs.reparameterize()
    torch.testing.assert_close(kernel, theirs.reparam_conv.weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias, theirs.reparam_conv.bias, rtol=1e-5, atol=1e-4)


def branched(name="vgg11_bn", kind="acb", head="gap"):
    torch.manual_seed(0)
    return randomize(add_branches(build(name, num_classes=3, head=head, width=0.06), kind))


@pytest.mark.parametrize("kind", ["acb", "repvgg"])
@pytest.mark.parametrize(("name", "head"), [("vgg8_bn", "cifar"), ("vgg16_1x1_bn", "gap")])
def test_a_network_folds_exactly(name, head, kind):
    """Oracle: the network with branches in eval mode, in float64. Column C has 1x1 convolutions, which have none."""
    model = branched(name, kind, head)
    x = torch.randn(2, 3, 32, 32)
    expected = copy.deepcopy(model).double().eval()(x.double())
    plain = model.folded()
    found = plain(x)
    assert (found.double() - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert plain.architecture == build(name.removesuffix("_bn"), num_classes=3, head=head, width=0.06).architecture
    assert not any("bn" in key or "conv." in key for key in plain.state_dict())
    if name == "vgg16_1x1_bn":
        assert isinstance(model.features.conv3_3, torch.nn.Conv2d)


def test_the_mode_does_not_change_what_is_folded():
    """Oracle: folding in eval mode. In training mode the outputs are others: those of the batch's own statistics."""
    model = branched()
    x = torch.randn(4, 3, 32, 32)
    expected = model.eval().folded()
    before = copy.deepcopy(model.state_dict())
    plain = model.train().folded()
    assert model.training
    assert not any(module.training for module in plain.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(plain.state_dict()[name], tensor)
    assert (model(x) - expected(x)).abs().max() > 0.01 * expected(x).abs().max()
    assert torch.equal(plain.train()(x), expected(x))  # nothing is left in it that a mode could change


def test_a_folded_network_is_a_copy():
    """Oracle: its outputs before the network with branches is changed everywhere."""
    model = branched()
    plain, x = model.folded(), torch.randn(1, 3, 32, 32)
    expected = plain(x)
    randomize(model, seed=1)
    assert torch.equal(plain(x), expected)


def test_only_the_folded_network_is_saved(tmp_path):
    """Oracle: the error names the method; what it returns is saved and opened as any other network."""
    model = branched()
    with pytest.raises(ConfigError, match=r"branches.*folded\(\)"):
        save(model, tmp_path / "mine.safetensors", preprocess=Preprocess.imagenet())
    plain, x = model.folded(), torch.randn(1, 3, 32, 32)
    save(plain, tmp_path / "mine.safetensors", preprocess=Preprocess.imagenet())
    assert torch.equal(Checkpoint.open(tmp_path / "mine.safetensors").build()(x), plain(x))


@pytest.mark.parametrize("kind", ["acb", "repvgg"])
def test_a_sum_starts_as_one_branch(kind):
    """Oracle: a plain convolution with batch norm, which passes its channels on with variance 1; its one bias."""
    model = add_branches(build("vgg11_bn", head="gap", width=0.5, init="dirac"), kind, init="dirac")
    layer = model.features.conv3_2
    assert 0.5 < layer(torch.randn(8, 128, 16, 16)).std() < 1.01
    assert (
        sum(parameter.ndim == 1 and parameter.requires_grad for parameter in layer.parameters())
        == len(list(layer.children())) + 1
    )


def test_branches_need_batch_norm():
    """Oracle: the error names the network, and the ending to take."""
    with pytest.raises(ConfigError, match=r"vgg11 has no batch norm.*_bn"):
        add_branches(build("vgg11", head="gap", width=0.06), "acb")
    with pytest.raises(ConfigError, match="acb, repvgg"):
        add_branches(build("vgg11_bn", head="gap", width=0.06), "dbb")
