"""Answering: fused convolutions and weights made ready once are right, and notice every change of the weights."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from vggnet.accel import weight_cache as kept
from vggnet.accel.api import accelerate, restore
from vggnet.accel.modules import LargeLinear
from vggnet.models.vgg import build


@pytest.fixture(params=["direct_nchw", "dense", "unfold", "winograd2", "winograd4"])
def algorithm(request, monkeypatch):
    monkeypatch.setenv("VGGNET_CONV", request.param)
    return request.param


def layers(c, k, *, bias, norm, relu, pool):
    modules = [nn.Conv2d(c, k, 3, padding=1, bias=bias)]
    if norm:
        modules.append(nn.BatchNorm2d(k))
        with torch.no_grad():
            modules[1].weight.uniform_(-1.5, 1.5)
            modules[1].bias.normal_()
            modules[1].running_mean.normal_()
            modules[1].running_var.uniform_(0.5, 2)
    if relu:
        modules.append(nn.ReLU())
    if pool:
        modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules).eval()


def agree(found, expected, tolerance=5e-5):
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-30)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    n=st.integers(1, 4), c=st.sampled_from([3, 16, 48]), k=st.sampled_from([16, 80]), height=st.integers(1, 11),
    width=st.integers(1, 11), bias=st.booleans(), norm=st.booleans(), relu=st.booleans(), pool=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_layers_one_by_one(algorithm, n, c, k, height, width, bias, norm, relu, pool, seed):
    """Oracle: PyTorch's layers in float64."""
    torch.manual_seed(seed)
    pool = pool and min(height, width) > 1
    plain = layers(c, k, bias=bias, norm=norm, relu=relu, pool=pool)
    x = torch.randn(n, c, height, width)
    with torch.no_grad():
        found = accelerate(copy.deepcopy(plain))(x)
        agree(found, plain.double()(x.double()))


@pytest.mark.parametrize("make", [
    lambda: build("vgg13_bn", num_classes=7, head="gap", width=0.25),
    lambda: build("vgg11", num_classes=7, head="paper", width=0.25),
    lambda: torchvision.models.resnet18(num_classes=7),
    lambda: torchvision.models.squeezenet1_1(num_classes=7),
], ids=["vgg13_bn", "vgg11", "resnet18", "squeezenet"])  # fmt: skip
def test_whole_networks_by_measured_choices(make):
    """Oracle: the network in float64; twice, so that what is kept is used; batches of one and more."""
    torch.manual_seed(0)
    plain = make().eval()
    ours = accelerate(copy.deepcopy(plain))
    plain = plain.double()
    for batch in (1, 3, 1):
        x = torch.randn(batch, 3, 64, 64)
        with torch.inference_mode():
            agree(ours(x), plain(x.double()), 1e-3)


CHANGES = {
    "in place": lambda model: model[0].weight.mul_(2),
    "replaced": lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight * 2)),
    "data replaced": lambda model: setattr(model[0].weight, "data", model[0].weight.data * 2),
    "state": lambda model: model.load_state_dict({name: 3 * value for name, value in model.state_dict().items()}),
    "bias": lambda model: model[0].bias.add_(1),
    "statistics": lambda model: model[1].running_mean.add_(1),
    "through .data, then eval()": lambda model: (model[0].weight.data.mul_(2), model.eval()),
    "a step": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1).step() or None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_weights_is_seen(change, algorithm):
    """Oracle: PyTorch's layers after the same change."""
    torch.manual_seed(0)
    plain = layers(16, 16, bias=True, norm=True, relu=True, pool=False)
    ours, x = accelerate(copy.deepcopy(plain)), torch.randn(2, 16, 6, 6)
    with torch.no_grad():
        before = ours(x)
        agree(before, plain(x).double())
        for model in (plain, ours):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            CHANGES[change](model)
        after = ours(x)
        agree(after, plain(x).double())
    assert not torch.equal(after, before)


def test_training_then_answering_then_training():
    """Oracle: PyTorch's layers through the same steps: nothing stale is answered with."""
    torch.manual_seed(0)
    plain = build("vgg11_bn", num_classes=3, head="cifar", width=0.25)
    ours, x = accelerate(copy.deepcopy(plain)), torch.randn(8, 3, 32, 32)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (plain, ours)]
    for _ in range(3):
        answers = []
        for model, optimizer in zip((plain, ours), optimizers, strict=True):
            F.cross_entropy(model.train()(x), torch.arange(8) % 3).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                answers.append(model.eval()(x))
        agree(answers[1], answers[0].double(), 5e-3)


