"""The step: against plain PyTorch, and poisoned gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F

from vggnet.errors import NonFiniteError
from vggnet.training.learner import build_model, make_learner
from vggnet.training.presets import preset

DIGITS = preset("digits")
FAST = preset("fast")


TINY = DIGITS.override(model="vgg11", width=0.05, batch_size=16, init="he", lr=0.05)


def batch(count=16):
    torch.manual_seed(3)
    return torch.randn(count, 3, 32, 32), torch.arange(count) % 3


def test_step_equals_plain_pytorch():
    """Oracle: three steps of torch's SGD with the weights and the biases typed out as two groups."""
    images, labels = batch()
    config = TINY.override(label_smoothing=0.1, momentum=0.9, weight_decay=0.01)
    learner = make_learner(config, build_model(config, 3))
    model = copy.deepcopy(learner.model)
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    plain = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0}],
        lr=0.05, momentum=0.9, nesterov=True,
    )  # fmt: skip
    for _ in range(3):
        (loss_sum, correct), count = learner.train_step(images, labels)
        assert count == 16
        logits = model(images)
        assert loss_sum == pytest.approx(F.cross_entropy(logits, labels).item() * 16, rel=1e-5)
        assert correct == sum(int(logits[i].argmax() == labels[i]) for i in range(16))
        plain.zero_grad()
        F.cross_entropy(logits, labels, label_smoothing=0.1).backward()
        plain.step()
    for found, expected in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_accumulated_parts_equal_the_whole_batch():
    """Oracle: the same step without accumulation, on a network without batch norm; 16 images in parts of 5 or 6."""
    images, labels = batch()
    whole = make_learner(TINY, build_model(TINY, 3))
    parts = make_learner(TINY.override(accumulate=3), build_model(TINY, 3))
    for _ in range(2):
        sums, count = whole.train_step(images, labels)
        assert (pytest.approx(sums, rel=1e-5), count) == parts.train_step(images, labels)
    for found, expected in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_without_images_changes_nothing():
    """Oracle: the weights before the step."""
    images, labels = batch()
    learner = make_learner(TINY.override(momentum=0.9), build_model(TINY, 3))
    learner.train_step(images, labels)
    before = copy.deepcopy(learner.model.state_dict())
    assert learner.train_step(images[:0], labels[:0]) == ([0.0, 0.0], 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.model.state_dict().items())


def test_scales_of_batch_norm_have_a_penalty():
    """Oracle: a step of plain SGD with and without it differs by rate times penalty times sign, and in scales alone."""
    images, labels = batch()
    config = TINY.override(model="vgg11_bn", momentum=0.0, lr=0.1, weight_decay=0.0)
    plain, penalized = (
        make_learner(config.override(norm_l1=penalty), build_model(config, 3)) for penalty in (0.0, 0.01)
    )
    for learner in (plain, penalized):
        learner.model.features.bn1_1.weight.data[0] = -1.0
        learner.train_step(images, labels)
    for (name, other), own in zip(plain.model.named_parameters(), penalized.model.parameters(), strict=True):
        sign = torch.ones_like(own)
        if name == "features.bn1_1.weight":
            sign[0] = -1
        expected = other - 0.1 * 0.01 * sign if ".bn" in name and name.endswith("weight") else other
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-7)


def test_average_follows_its_formula():
    """Oracle: average = decay * average + (1 - decay) * weights, in a loop; it starts at the first weights."""
    images, labels = batch()
    learner = make_learner(TINY.override(ema=0.8), build_model(TINY, 3))
    expected = None
    for _ in range(4):
        learner.train_step(images, labels)
        weights = learner.model.head.fc.weight.detach().clone()
        expected = weights if expected is None else 0.8 * expected + 0.2 * weights
    torch.testing.assert_close(learner.kept.head.fc.weight, expected)


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_each_parameter_has_its_rate(optimizer):
    """Oracle: the documentation of the options lr, kernel_lr and norm_bias_lr, name by name."""
    rates_of_muon = {"kernel_lr": 2.0, "norm_bias_lr": 3.0} if optimizer == "muon" else {}
    config = FAST.override(width=0.05, lr=1.0, optimizer=optimizer, **rates_of_muon)
    learner = make_learner(config, build_model(config, 3))
    rates = {p: group["base_lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    names = dict(learner.model.named_parameters())
    assert len(rates) == len(names)
    muons = {"conv.weight": 2.0, "bn.bias": 3.0} if optimizer == "muon" else {}
    for name, parameter in names.items():
        kind, _, which = name.removeprefix("features.").partition(".")
        assert rates[parameter] == muons.get(f"{kind.rstrip('_1234')}.{which}", 1.0), name


def test_muon_is_for_kernels_that_batch_norm_follows():
    """Oracle: by hand: a U-Net on a network without batch norm has it in its decoder alone, after 11 convolutions."""
    config = preset("segment").override(
        model="vgg11", width=0.05, freeze=0, lr=1.0, optimizer="muon", kernel_lr=2.0, norm_bias_lr=3.0
    )
    learner = make_learner(config, build_model(config, 3))
    rates = {p: group["base_lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    found = {name: rates[parameter] for name, parameter in learner.model.named_parameters()}
    kernels = {f"head.{place}.weight" for place in ("center.0", *(f"stages.{n}.{m}" for n in range(5) for m in (0, 3)))}
    biases = {f"head.{place}.bias" for place in ("center.1", *(f"stages.{n}.{m}" for n in range(5) for m in (1, 4)))}
    assert {name for name, rate in found.items() if rate == 2.0} == kernels
    assert {name for name, rate in found.items() if rate == 3.0} == biases
    assert {rate for name, rate in found.items() if name not in kernels | biases} == {1.0}


@pytest.mark.parametrize("poison", ["image", "weight"])
def test_non_finite_values_stop_before_the_update(poison):
    """Oracle: the weights before the step."""
    images, labels = batch()
    learner = make_learner(TINY, build_model(TINY, 3))
    if poison == "image":
        images[3, 0, 5, 5] = torch.nan
    else:
        with torch.no_grad():
            learner.model.head.fc.weight[0, 0] = torch.inf
    before = copy.deepcopy(learner.model.state_dict())
    with pytest.raises(NonFiniteError):
        learner.train_step(images, labels)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.model.state_dict().items())
