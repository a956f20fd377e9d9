"""Networks in every window of whole images, against the network on each window by itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, NonFiniteError
from vggnet.models.vgg import build
from vggnet.tasks.windows import require_one_kind, windows_of
from vggnet.weights.checkpoint import OpenModel

CROP = 64  # pixels: windows of 2x2 cells


def opened(boxes=None, head="gap"):
    torch.manual_seed(0)
    model = build("vgg11_bn", num_classes=3, head=head, width=0.1, boxes=boxes).eval()
    model.preprocess = Preprocess(resize=CROP, crop=CROP, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    return OpenModel(model, torch.device("cpu"))


def photos(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


def one_by_one(model, pixels):
    """The head on each window of 2x2 cells of the last map: {(row, column): (n, outputs)}."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.preprocess.mean, model.preprocess.std))
    with torch.no_grad():
        cells = model.features((pixels / 255 - mean) / std)
        rows, columns = cells.shape[2] - 1, cells.shape[3] - 1
        return {
            (row, column): model.head(cells[:, :, row : row + 2, column : column + 2]).double().numpy()
            for row in range(rows)
            for column in range(columns)
        }


@pytest.mark.parametrize("head", ["gap", "paper"])
def test_outputs(head):
    """Oracle: the head on each window by itself; tiles of the image change nothing."""
    ready, pixels = opened(head=head), photos(130, 200)  # 4 x 6 cells
    expected = one_by_one(ready.network, pixels)
    windows = windows_of(ready)
    assert (windows.side, windows.ready) == (2, ready)
    for max_pixels in (10**9, 1000):
        found = windows.outputs(pixels, max_pixels)
        assert found.shape == (2, 3, 3, 5)
        assert not found.requires_grad
        for (row, column), outputs in expected.items():
            np.testing.assert_allclose(found[:, :, row, column], outputs, rtol=1e-3, atol=1e-5)


def test_the_pixels_that_are_worked_on_at_once(monkeypatch):
    """Oracle: what the first layer is given: the whole image, or tiles."""
    ready, sizes = opened(), []
    ready.network.features[0].register_forward_pre_hook(lambda layer, given: sizes.append(given[0].shape[2:].numel()))
    windows_of(ready).outputs(photos(300, 400), 10**9)
    assert sizes == [300 * 400]
    sizes.clear()
    windows_of(ready).outputs(photos(1000, 400), 1000)
    assert len(sizes) > 1


@pytest.mark.parametrize(("boxes", "count"), [("shared", 1), ("per_class", 3)])
@pytest.mark.parametrize("max_pixels", [10**9, 1000])
def test_boxes_lie_where_their_windows_do(boxes, count, max_pixels):
    """Oracle: plain Python: centers and sizes in units of the crop, 32 pixels from window to window."""
    ready, pixels = opened(boxes), photos(130, 200)
    with torch.no_grad():
        ready.network.head.fc.bias.copy_(
            torch.tensor([0.5, 0.4, 0.6, 0.7]).repeat(count) + 0.01 * torch.arange(4 * count)
        )
    found = windows_of(ready).boxes(pixels, max_pixels)
    assert found.shape == (2, count, 3, 5, 4)
    assert found.dtype == np.float64
    for (row, column), outputs in one_by_one(ready.network, pixels).items():
        for image in range(2):
            for each in range(count):
                x, y, width, height = outputs[image, 4 * each : 4 * each + 4] * CROP
                left, top = 32 * column + x - width / 2, 32 * row + y - height / 2
                expected = [left, top, left + width, top + height]
                np.testing.assert_allclose(found[image, each, row, column], expected, rtol=1e-3, atol=1e-2)


def test_layers_are_in_eval_mode_and_then_as_before():
    """Oracle: the modes before; batch norm in training would give other outputs and change its statistics."""
    ready, pixels = opened(), photos(64, 96)
    expected = windows_of(ready).outputs(pixels, 10**9)
    ready.network.train()
    assert torch.equal(windows_of(ready).outputs(pixels, 10**9), expected)
    assert ready.network.training


def test_images_go_to_the_device_of_the_network():
    """Oracle: the device "meta", which refuses tensors of the CPU, and can give nothing back."""
    ready = opened()
    with pytest.raises(NotImplementedError, match="meta"):
        windows_of(OpenModel(ready.network.to("meta"), torch.device("meta"))).outputs(photos(64, 64), 10**9)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite(value):
    """Oracle: the contract."""
    ready = opened("shared")
    with torch.no_grad():
        ready.network.head.fc.bias[0] = value
    for look in (windows_of(ready).outputs, windows_of(ready).boxes):
        with pytest.raises(NonFiniteError, match="2 of 2 images"):
            look(photos(64, 96), 10**9)


def test_networks_that_are_no_vgg():
    """Oracle: the contract: the message names the kind."""
    linear = nn.Linear(1, 1)
    linear.preprocess = Preprocess()
    with pytest.raises(ConfigError, match="for a VGG, not for a Linear"):
        windows_of(OpenModel(linear, torch.device("cpu")))


def test_networks_must_see_the_same_pixels():
    """Oracle: by hand: sizes and colors, smallest first; statistics may differ."""

    def of(**options):
        return SimpleNamespace(preprocess=Preprocess(**options))

    gray = {"mean": (0.5,), "std": (0.2,)}
    require_one_kind([of(crop=64), of(crop=64, resize=300, mean=(0.1, 0.2, 0.3)), of(crop=64)])
    require_one_kind([of()])
    with pytest.raises(
        ConfigError, match=r"sizes or colors: 64 pixels in RGB and 96 pixels in RGB\. Train both at one"
    ):
        require_one_kind([of(crop=96), of(crop=64), of(crop=96)])
    with pytest.raises(ConfigError, match="224 pixels in L and 224 pixels in RGB"):
        require_one_kind([of(), of(**gray)])
