import numpy as np
import pytest

from vggnet.data.preprocess import Preprocess
from vggnet.interpret import filters
from vggnet.interpret.filters import draw_filters, first_filters


@pytest.fixture
def drawn(monkeypatch):
    caught = []
    monkeypatch.setattr(filters, "draw_tiles", lambda tiles, names, path, title: caught.append((tiles, names)))
    return caught


def test_filters_are_the_first_weights(network):
    """Oracle: the weights; in RGB also of a network that is given blue first."""
    expected = network.features.conv1_1.weight.detach().numpy()
    assert np.array_equal(first_filters(network), expected)
    network.preprocess = Preprocess(bgr=True)
    assert np.array_equal(first_filters(network), expected[:, ::-1])


def test_tiles_in_color(drawn, tmp_path):
    """Oracle: by hand: 0 is mid-gray, the largest weight of all is 1, and its negative 0."""
    weights = np.zeros((2, 3, 3, 3), dtype=np.float32)
    weights[1, 2, 0, 1] = -2
    weights[0, 0, 2, 2] = 1
    draw_filters(weights, tmp_path / "filters.png")
    ((tiles, names),) = drawn
    assert names == ["0", "1"]
    assert tiles.shape == (2, 3, 3, 3)
    assert tiles[1, 0, 1].tolist() == [0.5, 0.5, 0]
    assert tiles[0, 2, 2].tolist() == [0.75, 0.5, 0.5]


@pytest.mark.parametrize(("channels", "names"), [(1, ["0", "1"]), (2, ["0, input 0", "0, input 1", "1, input 0"])])
def test_tiles_in_gray(drawn, tmp_path, channels, names):
    """Oracle: one tile for each input channel."""
    draw_filters(np.ones((2, channels, 3, 3), dtype=np.float32), tmp_path / "filters.png")
    ((tiles, found),) = drawn
    assert tiles.shape == (2 * channels, 3, 3)
    assert found[: len(names)] == names
    assert (tiles == 1).all()
