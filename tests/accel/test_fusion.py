"""Which layers of a sequence run as one operator, and which do not."""

import copy
import itertools

import pytest
import torch
from torch import nn

from vggnet.accel import autotuning, fusion
from vggnet.accel.api import accelerate, restore
from vggnet.accel.autotuning import autotuner
from vggnet.accel.kernels.tiles import has_tiles
from vggnet.accel.precision import products_in
from vggnet.accel.startup import startup
from vggnet.accel.weight_cache import kept


def layers():
    """3x3 convolution, batch norm, ReLU and max pool, always the same."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(16)
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2))


@pytest.fixture
def groups(monkeypatch):
    """The numbers of layers that ran as one operator, as they run."""
    counts, run = [], fusion._Group.run

    def counting(self, x, **options):
        counts.append(self.count)
        return run(self, x, **options)

    monkeypatch.setattr(fusion._Group, "run", counting)
    return counts


@pytest.mark.parametrize(("change", "training", "inference"), [
    (lambda model: model, [3], [4]),
    (lambda model: model[:3], [2], [3]),
    (lambda model: model[:2], [], [2]),
    (lambda model: model[:1], [], [1]),
    (lambda model: model[2:], [], []),
    (lambda model: nn.Sequential(*model[:3], nn.MaxPool2d(3, 2)), [2], [3]),
    (lambda model: nn.Sequential(*model[:3], nn.MaxPool2d(2, 1)), [2], [3]),
    (lambda model: nn.Sequential(*model[:3], nn.MaxPool2d(2, ceil_mode=True)), [3], [4]),  # the same on even maps
    (lambda model: nn.Sequential(model[0], nn.ReLU(), model[1]), [], [2]),
])  # fmt: skip
def test_which_layers_are_fused(change, training, inference, groups):
    """Oracle: by hand, and the outputs of PyTorch's layers."""
    plain = change(layers())
    model, x = accelerate(copy.deepcopy(plain)), torch.randn(4, 16, 6, 6)
    for mode, expected in ((True, training), (False, inference)):
        groups.clear()
        with torch.set_grad_enabled(mode):
            torch.testing.assert_close(model.train(mode)(x), plain.train(mode)(x), rtol=1e-4, atol=1e-4)
        assert groups == expected


@pytest.mark.parametrize(("hooked", "results"), [
    (None, [torch.bfloat16, torch.bfloat16, torch.float32]),
    (3, [torch.bfloat16, torch.float32, torch.float32]),  # a ReLU
    (4, [torch.bfloat16, torch.float32]),  # a convolution, which runs by itself
])  # fmt: skip
@pytest.mark.parametrize("algorithm", ["bfloat16", "winograd4"])
def test_bfloat16_between_convolutions(hooked, results, algorithm, monkeypatch):
    """Oracle: by hand: only what a convolution alone gets is in bfloat16; PyTorch's layers."""
    monkeypatch.setenv("VGGNET_CONV", algorithm)
    torch.manual_seed(0)
    pairs = [(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()) for channels in (16, 32, 32)]
    plain = nn.Sequential(*itertools.chain(*pairs), nn.MaxPool2d(2)).eval()
    model, found, run = accelerate(copy.deepcopy(plain)), [], fusion._Group.run

    def noting(self, x, **options):
        result = run(self, x, **options)
        found.append(result.dtype)
        return result

    monkeypatch.setattr(fusion._Group, "run", noting)
    if hooked is not None:
        model[hooked].register_forward_hook(lambda module, arguments, output: None)
    x = torch.randn(2, 16, 10, 10)
    with torch.no_grad():
        expected = plain(x)
        with products_in("bfloat16"):
            rounded = model(x)
        assert found == results
        exact = model(x)
    assert set(found[len(results) :]) == {torch.float32}
    assert rounded.dtype == torch.float32
    assert (rounded - expected).norm() < 0.01 * expected.norm()
    assert (exact - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hooked", [0, 1, 2, 3])
def test_hooks_see_what_they_would_see(hooked, training):
    """Oracle: the same hook on PyTorch's layers."""
    x, seen = torch.randn(4, 16, 6, 6), []
    for model in (layers(), accelerate(layers())):
        model[hooked].register_forward_hook(lambda module, arguments, output: seen.append(output.detach().clone()))
        with torch.set_grad_enabled(training):
            model.train(training)(x)
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_fused_is_pytorchs(groups):
    """Oracle: the layers themselves: no affine parameters, no running statistics, one value, eval with gradients."""
    x = torch.randn(4, 16, 6, 6)
    for norm in (nn.BatchNorm2d(16, affine=False), nn.BatchNorm2d(16, track_running_stats=False)):
        plain = nn.Sequential(norm, nn.ReLU())
        assert torch.equal(accelerate(copy.deepcopy(plain))(x), plain(x))
    model = accelerate(layers()[1:3])
    with pytest.raises(ValueError, match="more than 1 value"):
        model(torch.randn(1, 16, 1, 1))
    gradients = []
    for network in (model.eval(), layers()[1:3].eval()):
        given = x.clone().requires_grad_()
        network(given).square().sum().backward()
        gradients.append(given.grad)
    assert torch.equal(*gradients)
    assert groups == []


def replace_convolution(model):
    torch.manual_seed(2)
    model[0] = nn.Conv2d(16, 16, 3, padding=1)


def load_in_inference_mode(model):
    with torch.inference_mode():
        model[0].weight = nn.Parameter(model[0].weight * 2, requires_grad=False)


@pytest.mark.parametrize("change", [
    lambda model: model[0].weight.mul_(2),
    lambda model: model[1].running_var.mul_(2),
    lambda model: (model[0].weight.data.mul_(2), model[0].eval()),
    lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight * 2)),
    load_in_inference_mode,
    replace_convolution,
    lambda model: model[1].train(),
    lambda model: model.insert(2, nn.ReLU6()),
    lambda model: model[0].register_forward_hook(lambda layer, inputs, output: output * 2),
    lambda model: model[2].register_forward_pre_hook(lambda layer, inputs: inputs[0] - 1),
])  # fmt: skip
@pytest.mark.parametrize("algorithm", ["winograd2", "direct_nchw"])
def test_a_plan_is_made_anew_after_a_change(change, algorithm, monkeypatch):
    """Oracle: PyTorch's layers after the same change; before it, nothing is decided a second time."""
    monkeypatch.setenv("VGGNET_CONV", algorithm)
    decided, decide = [], fusion._first_groups
    monkeypatch.setattr(fusion, "_first_groups", lambda layers, x: decided.append(x.shape) or decide(layers, x))
    plain = nn.Sequential(*layers(), nn.Conv2d(16, 32, 3, padding=1)).eval()
    model = accelerate(copy.deepcopy(plain))
    with torch.no_grad(), products_in("float32"):
        for size in (8, 8, 6, 6, 8):
            x = torch.randn(2, 16, size, size)
            torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
        assert [shape[2] for shape in decided] == [8, 6]
        for each in (plain, model):
            change(each)
        for _ in range(2):
            torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)


