"""Layers and channels by name: the outputs of hooks, the weights of the first layer, one line for what is missing."""

import numpy as np
import pytest
import torch

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError
from vggnet.interpret.layers import feature_maps, first_filters, num_channels, outputs, read_channel, read_channels
from vggnet.models.vgg import build


def test_outputs_are_the_layers(network, image):
    """Oracle: hooks on the layers of the whole network, while it learns and while it answers."""
    kept = {}
    for name, module in network.features.named_children():
        module.register_forward_hook(lambda module, given, output, name=name: kept.update({name: output}))
    network.eval()
    network(image)
    expected = dict(kept)
    found = outputs(network, image, ["pool5", "relu2_1", "conv1_1", "relu2_1"])
    assert list(found) == ["conv1_1", "relu2_1", "pool5"]
    for name, values in found.items():
        assert torch.equal(values, expected[name])


@pytest.mark.parametrize("layer", ["conv3_2", "relu4_1", "pool5"])
def test_feature_maps_are_the_layers(network, photo, image, layer):
    """Oracle: a hook on the layer."""
    kept = []
    network.eval()
    handle = getattr(network.features, layer).register_forward_hook(lambda module, given, output: kept.append(output))
    network(image)
    handle.remove()
    found = feature_maps(network, photo, layer)
    torch.testing.assert_close(torch.from_numpy(found.maps), kept[0][0].detach())
    strongest = found.strongest(5)
    peaks = found.maps.__abs__().max((1, 2))
    assert strongest == sorted(strongest)
    assert set(strongest) == set(sorted(range(len(peaks)), key=lambda channel: -peaks[channel])[:5])


def test_filters_are_the_first_weights(network):
    """Oracle: the weights; in RGB also of a network that takes BGR."""
    expected = network.features.conv1_1.weight.detach().numpy()
    assert np.array_equal(first_filters(network), expected)
    network.preprocess = Preprocess(bgr=True)
    assert np.array_equal(first_filters(network), expected[:, ::-1])


def test_channels_by_name():
    """Oracle: Table 1: VGG-16 has 256 channels in block 3, 512 in block 5."""
    network = build("vgg16", head="none", init=None)
    assert (num_channels(network, "pool3"), num_channels(network, "relu5_3")) == (256, 512)
    assert read_channel(network, "relu4_3:511") == ("relu4_3", 511)
    assert list(map(str, read_channels(network, ["conv1_1:0", "pool5:17", "conv1_1:0"]))) == ["conv1_1:0", "pool5:17"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("relu4_3", ["relu4_3", "relu4_3:17"]),
        ("relu4_3:512", ["512", "0 to 511"]),
        ("relu4_3:-1", ["-1", "0 to 511"]),
        ("relu4_3:x", ["'x'", "0 to 511"]),
        ("relu4_9:1", ["relu4_9", "relu4_3"]),
        ("fc6:1", ["fc6", "pool5"]),
    ],
)
def test_channels_that_there_are_not(text, named):
    """Oracle: what was found, and what there is."""
    network = build("vgg16", head="none", init=None)
    with pytest.raises(ConfigError) as raised:
        read_channel(network, text)
    for word in named:
        assert word in str(raised.value)
    with pytest.raises(ConfigError, match="no channel was given"):
        read_channels(network, [])
