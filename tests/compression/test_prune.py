"""Pruning: channels removed are channels masked; what is chosen, and how far it goes."""

import numpy as np
import pytest
import torch

from vggnet.compression.prune import Limit, macs_limit, prune, remove_channels
from vggnet.compression.scores import chip_scores, taylor_scores, weight_scores
from vggnet.errors import ConfigError
from vggnet.interpret.costs import count_macs
from vggnet.models.vgg import build, empty
from vggnet.tasks import get_task


def network(name="vgg11_bn", head="gap", width=0.5, dtype=torch.float64, **options):
    """A network with random batch norm and biases."""
    torch.manual_seed(0)
    model = build(name, num_classes=5, head=head, width=width, **options).to(dtype).eval()
    for key, tensor in model.state_dict().items():
        if ".bn" in key and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if key.endswith("running_var") else tensor.uniform_(-0.6, 0.9)
        elif key.endswith("bias"):
            tensor.uniform_(-0.3, 0.3)
    return model


def pruned(model, share, criterion="l2", **options):
    limit = macs_limit(model, share, 32)
    return prune(model, [limit], scores=weight_scores(model, criterion), **{"multiple": 8} | options)


def convolutions(model):
    return {name: layer for name, layer in model.features.named_children() if isinstance(layer, torch.nn.Conv2d)}


@pytest.mark.parametrize(
    ("name", "head", "size", "ranks"),
    [
        ("vgg11_bn", "gap", 45, None), ("vgg16_bn", "paper", 64, None), ("vgg11", "paper", 32, (3, 0, 2)),
        ("vgg11", "folded", 32, None), ("vgg11_bn", "grid", 130, None), ("vgg8_bn", "cifar", 32, None),
        ("vgg11", "dense", 230, None), ("vgg16_1x1", "gap", 32, None), ("vgg13_5x5", "gap", 32, None),
        ("vgg11_bn", "none", 32, None),
    ],
)  # fmt: skip
def test_removed_channels_are_masked_channels(name, head, size, ranks, monkeypatch):
    """Oracle: the whole network in float64 with the channels set to zero after each ReLU, by hooks."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 8)
    model = network(name, head, width=0.1, ranks=ranks)
    generator = torch.Generator().manual_seed(1)
    kept = []
    for layer in convolutions(model).values():
        count = layer.out_channels
        chosen = torch.randperm(count, generator=generator)[: 1 + count // 2].sort().values
        kept.append(
            chosen if head != "none" or layer is not list(convolutions(model).values())[-1] else torch.arange(count)
        )
    small = remove_channels(model, kept)
    for place, channels in zip(convolutions(model), kept, strict=True):
        mask = torch.zeros(convolutions(model)[place].out_channels, dtype=torch.float64)
        mask[channels] = 1
        relu = model.features.get_submodule(place.replace("conv", "relu"))
        relu.register_forward_hook(lambda _, __, y, mask=mask: y * mask[:, None, None])
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
        difference = (small(images) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-12
    assert small.architecture.channels == tuple(len(channels) for channels in kept)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn"])
def test_scores_by_hand(criterion):
    """Oracle: plain loops over filters and channels, divided by the mean of the layer."""
    model = network(width=0.1)
    for (place, layer), found in zip(convolutions(model).items(), weight_scores(model, criterion), strict=True):
        norm = model.features.get_submodule(place.replace("conv", "bn"))
        expected = []
        for channel in range(layer.out_channels):
            values = layer.weight[channel].flatten().tolist()
            expected.append({
                "l1": sum(map(abs, values)), "l2": sum(value**2 for value in values) ** 0.5,
                "bn": abs(norm.weight[channel].item()),
            }[criterion])  # fmt: skip
        mean = sum(expected) / len(expected)
        assert found.tolist() == pytest.approx([value / mean for value in expected])


@pytest.mark.parametrize("target", [0.6, 0.2])
def test_the_target_is_reached_and_not_by_much(target):
    """Oracle: the multiply-adds, counted; multiples of 8; a looser target keeps at least as many of each layer."""
    model = network(dtype=torch.float32)
    small = pruned(model, target, "bn")
    share = count_macs(empty(small.architecture), 32) / count_macs(empty(model.architecture), 32)
    assert target - 0.08 < share <= target
    channels = small.architecture.channels
    given = [layer.out_channels for layer in convolutions(model).values()]
    assert all(kept % 8 == 0 and kept >= 0.1 * count for kept, count in zip(channels, given, strict=True))
    whole = pruned(model, 0.6, "bn", multiple=32).architecture.channels
    assert all(kept % 32 == 0 for kept in whole)
    looser = pruned(model, target + 0.1, "bn").architecture.channels
    assert all(more >= kept for more, kept in zip(looser, channels, strict=True))


def test_the_lowest_scores_of_the_whole_network_go_first():
    """Oracle: batch norm whose scale is tiny in half of two layers: just these channels are removed."""
    model = network(width=0.5)
    chosen = {"bn3_2": torch.arange(0, 128, 2), "bn4_1": torch.arange(64, 192)}
    for name, layer in model.features.named_children():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.fill_(1.0)
            if name in chosen:
                layer.weight.data[chosen[name]] = 1e-3
    whole = count_macs(empty(model.architecture), 32)
    kept = [torch.arange(layer.out_channels) for layer in convolutions(model).values()]
    kept[3], kept[4] = torch.arange(1, 128, 2), torch.cat([torch.arange(64), torch.arange(192, 256)])
    expected = remove_channels(model, kept)
    target = count_macs(empty(expected.architecture), 32) / whole
    small = pruned(model, target + 1e-6, "bn")
    assert small.architecture == expected.architecture
    assert all(torch.equal(small.state_dict()[key], tensor) for key, tensor in expected.state_dict().items())


def test_a_floor_holds_and_an_impossible_target_says_how_near():
    """Oracle: by hand: half of 32, 64, 128, 128, 256, ... channels."""
    model = network(width=0.5, dtype=torch.float32)
    with pytest.raises(
        ConfigError, match=r"a share of 0.100 .* may remain, but with a floor of 0.5 a share of"
    ) as error:
        pruned(model, 0.1, floor=0.5)
    nearest = float(str(error.value).split("share of ")[2].split()[0])
    small = pruned(model, nearest + 0.001, floor=0.5)
    assert small.architecture.channels == (16, 32, 64, 64, 128, 128, 128, 128)


@pytest.mark.parametrize(("macs", "parameters"), [(0.5, 0.15), (0.25, 0.4)])
def test_two_targets_are_both_reached_and_not_by_much(macs, parameters):
    """Oracle: multiply-adds and parameters, counted. One target alone leaves nearly equal shares of both."""
    model = network("vgg11_bn", dtype=torch.float32)
    scores = [torch.rand(layer.out_channels) for layer in convolutions(model).values()]
    whole = (count_macs(empty(model.architecture), 32), sum(p.numel() for p in model.parameters()))
    weights = Limit(parameters * whole[1], lambda made: sum(p.numel() for p in empty(made).parameters()), str)
    small = prune(model, [macs_limit(model, macs, 32), weights], scores=scores, multiple=8, floor=0)
    left = (count_macs(empty(small.architecture), 32), sum(p.numel() for p in small.parameters()))
    shares = [number / given for number, given in zip(left, whole, strict=True)]
    assert 0.8 * macs < shares[0] <= macs
    assert 0.8 * parameters < shares[1] <= parameters
    with pytest.raises(ConfigError, match=r"7 may remain, but with a floor of 0 .* does at least"):
        prune(model, [macs_limit(model, macs, 32), weights._replace(most=7)], multiple=8, floor=0)


def test_layers_of_few_channels_stay():
    """Oracle: by hand: of 3 and 6 channels none is removed, nor what LRN reads, nor the outputs without a head."""
    model = network("vgg11_lrn", width=0.5, dtype=torch.float32)
    small = pruned(model, 0.3, floor=0)
    assert small.architecture.channels[0] == 32
    assert small.architecture.channels[1] < 64
    small = pruned(network(head="none", dtype=torch.float32), 0.3, floor=0)
    assert small.architecture.channels[-2] < small.architecture.channels[-1] == 256  # the outputs
    with pytest.raises(ConfigError, match="share of"):
        pruned(network(width=0.05, dtype=torch.float32), 0.05, floor=0)


def test_taylor_scores_by_hand():
    """Oracle: the loss with each channel's scale and shift moved a little, in float64, squared and averaged."""
    model = network(width=0.1)
    batches = [(torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 4, 2])) for _ in range(2)]
    found = taylor_scores(model, batches, get_task("classify"))
    norms = [layer for layer in model.features if isinstance(layer, torch.nn.BatchNorm2d)]
    for place, channel in ((0, 3), (4, 10), (7, 0)):
        norm, expected = norms[place], 0.0
        for images, labels in batches:
            losses = []
            for factor in (1 + 1e-6, 1 - 1e-6):
                with torch.no_grad():
                    values = norm.weight[channel].item(), norm.bias[channel].item()
                    norm.weight[channel], norm.bias[channel] = values[0] * factor, values[1] * factor
                    losses.append(torch.nn.functional.cross_entropy(model(images), labels).item())
                    norm.weight[channel], norm.bias[channel] = values
            expected += ((losses[0] - losses[1]) / 2e-6) ** 2 / len(batches)
        assert found[place][channel].item() == pytest.approx(expected, rel=1e-3, abs=1e-14)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("size", [32, 64])