def test_predicted_algorithms_have_a_plan_until_they_are_measured(own_cache, monkeypatch):
    """Oracle: PyTorch's layers; by hand, when something is decided and when something is measured."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    monkeypatch.setattr("vggnet.accel.autotuning.MEASURE_AFTER", 4)
    startup().start()
    events, decide, measure = [], fusion._first_groups, autotuning.measure
    monkeypatch.setattr(fusion, "_first_groups", lambda layers, x: events.append("decided") or decide(layers, x))
    monkeypatch.setattr(autotuning, "measure", lambda algorithms: events.append("measured") or measure(algorithms))
    plain, x = layers().eval(), torch.randn(2, 16, 8, 8)
    model = accelerate(copy.deepcopy(plain))
    with torch.no_grad(), products_in("float32"):
        for call in range(8):
            events.append(call)
            torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    assert events == [0, "decided", 1, 2, 3, 4, "decided", "measured", 5, "decided", 6, 7]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_type_are_refused(dtype, monkeypatch):
    """Oracle: PyTorch's error for float32 images; before the change there is a plan."""
    monkeypatch.setenv("VGGNET_CONV", "winograd2")
    model, x = accelerate(layers().eval()), torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(x))
        model[0].to(dtype)
        with pytest.raises(RuntimeError, match="type"):
            model(x)


@pytest.mark.parametrize("algorithm", ["bfloat16", "winograd2"])
def test_statistics_without_gradients(algorithm, monkeypatch):
    """Oracle: PyTorch's layers: batch norm in training mode uses and keeps the statistics of every batch."""
    monkeypatch.setenv("VGGNET_CONV", algorithm)
    torch.manual_seed(0)
    layers = [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    plain = nn.Sequential(*layers).train()
    model = accelerate(copy.deepcopy(plain))
    with torch.no_grad(), products_in("bfloat16"):
        for mode, _ in itertools.product((True, False, True), range(3)):
            if model.training != mode:
                model.train(mode)
                plain.train(mode)
            x = torch.randn(4, 32, 8, 8) * 3 + 1
            torch.testing.assert_close(model(x), plain(x), rtol=0.02, atol=0.03)
            torch.testing.assert_close(model[1].running_mean, plain[1].running_mean, rtol=0.01, atol=1e-3)


def test_a_plan_holds_for_its_precision_and_mode():
    """Oracle: what an equal model gives that has no plan."""
    plain = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1)).eval()
    model, x = accelerate(copy.deepcopy(plain)), torch.randn(1, 32, 8, 8)
    for precision, records in itertools.product(("float32", "bfloat16", "float32"), (False, True)):
        with products_in(precision), torch.set_grad_enabled(records), autotuner().fixed({}):
            model(x)
            found, expected = model(x), accelerate(copy.deepcopy(plain))(x)
        assert torch.equal(found, expected)
        assert found.requires_grad == records


