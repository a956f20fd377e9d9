"""Models on the fast convolutions: the same numbers, the same names, and back again."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vggnet.accel.api import accelerate, restore
from vggnet.accel.modules import Conv3x3, DilatedConv3x3, OtherConv2d, PointwiseConv2d
from vggnet.accel.precision import best_precision, products_in
from vggnet.models.vgg import build


def step(model, images, labels):
    """Loss and gradients of one step."""
    model.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("algorithm", ["winograd4", "winograd2"])
@pytest.mark.parametrize("make", [
    lambda: build("vgg11_bn", num_classes=10, head="cifar", width=0.5),
    lambda: torchvision.models.resnet18(num_classes=10).eval(),  # batch norm over 16 values would enlarge any rounding
    lambda: torchvision.models.squeezenet1_1(num_classes=10).eval(),
], ids=["vgg11_bn", "resnet18", "squeezenet"])  # fmt: skip
def test_a_step_is_that_of_the_stock_model(make, algorithm, monkeypatch):
    """Oracle: a copy of the model on PyTorch's convolutions, in float64."""
    monkeypatch.setenv("VGGNET_CONV", algorithm)
    torch.manual_seed(0)
    stock = make()
    ours = accelerate(copy.deepcopy(stock))
    assert any(type(module) is Conv3x3 for module in ours.modules())
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    loss, gradients = step(ours, images.contiguous(memory_format=torch.channels_last), labels)
    expected_loss, expected = step(stock.double(), images.double(), labels)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in gradients.items():
        assert (gradient.double() - expected[name]).abs().max() < 1e-4 * largest, name


def test_what_is_replaced_and_what_is_not():
    """Oracle: by hand: only 3x3, stride 1, padding 1, one group, zeros outside; padding as dilation; 1x1 likewise."""
    eligible = [nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(3, 5, 3, padding="same", bias=False)]
    dilated = [nn.Conv2d(16, 16, 3, padding=(2, 3), dilation=(2, 3)), nn.Conv2d(4, 8, 3, padding="same", dilation=6)]
    pointwise = [nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1, padding="same")]
    others = [
        nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 1, stride=2), nn.Conv2d(16, 16, 1, padding=1),
        nn.Conv2d(16, 16, 5, padding=2), nn.Conv2d(16, 16, 3, 2, 1),
        nn.Conv2d(16, 16, 3, padding=1, dilation=2), nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"), nn.ConvTranspose2d(16, 16, 3, padding=1),
    ]  # fmt: skip
    model = nn.Sequential(*eligible, *dilated, *pointwise, *others)
    before = [type(module) for module in model]
    assert accelerate(model) is model
    assert [type(module) for module in model] == [
        Conv3x3, Conv3x3, DilatedConv3x3, DilatedConv3x3, PointwiseConv2d, PointwiseConv2d, *[OtherConv2d] * 8,
        nn.ConvTranspose2d,
    ]  # fmt: skip
    assert restore(model) is model
    assert [type(module) for module in model] == before


