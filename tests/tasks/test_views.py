"""Views and their mean: six views written out by hand, the grid of crops by its corners."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vggnet
from vggnet.models.vgg import build
from vggnet.tasks.views import SixViews, grid_crops


class Weighted(nn.Module):
    """Logits that are sums over the image with a weight for each pixel, so that every view counts."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weights = torch.randn(3, 2, 5, 4)

    def forward(self, images):
        return torch.einsum("kchw,nchw->nk", self.weights, images)


def test_the_mean_of_six_views_by_hand():
    """Oracle: numpy's reflecting pad, and each of the six views by itself with its weight."""
    network = Weighted()
    images = torch.randn(7, 2, 5, 4)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    views = [(images.numpy(), 1 / 2), (padded[:, :, 0:5, 0:4], 1 / 4), (padded[:, :, 2:7, 2:6], 1 / 4)]
    expected = torch.zeros(7, 3)
    for view, weight in views:
        for mirrored in (view, view[:, :, :, ::-1]):
            expected += weight / 2 * network(torch.from_numpy(mirrored.copy()))
    torch.testing.assert_close(SixViews(network)(images), expected)


def test_a_test_by_six_views_says_so(tmp_path):
    """Oracle: a plain test of `SixViews` itself, whose mean is checked above."""
    torch.manual_seed(0)
    model = build("vgg11_bn", num_classes=10, head="cifar", width=0.1, init="dirac").eval()
    model.preprocess = vggnet.Preprocess(resize=32, crop=32, mean=(0.3, 0.3, 0.3), std=(0.3, 0.3, 0.3))
    result = vggnet.evaluate(model, data="digits", split="test", views=6)
    assert result.views == 6
    wrapped = SixViews(model)
    wrapped.preprocess = model.preprocess
    expected = vggnet.evaluate(wrapped, data="digits", split="test")
    assert expected.views == 1
    assert (result.loss, result.confusion) == (expected.loss, expected.confusion)
    assert result.loss != vggnet.evaluate(model, data="digits", split="test").loss


@given(st.integers(1, 9), st.integers(0, 20), st.integers(0, 20))
@settings(deadline=None)
def test_the_grid_reaches_the_corners_evenly(crop, more_rows, more_columns):
    """Oracle: numpy.linspace for where a crop may begin; each pixel holds its place, so a crop tells where it is."""
    height, width = crop + more_rows, crop + more_columns
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))[None]
    crops = grid_crops(places, crop)
    assert crops.shape == (25, 1, 2, crop, crop)
    corners = crops[:, 0, :, 0, 0].numpy().reshape(5, 5, 2)
    tops, lefts = np.linspace(0, more_rows, 5), np.linspace(0, more_columns, 5)
    assert np.abs(corners[:, :, 0] - tops[:, None]).max() <= 0.5
    assert np.abs(corners[:, :, 1] - lefts).max() <= 0.5
    assert (crops[-1, 0, :, -1, -1] == torch.tensor([height - 1, width - 1])).all()
    assert (crops[:, 0, 0].diff(dim=1) == 1).all()
    assert (crops[:, 0, 1].diff(dim=2) == 1).all()