@pytest.mark.skipif(not has_tiles(), reason="the CPU has no matrix unit for bfloat16 (AMX)")
@pytest.mark.parametrize("changed", [0, 2])
def test_a_plan_takes_the_first_two_convolutions_in_one_step(changed, monkeypatch):
    """Oracle: what an equal model gives that has no plan, to the last bit, also after a change of either weight."""
    monkeypatch.setenv("VGGNET_CONV", "bfloat16")
    convs = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
    plain = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)).eval()
    model, x = accelerate(copy.deepcopy(plain)), torch.randn(2, 3, 10, 12)
    with torch.no_grad(), products_in("bfloat16"):
        for _ in range(2):
            expected = accelerate(copy.deepcopy(plain))(x)
            model(x)
            assert torch.equal(model(x), expected)
            assert [len(plan.steps) for plan in kept(model, fusion.PLANS)[1].values()] == [1]
            for each in (model, plain):
                each[changed].weight.mul_(2)


def two_sequences():
    """Two that follow each other, and the same layers as one."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
    second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
    whole = accelerate(copy.deepcopy(nn.Sequential(*first, *second)))
    return accelerate(first), accelerate(second), whole


@pytest.mark.skipif(not has_tiles(), reason="the CPU has no matrix unit for bfloat16 (AMX)")
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_between_sequences(training, monkeypatch):
    """Oracle: one sequence of the same layers, to the last bit; the error of autocast's gradients to float64's."""
    monkeypatch.setenv("VGGNET_CONV", "bfloat16")
    first, second, whole = (layers.train(training) for layers in two_sequences())
    x = torch.randn(8, 32, 24, 24)
    stock = restore(copy.deepcopy(whole))
    with torch.set_grad_enabled(training), products_in("bfloat16"):
        for _ in range(2):  # the second time by a plan
            between = fusion.run_for_convolution(first, x)
            assert between.dtype == torch.bfloat16
            results = [second(between), whole(x)]
            assert results[0].dtype == torch.float32
            assert torch.equal(*results)
        if training:
            grad = torch.randn_like(results[0])
            found = torch.autograd.grad(results[0], [*first.parameters(), *second.parameters()], grad)
    if training:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = stock(x)
        others = torch.autograd.grad(rounded, list(stock.parameters()), grad.to(rounded.dtype))
        exact = torch.autograd.grad(stock.double()(x.double()), list(stock.parameters()), grad.double())
        for one, other, right in zip(found, others, exact, strict=True):
            assert (one - right).norm() <= 1.1 * (other - right).norm() + 1e-6 * right.norm()
    else:
        assert kept(second, fusion.PLANS)
    with torch.no_grad():
        assert fusion.run_for_convolution(first, x).dtype == torch.float32


@pytest.mark.skipif(not has_tiles(), reason="the CPU has no matrix unit for bfloat16 (AMX)")
@pytest.mark.parametrize("hooked", ["the sequence before", "its last layer", "the pool", "the convolution"])
def test_hooks_see_float32_between_sequences(hooked, monkeypatch):
    """Oracle: the documented rule; PyTorch's layers for the values."""
    monkeypatch.setenv("VGGNET_CONV", "bfloat16")
    first, second, whole = (layers.eval() for layers in two_sequences())
    layer = {
        "the sequence before": first,
        "its last layer": first[2],
        "the pool": second[0],
        "the convolution": second[1],
    }
    seen, x = [], torch.randn(4, 32, 12, 12)
    layer[hooked].register_forward_hook(lambda module, given, output: seen.extend([given[0].dtype, output.dtype]))
    with torch.no_grad(), products_in("bfloat16"):
        found, expected = second(fusion.run_for_convolution(first, x)), whole(x)
    assert set(seen) == {torch.float32}
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_a_slice_keeps_its_plan(monkeypatch):
    """Oracle: what an equal model gives whose slices are new; one after a change has the new layers."""
    monkeypatch.setenv("VGGNET_CONV", "direct_nchw")
    torch.manual_seed(0)
    layers = accelerate(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))).eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        layers[:2](x)
        assert layers[:2] is layers[0:2] is layers[:2]
        assert kept(layers[:2], fusion.PLANS)
        assert list(layers[1:]) == list(layers)[1:]
        layers[0] = accelerate(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)).eval())[0]
        assert torch.equal(layers[:2](x), copy.deepcopy(layers)[:2](x))
        layers.append(nn.ReLU())
        assert len(layers[1:]) == 3
