"""What networks cost, counted on the meta device."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model_weights

from vggnet.benchmarking.comparison import OTHERS, PUBLISHED
from vggnet.benchmarking.timing import build_network
from vggnet.interpret.costs import count_costs, count_macs, layer_macs


def costs_of(name, size=224):
    with torch.device("meta"):
        return count_costs(build_network(name, 1000, 1.0, "paper"), size)


@pytest.mark.parametrize("name", ["vgg11_bn", "vgg16", *OTHERS])
def test_parameters_and_macs_are_those_that_torchvision_states(name):
    """Oracle: what torchvision states of its weights: parameters, thousands of millions of MACs, MiB of the file."""
    stated = get_model_weights(name)[PUBLISHED].meta
    found = costs_of(name)
    assert found.parameters == stated["num_params"]
    assert round(found.macs / 1e9, 3) == stated["_ops"]
    if name != "googlenet":  # whose file has two more classifiers
        assert found.file_bytes / 2**20 == pytest.approx(stated["_file_size"], rel=0.02)  # with a little of its format


def test_vgg16_is_mostly_fully_connected():
    """Oracle: by hand: 25,088 x 4,096, 4,096 x 4,096 and 4,096 x 1,000 weights, and their biases."""
    by_hand = (25088 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert costs_of("vgg16").fully_connected == by_hand == 123_642_856


def test_costs_by_hand():
    """Oracle: by hand, for 8x8 pixels. The last layer of all keeps its input, and no layer its parameters."""
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(64, 5),
        )  # fmt: skip
    found = count_costs(network, 8)
    assert found.parameters == (27 + 1) * 4 + 8 + (64 + 1) * 5
    assert found.fully_connected == (64 + 1) * 5
    assert found.macs == 27 * 4 * 64 + 64 * 5
    assert found.file_bytes == 4 * (found.parameters + 8) + 8  # running statistics, and the count of batches
    image, map_, pooled = 3 * 64 * 4, 4 * 64 * 4, 4 * 16 * 4
    # The convolution keeps the image, the norm its input, ReLU its output (the pool the same), the pool where each
    # largest value was (int64), the linear layer its input.
    assert found.activation_bytes == image + map_ + map_ + 2 * pooled + pooled


@pytest.mark.parametrize("name", ["A", "vgg16_1x1", "vgg13_5x5", "mobilenet_v2", "googlenet"])
def test_multiply_adds_are_those_of_pytorch_s_counter(name):
    """Oracle: PyTorch's FlopCounterMode, which counts two operations for each; strides, groups and 1x1 among them."""
    with torch.device("meta"):
        network = build_network(name, 7, 0.5, "gap").eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 96, 96, device="meta"))
    assert 2 * count_macs(network, 96) == counter.get_total_flops() > 0


def test_gray_images_and_hooks():
    """Oracle: by hand: nine multiply-adds for each of 8x8 outputs and each channel; no hook is left behind."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    assert count_macs(network, 8, in_channels=1) == 9 * 64 * 4
    with pytest.raises(RuntimeError):
        count_macs(network, 8)
    assert not any(layer._forward_hooks for layer in network)
    assert layer_macs(network[1], (4, 8, 8)) == 0
