"""What all perceptual distances share: the network sees images as it was trained on them."""

import copy
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.errors import WeightsError
from vggnet.features import perceptual
from vggnet.features.frozen_network import FrozenFeatures, gram


@pytest.fixture(scope="module")
def orders():
    """The same function of an image twice: a network that takes RGB, and one that takes BGR."""
    rgb = vggnet.create_model("vgg16", num_classes=2, head="gap", width=0.125)
    rgb.preprocess = Preprocess(mean=(0.3, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    bgr = copy.deepcopy(rgb)
    bgr.preprocess = Preprocess(mean=(0.3, 0.5, 0.6), std=(0.2, 0.3, 0.1), bgr=True)
    with torch.no_grad():
        bgr.features.conv1_1.weight.copy_(rgb.features.conv1_1.weight.flip(1))
    return rgb.eval(), bgr.eval()


def images(seed):
    return 2 * torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize("wants_gradient", [False, True])
def test_the_channel_order_of_the_network(orders, wants_gradient):
    """Oracle: the same network in the other order; both layers and gradients of the images."""
    given = images(0).requires_grad_(wants_gradient)
    found = [FrozenFeatures(network, ["relu1_1", "relu4_2"])(given) for network in orders]
    for layer, expected in found[0].items():
        torch.testing.assert_close(found[1][layer], expected, rtol=1e-4, atol=1e-5)
        assert expected.abs().max() > 0
    if wants_gradient:
        first, second = (torch.autograd.grad(each["relu4_2"].sum(), given)[0] for each in found)
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5 * first.abs().max().item())


@pytest.mark.parametrize("distance", [perceptual.ContentDistance, perceptual.StyleDistance])
def test_distances_in_the_channel_order_of_the_network(orders, distance):
    """Oracle: the same network in the other order."""
    expected, found = (distance(network)(images(0), images(1)) for network in orders)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def full_orders():
    """VGG-16 at full width, which LPIPS and DISTS are for."""
    rgb = vggnet.create_model("vgg16", head="none")
    rgb.preprocess = Preprocess.imagenet()
    bgr = copy.deepcopy(rgb)
    bgr.preprocess = replace(rgb.preprocess, bgr=True)
    with torch.no_grad():
        bgr.features.conv1_1.weight.copy_(rgb.features.conv1_1.weight.flip(1))
    return rgb, bgr


@pytest.mark.parametrize(("distance", "package"), [(perceptual.LPIPS, "lpips"), (perceptual.DISTS, "DISTS_pytorch")])
def test_learned_distances_in_the_channel_order_of_the_network(full_orders, distance, package):
    """Oracle: the same network in the other order."""
    if find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")
    expected, found = (distance(network)(images(0), images(1)) for network in full_orders)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_a_model_without_preprocessing_is_refused(orders):
    """Oracle: the sentence of `Preprocess.of`."""
    network = copy.deepcopy(orders[0])
    network.preprocess = None
    with pytest.raises(WeightsError, match="the model has no preprocessing"):
        FrozenFeatures(network, ["relu2_1"])


def test_gram_by_hand():
    """Oracle: by hand: two channels of three places, [1 2 3] and [0 1 -1]."""
    features = torch.tensor([[[[1.0, 2.0, 3.0]], [[0.0, 1.0, -1.0]]]])
    assert gram(features).tolist() == torch.tensor([[[14 / 3, -1 / 3], [-1 / 3, 2 / 3]]]).tolist()