def test_chip_scores_by_hand(size):
    """Oracle: NumPy's nuclear norm of the maps with and without each channel."""
    model = network(width=0.1, dtype=torch.float32)
    images = torch.randn(2, 3, size, size)
    maps = []
    for layer in model.features:
        if isinstance(layer, torch.nn.ReLU):
            layer.register_forward_hook(lambda _, __, y: maps.append(y.detach().double().flatten(2).numpy()))
    model(images)
    for found, of_layer in zip(chip_scores(model, images), maps[: len(convolutions(model))], strict=True):
        expected = []
        for channel in range(of_layer.shape[1]):
            others = np.delete(of_layer, channel, axis=1)
            norms = [np.linalg.norm(maps, "nuc", axis=(1, 2)) for maps in (of_layer, others)]
            expected.append((norms[0] - norms[1]).sum())
        assert found.numpy() == pytest.approx(np.array(expected) / np.mean(expected), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("share", "criterion", "options", "message"),
    [
        (0, "l2", {}, "in \\(0, 1\\)"),
        (1.0, "l2", {}, "in \\(0, 1\\)"),
        (0.5, "l2", {"floor": 1.5}, "floor is 1.5"),
        (0.5, "taylor", {}, "unknown criterion 'taylor'"),
        (0.5, "bn", {}, "needs batch norm"),
    ],
)
def test_mistakes(share, criterion, options, message):
    """Oracle: the documented rules, on a network without batch norm."""
    with pytest.raises(ConfigError, match=message):
        pruned(network("vgg11", width=0.1), share, criterion, **options)
