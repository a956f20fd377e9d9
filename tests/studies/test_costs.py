"""What networks cost, counted on the meta device."""

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights

from vggnet.studies.bench import build_network
from vggnet.studies.compare import OTHERS, PUBLISHED, published_accuracy
from vggnet.studies.costs import count_costs


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


def test_published_accuracy():
    """Oracle: the paper's design notes, typed; what torchvision has no weights of has none."""
    assert published_accuracy("vgg16") == {PUBLISHED: pytest.approx(71.59, abs=0.005)}  # its features alone have none
    assert published_accuracy("vgg19_bn")[PUBLISHED] == pytest.approx(74.22, abs=0.005)
    assert published_accuracy("resnet50") == {PUBLISHED: pytest.approx(76.13), "IMAGENET1K_V2": pytest.approx(80.858)}
    assert published_accuracy("vgg11_lrn") == {}
