import numpy as np
import pytest
import torch
from PIL import Image

from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.interpret.receptive_field import receptive_field
from vggnet.interpret.top_activations import find_top_activations


@pytest.fixture
def spots(tmp_path):
    """Dark pictures of 36 pixels with one bright spot each, brighter in every next one: (file, row, column)."""
    placed = []
    for number, (row, column) in enumerate([(4, 9), (20, 30), (0, 0), (35, 17)]):
        pixels = np.zeros((36, 36, 3), dtype=np.uint8)
        pixels[row, column] = 100 + 40 * number
        file = tmp_path / "data" / "test" / ("cat" if number < 2 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        placed.append((file, row, column))
    return tmp_path / "data", placed


@pytest.fixture
def bright(make_network):
    """Channel 0 of the first layer is half the brightness of a pixel; the preprocessing leaves pixels as they are."""
    network = make_network("vgg11")
    network.preprocess = type(network.preprocess)(resize=36, crop=36, mean=(0, 0, 0), std=(1, 1, 1))
    with torch.no_grad():
        network.features.conv1_1.weight[0].zero_()
        network.features.conv1_1.weight[0, :, 1, 1] = 1 / 6
        network.features.conv1_1.bias.zero_()
    return network


def test_the_brightest_spots(bright, spots):
    """Oracle: by hand: the value and the place of each spot; the field is 3 x 3 around it, cut at the border."""
    data, placed = spots
    told = []
    found = find_top_activations(
        bright, data, "relu1_1:0", top=3, batch_size=3, progress=lambda done, total: told.append((done, total))
    )["relu1_1:0"]
    assert [one.image for one in found] == [str(file) for file, _, _ in reversed(placed)][:3]
    assert [one.label for one in found] == ["dog", "dog", "cat"]
    np.testing.assert_allclose([one.activation for one in found], np.array([220, 180, 140]) / 255 / 2, rtol=1e-5)
    assert [one.box for one in found] == [(16, 34, 19, 36), (0, 0, 2, 2), (29, 19, 32, 22)]
    assert found[0].picture[35, 17].tolist() == [220, 220, 220]
    assert told == [(2, 4), (4, 4)]


def test_channels_of_several_layers_in_one_pass(bright, spots):
    """Oracle: each by itself."""
    data, _ = spots
    names = ["relu3_2:5", "relu1_1:0", "pool2:1"]
    together = find_top_activations(bright, data, names, batch_size=2)
    assert list(together) == names
    for name in names:
        (alone,) = find_top_activations(bright, data, name).values()
        assert [one.image for one in together[name]] == [one.image for one in alone]
        assert [one.box for one in together[name]] == [one.box for one in alone]


@pytest.mark.parametrize(("top", "count"), [(2, 2), (9, 4)])
def test_equal_pictures_keep_the_order_of_the_data(bright, spots, top, count):
    """Oracle: a channel that is always 0 chooses the first ones; there are no more than there are pictures."""
    with torch.no_grad():
        bright.features.conv1_1.weight[1].zero_()
    data, placed = spots
    found = find_top_activations(bright, data, "relu1_1:1", top=top)["relu1_1:1"]
    assert [one.image for one in found] == [str(file) for file, _, _ in placed][:count]
    assert {one.activation for one in found} == {0.0}


@pytest.mark.parametrize("layer", ["conv1_1", "relu2_1", "pool2", "relu3_2", "conv4_1"])
def test_the_field_is_what_changes_a_place(make_network, layer):
    """Oracle: where the gradient of a place is not 0, with positive weights and mean pools, which look at all."""
    network = make_network("vgg11").eval()
    for name, module in network.features.named_children():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 0.1)
        if name.startswith("pool"):
            setattr(network.features, name, torch.nn.AvgPool2d(2))
    image = torch.ones(1, 3, 160, 160, requires_grad=True)
    values = image
    for name, module in network.features.named_children():
        values = module(values)
        if name == layer:
            break
    place = values.shape[-1] // 2
    (gradient,) = torch.autograd.grad(values[0, 0, place, place], image)
    changed = gradient[0, 0].any(0).nonzero().flatten()
    field = receptive_field(make_network("vgg11"), layer)
    assert field.start + place * field.step == changed.min()
    assert field.size == len(changed) == changed.max() - changed.min() + 1


def test_data_and_options_that_cannot_work(bright, spots):
    """Oracle: what is wrong stands in the message."""
    data, placed = spots
    with pytest.raises(ConfigError, match="top"):
        find_top_activations(bright, data, "relu1_1:0", top=0)
    with pytest.raises(ConfigError, match="its channels are"):
        find_top_activations(bright, data, "relu1_1:99")
    with pytest.raises(DataError, match="nowhere"):
        find_top_activations(bright, data / "nowhere", "relu1_1:0")
    placed[1][0].write_bytes(b"\x89PNG no more")
    with pytest.raises(ImageError, match=placed[1][0].name):
        find_top_activations(bright, data, "relu1_1:0")