@pytest.mark.parametrize("algorithm", ["winograd4", "direct_nchw"])
@given(
    height=st.integers(1, 23), width=st.integers(1, 23), dilation=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    images=st.integers(1, 3), bias=st.booleans(),
)  # fmt: skip
def test_a_dilated_convolution_is_pytorch_s(algorithm, height, width, dilation, images, bias):
    """Oracle: F.conv2d in float64: results, and all gradients; in inference too, where weights are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGGNET_CONV", algorithm)
        torch.manual_seed(0)
        stock = nn.Conv2d(32, 16, 3, padding=dilation, dilation=dilation, bias=bias)
        (ours,) = accelerate(nn.Sequential(copy.deepcopy(stock)))
        x, grad = torch.randn(images, 32, height, width), torch.randn(images, 16, height, width)
        found = [x.clone().requires_grad_(), *ours.parameters()]
        exact = [x.double().requires_grad_(), *stock.double().parameters()]
        y, expected = ours(found[0]), stock(exact[0])
        results = [y.detach(), *torch.autograd.grad(y, found, grad), ours.eval().requires_grad_(False)(x)]
        others = [expected, *torch.autograd.grad(expected, exact, grad.double()), expected]
    assert y.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(results, others, strict=True):
        assert (one.double() - other).abs().max() < 1e-4 * max(other.abs().max(), 1)


@pytest.mark.skipif(best_precision() != "bfloat16", reason="the CPU has no matrix unit for bfloat16 (AMX)")
@pytest.mark.parametrize(("side", "dilation"), [(1, 1), (3, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_1x1_and_dilated_convolutions_in_bfloat16(side, dilation, bias, monkeypatch):
    """Oracle: F.conv2d of rounded factors in float64: results, all gradients, and inference where weights change."""
    monkeypatch.setenv("VGGNET_CONV", "bfloat16")
    torch.manual_seed(0)
    stock = nn.Conv2d(160, 140, side, padding=dilation * (side // 2), dilation=dilation, bias=bias)
    (ours,) = accelerate(nn.Sequential(copy.deepcopy(stock)))
    x, grad = torch.randn(2, 160, 20, 20), torch.randn(2, 140, 20, 20).bfloat16().float()
    with torch.no_grad():
        stock.weight.copy_(stock.weight.bfloat16())
    exact = [x.bfloat16().double().requires_grad_(), *stock.double().parameters()]
    expected = stock(exact[0])
    others = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    given = [x.clone().requires_grad_(), *ours.parameters()]
    with products_in("bfloat16"):
        y = ours(given[0])
        results = [y, *torch.autograd.grad(y, given, grad)]
        ours.eval().requires_grad_(False)
        assert torch.equal(ours(x), y)
        ours.weight.mul_(2)
        if bias:
            ours.bias.mul_(2)
        assert torch.equal(ours(x), 2 * y)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(results, others, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).abs().max() < 1e-5 * other.abs().max()
    assert not torch.allclose(y.double(), stock(x.double()), rtol=1e-6, atol=1e-6)  # these factors are not rounded


@pytest.mark.parametrize("bias", [True, False])
def test_other_convolutions_are_rounded_as_by_autocast(bias):
    """Oracle: PyTorch's autocast in a training in bfloat16; PyTorch's layer, bit for bit, everywhere else."""
    torch.manual_seed(0)
    stock = nn.Conv2d(16, 24, 5, stride=2, padding=2, bias=bias)
    (ours,) = accelerate(nn.Sequential(copy.deepcopy(stock)))
    x, grad = torch.randn(2, 16, 20, 20), torch.randn(2, 24, 10, 10)

    def step(conv):
        given = x.clone().requires_grad_()
        y = conv(given)
        assert y.dtype == (torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32)
        y.float().backward(grad)
        return [y.detach().float(), given.grad, *(parameter.grad for parameter in conv.parameters())]

    expected = step(stock.to(memory_format=torch.channels_last))
    assert all(map(torch.equal, step(ours), expected))
    ours.zero_grad()
    stock.zero_grad()
    if best_precision() == "bfloat16":
        with torch.autocast("cpu", torch.bfloat16):
            expected = step(stock)
    with products_in(best_precision()):
        assert all(map(torch.equal, step(ours), expected))


def test_parameters_names_and_hooks_stay():
    """Oracle: the objects themselves."""
    model = build("vgg11", num_classes=3, head="cifar", width=0.25)
    parameters, names, seen = list(model.parameters()), list(model.state_dict()), []
    model.features.conv3_2.register_forward_hook(lambda *arguments: seen.append("conv3_2"))
    accelerate(model)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert seen == ["conv3_2"]


def test_under_distributed_data_parallel(tmp_path):
    """Oracle: the gradients without it; one process, PyTorch's gloo."""
    torch.manual_seed(0)
    model = accelerate(build("vgg11_bn", num_classes=10, head="cifar", width=0.25))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    expected = step(copy.deepcopy(model), images, labels)[1]
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        found = step(nn.parallel.DistributedDataParallel(model), images, labels)[1]
    finally:
        torch.distributed.destroy_process_group()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[f"module.{name}"], gradient, rtol=1e-3, atol=1e-5)
