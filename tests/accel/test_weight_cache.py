"""What is computed from weights for inference is used again, and every change of the weights is noticed."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vggnet.accel import weight_cache
from vggnet.accel.api import accelerate, restore
from vggnet.models.vgg import build


@pytest.fixture(params=["direct_nchw", "matmul", "im2col", "winograd2", "winograd4"])
def algorithm(request, monkeypatch):
    monkeypatch.setenv("VGGNET_CONV", request.param)


def layers():
    """3x3 convolution, batch norm, ReLU and max pool in eval mode."""
    norm = nn.BatchNorm2d(16)
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)).eval()


def agree(found, expected, tolerance=5e-5):
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-30)


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
    plain = layers()
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


def test_training_then_inference_then_training():
    """Oracle: PyTorch's layers through the same steps: no stale weights are used."""
    torch.manual_seed(0)
    plain = build("vgg11_bn", num_classes=3, head="cifar", width=0.25)
    ours, x = accelerate(copy.deepcopy(plain)), torch.randn(8, 3, 32, 32)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (plain, ours)]
    for _ in range(3):
        outputs = []
        for model, optimizer in zip((plain, ours), optimizers, strict=True):
            F.cross_entropy(model.train()(x), torch.arange(8) % 3).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                outputs.append(model.eval()(x))
        agree(outputs[1], outputs[0].double(), 5e-3)


def test_the_cache_goes_with_its_module_and_when_the_mode_is_set():
    """Oracle: the number of modules that have a cache: a convolution, and a sequence with its plan."""

    def count():
        gc.collect()
        return len(weight_cache._cache)

    before = count()
    model = accelerate(layers())
    with torch.no_grad():
        model(torch.randn(1, 16, 8, 8))
        assert count() == before + 2
        copied = copy.deepcopy(model)
        assert count() == before + 2
        model.train()
        assert count() == before
        copied(torch.randn(1, 16, 8, 8))
        assert count() == before + 2
        del copied
        assert count() == before
        model.eval()(torch.randn(1, 16, 8, 8))
        restore(model)
        assert count() == before
