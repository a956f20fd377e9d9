"""Large images in tiles: the outputs are those of the whole image, and no tile is larger than allowed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vggnet.models import large_images
from vggnet.models.large_images import outputs_of_large
from vggnet.models.vgg import build

SIZE = (395, 1090)  # no multiples of 32
LEAST = 256 + 2 * 288  # pixels a side: the least tile with the widest margin
NETWORKS = {
    "unet": "vgg11", "fcn32": "vgg16", "fcn8": "vgg11_bn", "segnet": "vgg11", "craft": "vgg16_bn", "hed": "vgg16",
}  # fmt: skip


def same(pixels):
    return pixels


def make(head):
    """A narrow network with biases and batch norm that have values of their own."""
    torch.manual_seed(0)
    model = build(NETWORKS[head], num_classes=2, head=head, width=0.05)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif head != "segnet":
            nn.init.uniform_(parameter, 0, 2 / parameter[0].numel())  # what is far away counts as well
    return model.eval()


@pytest.mark.parametrize("head", NETWORKS)
@torch.inference_mode()
def test_tiles_give_the_outputs_of_the_whole_image(head):
    """Oracle: the network on the whole image, padded with zeros as documented."""
    model, sizes = make(head), []
    model.features[0].register_forward_pre_hook(lambda layer, given: sizes.append(given[0][0, 0].numel()))
    image = torch.rand(1, 3, *SIZE)
    found = outputs_of_large(model, image, same, max_pixels=320**2)
    assert len(sizes) > 1
    assert max(sizes) <= LEAST * (SIZE[0] + 31)
    whole = model(F.pad(image, (0, -SIZE[1] % 32, 0, -SIZE[0] % 32)))
    assert found.shape[:2] == whole.shape[:2]
    expected = whole[:, :, : found.shape[2], : found.shape[3]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("head", ["fcn8", "craft"])
@torch.inference_mode()
def test_the_margin_is_needed(head, monkeypatch):
    """Oracle: with half of it the outputs differ."""
    model = make(head)
    image = torch.rand(1, 3, *SIZE)
    whole = model(F.pad(image, (0, -SIZE[1] % 32, 0, -SIZE[0] % 32)))
    monkeypatch.setattr(model.head, "reach", 0)
    monkeypatch.setattr(large_images, "reach", lambda network: 1)
    found = outputs_of_large(model, image, same, max_pixels=320**2)
    assert (found - whole[:, :, : found.shape[2], : found.shape[3]]).abs().max() > 1e-3 * whole.abs().max()
