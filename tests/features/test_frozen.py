"""What all perceptual distances share: the network sees images as it was trained on them."""

import copy

import pytest
import torch

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.features.frozen import FrozenFeatures


@pytest.fixture(scope="module")
def orders():
    """The same function of an image twice: a network that takes RGB, and one that takes BGR."""
    rgb = vggnet.build("vgg16", num_classes=2, head="gap", width=0.125)
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


@pytest.mark.parametrize("distance", [vggnet.ContentDistance, vggnet.StyleDistance])
def test_distances_in_the_channel_order_of_the_network(orders, distance):
    """Oracle: the same network in the other order."""
    expected, found = (distance(network)(images(0), images(1)) for network in orders)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_a_network_without_preprocessing_takes_imagenets(orders):
    """Oracle: the features of the image normalized by hand."""
    network = copy.deepcopy(orders[0])
    network.preprocess = None
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = vggnet.extract_features(network, ((images(0) + 1) / 2 - mean) / std, ["relu2_1"])["relu2_1"]
    found = FrozenFeatures(network, ["relu2_1"])(images(0))["relu2_1"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
