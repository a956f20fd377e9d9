import numpy as np
import pytest
import torch

from vggnet.errors import ConfigError, NonFiniteError
from vggnet.interpret.feature_visualization import visualize_channels


def test_a_channel_that_wants_red_and_no_blue(make_network):
    """Oracle: by hand: a filter of one pixel, +1 for red and -1 for blue, without a wish for green."""
    network = make_network("vgg11")
    with torch.no_grad():
        network.features.conv1_1.weight[2].zero_()
        network.features.conv1_1.weight[2, 0, 1, 1] = 1
        network.features.conv1_1.weight[2, 2, 1, 1] = -1
    (found,) = visualize_channels(network, "relu1_1:2", steps=80)
    red, green, blue = np.median(found.picture, axis=(0, 1)) / 255
    assert found.picture.shape == (36, 36, 3)
    assert red > 0.7
    assert blue < 0.3
    assert 0.4 < green < 0.6
    assert found.after > found.before + 0.5


@pytest.mark.parametrize("layer", ["relu4_2", "conv3_1", "pool5"])
def test_the_activation_rises(make_network, layer):
    """Oracle: the mean of the channel for the picture that is returned, and for noise of the same pixels."""
    network = make_network(head="none")
    (found,) = visualize_channels(network, f"{layer}:3", size=64, steps=30)
    network.eval()
    shuffled = np.random.default_rng(0).permutation(found.picture.reshape(-1, 3)).reshape(found.picture.shape)
    means = []
    with torch.no_grad():
        for picture in (found.picture, shuffled):
            values = network.preprocess.normalize(torch.from_numpy(picture.copy()).movedim(2, 0)).unsqueeze(0)
            for name, module in network.features.named_children():
                values = module(values)
                if name == layer:
                    break
            means.append(values[0, 3].mean().item())
    assert found.after == pytest.approx(means[0], rel=0.05)  # its pixels are rounded
    assert found.after > found.before
    assert means[0] > means[1]


def test_the_seed_alone_decides(network):
    """Oracle: the same again; other channels besides change nothing but the last bits; another seed another picture."""
    first, again = (visualize_channels(network, "relu3_2:1", steps=5)[0].picture for _ in range(2))
    assert np.array_equal(first, again)
    among = visualize_channels(network, ["relu2_1:0", "relu3_2:4", "relu3_2:1"], steps=5)
    assert [one.channel for one in among] == ["relu2_1:0", "relu3_2:4", "relu3_2:1"]
    assert np.abs(among[2].picture.astype(int) - first).max() <= 2
    assert not np.array_equal(visualize_channels(network, "relu3_2:1", steps=5, seed=1)[0].picture, first)


@pytest.mark.parametrize(("weight", "low", "high"), [(1, 0.7, 1), (-1, 0, 0.3)])
def test_gray_networks_give_gray_pictures(make_network, weight, low, high):
    """Oracle: by hand: a filter of one pixel that wants it bright, or dark."""
    network = make_network("vgg11", in_channels=1)
    with torch.no_grad():
        network.features.conv1_1.weight[2].zero_()
        network.features.conv1_1.weight[2, 0, 1, 1] = weight
    (found,) = visualize_channels(network, "conv1_1:2", steps=80, size=40)
    assert found.picture.shape == (40, 40)
    assert low <= np.median(found.picture) / 255 <= high
    mean, std = 0.4, 0.2  # the network's preprocessing; a bias is zero
    assert found.after == pytest.approx(weight * (found.picture.mean() / 255 - mean) / std, abs=0.05)


def test_progress_counts_over_all_layers(network):
    """Oracle: by hand."""
    told = []
    visualize_channels(
        network, ["relu1_1:0", "relu2_1:0", "relu1_1:1"], steps=2, progress=lambda *step: told.append(step)
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"steps": 0}, "steps"), ({"seed": -1}, "seed"), ({"size": 7}, "at least 8"), ({"channels": "relu4_1"}, "17")],
)
def test_options_that_cannot_work(network, options, named):
    """Oracle: what is wrong stands in the message. relu4_1 has three pools before it."""
    with pytest.raises(ConfigError, match=named):
        visualize_channels(network, **{"channels": "relu4_1:0", **options})


def test_weights_that_are_not_finite(network):
    """Oracle: an error instead of a picture of nothing."""
    with torch.no_grad():
        network.features.conv1_1.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="relu1_1"):
        visualize_channels(network, "relu1_1:0", steps=2)
