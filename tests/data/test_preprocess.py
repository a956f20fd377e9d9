"""Normalizing: the same numbers in every layout of memory."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from vggnet.data.preprocess import Preprocess

RGB = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
GRAY = {"mean": (0.3,), "std": (0.7,)}


@pytest.mark.parametrize("statistics", [RGB, GRAY, {**RGB, "bgr": True}])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_normalize(statistics, kind):
    """Oracle: torchvision's normalize, of planar, channels-last and single images; what is given is left alone."""
    channels = len(statistics["mean"])
    pixels = torch.randint(0, 256, (3, channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = pixels if kind == torch.uint8 else pixels / 255
    expected = tv.normalize(pixels / 255, statistics["mean"], statistics["std"])
    expected = expected.flip(1) if "bgr" in statistics else expected
    normalize = Preprocess(**statistics).normalize
    channels_last = given.contiguous(memory_format=torch.channels_last)
    before = given.clone()
    for found in (normalize(given), normalize(channels_last), torch.stack([normalize(one) for one in channels_last])):
        assert torch.equal(found, expected)
    assert torch.equal(given, before)
    assert torch.equal(channels_last, before)