def test_what_is_kept_goes_with_its_module_and_when_the_mode_is_set():
    """Oracle: the number of modules that something is kept for."""

    def count():
        gc.collect()
        return len(kept._kept)

    before = count()
    model = accelerate(layers(16, 16, bias=True, norm=True, relu=True, pool=True))
    with torch.no_grad():
        model(torch.randn(1, 16, 8, 8))
        assert count() == before + 1
        copied = copy.deepcopy(model)
        assert count() == before + 1
        model.train()
        assert count() == before
        copied(torch.randn(1, 16, 8, 8))
        assert count() == before + 1
        del copied
        assert count() == before
        model.eval()(torch.randn(1, 16, 8, 8))
        restore(model)
        assert count() == before


def test_inference_tensors_and_gradients_go_the_plain_way():
    """Oracle: PyTorch's layers; weights that do not count their changes, and answers that are differentiated."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 6, 6)
    with torch.inference_mode():
        model = layers(16, 16, bias=True, norm=True, relu=True, pool=True)
        expected = model(x)
        agree(accelerate(model)(x), expected.double())
        model[0].weight.mul_(2)
        agree(model(x), restore(model)(x).double())
    model = accelerate(layers(16, 16, bias=True, norm=True, relu=True, pool=True))
    given = x.clone().requires_grad_()
    model(given).sum().backward()
    assert given.grad.abs().sum() > 0


def test_a_hook_sees_what_it_would_see():
    """Oracle: the same hook on PyTorch's layers, at each layer."""
    torch.manual_seed(0)
    plain, x = layers(16, 16, bias=True, norm=True, relu=True, pool=True), torch.randn(2, 16, 6, 6)
    for index in range(4):
        seen = []
        for model in (plain, accelerate(copy.deepcopy(plain))):
            model[index].register_forward_hook(lambda module, given, output, seen=seen: seen.append(output.clone()))
            with torch.no_grad():
                model(x)
        agree(seen[1], seen[0].double())
        plain[index]._forward_hooks.clear()


def test_nan_is_not_hidden(algorithm):
    """Oracle: the outputs that see the pixel, by hand."""
    x = torch.randn(1, 16, 8, 8)
    x[0, 3, 4, 4] = float("nan")
    for pool, seen in ((False, slice(3, 6)), (True, slice(1, 3))):
        model = accelerate(layers(16, 16, bias=True, norm=False, relu=True, pool=pool))
        with torch.no_grad():
            assert model(x)[0, :, seen, seen].isnan().all()


# fully connected layers


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 5), inputs=st.sampled_from([16, 512, 4096]), outputs=st.sampled_from([4, 64, 1000]),
    bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_halves_equal_a_product_of_rounded_weights(n, inputs, outputs, bias, seed):
    """Oracle: float64 product with the weights as NumPy rounds them to float16."""
    from vggnet.accel.algorithms import float16_linear as halves

    torch.manual_seed(seed)
    layer, x = nn.Linear(inputs, outputs, bias=bias), torch.randn(n, inputs)
    rounded = torch.from_numpy(layer.weight.detach().numpy().astype("float16").astype("float64"))
    expected = F.linear(x.double(), rounded, layer.bias.double() if bias else None)
    with torch.no_grad():
        agree(halves.linear(x, layer.weight.half(), layer.bias), expected, 1e-5)


def test_a_large_layer_answers_within_the_bound_and_learns_in_float32(monkeypatch):
    """Oracle: PyTorch's layer in float64: 1e-3 of the largest answer; gradients of the float32 layer itself."""
    torch.manual_seed(0)
    plain = nn.Linear(4096, 1000).eval()
    ours = accelerate(nn.Sequential(copy.deepcopy(plain)))
    assert type(ours[0]) is LargeLinear
    x = torch.randn(1, 4096)
    for way in ("halves", "direct", ""):
        monkeypatch.setenv("VGGNET_CONV", way)
        with torch.no_grad():
            agree(ours(x), F.linear(x.double(), plain.weight.double(), plain.bias.double()), 1e-3)
    assert torch.equal(ours(x), plain(x))  # with gradients
    with torch.no_grad():
        monkeypatch.setenv("VGGNET_CONV", "halves")
        ours[0].weight[0] = 1e6  # more than float16 holds
        plain.weight[0] = 1e6
        agree(ours(x), plain(x).double(), 1e-5)
    assert type(restore(ours)[0]) is nn.Linear
