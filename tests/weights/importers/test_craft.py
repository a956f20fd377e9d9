"""CRAFT: the imported network against the authors' layers, and against EasyOCR where it is installed."""

import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import vggnet
from vggnet.errors import WeightsError
from vggnet.weights.conversion import convert

IMAGES = torch.rand(1, 3, 75, 90, generator=torch.Generator().manual_seed(1))


class Slices(nn.Module):
    """The authors' network: torchvision's VGG-16 with batch norm, cut in their places; its ReLUs work in place."""

    def __init__(self):
        super().__init__()
        layers = torchvision.models.vgg16_bn(weights=None, init_weights=False).features
        self.basenet = nn.Module()
        for place, (first, end) in enumerate([(0, 12), (12, 19), (19, 29), (29, 39)], start=1):
            part = nn.Sequential()
            for number in range(first, end):
                part.add_module(str(number), layers[number])
            self.basenet.add_module(f"slice{place}", part)
        dilated = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        self.basenet.slice5 = nn.Sequential(nn.MaxPool2d(3, 1, 1), dilated, nn.Conv2d(1024, 1024, 1))
        sizes = [(1536, 512, 256), (768, 256, 128), (384, 128, 64), (192, 64, 32)]
        for place, (given, middle, after) in enumerate(sizes, start=1):
            block = nn.Module()
            block.conv = nn.Sequential(
                *(nn.Conv2d(given, middle, 1), nn.BatchNorm2d(middle), nn.ReLU()),
                *(nn.Conv2d(middle, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()),
            )
            self.add_module(f"upconv{place}", block)
        layers = [nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)]
        layers += [nn.Conv2d(16, 16, 1), nn.Conv2d(16, 2, 1)]
        self.conv_cls = nn.Sequential(*[one for layer in layers for one in (layer, nn.ReLU())][:-1])

    def forward(self, x):
        maps = []
        for place in range(1, 5):
            x = self.basenet.get_submodule(f"slice{place}")(x)
            maps.append(x)
        x = torch.cat([self.basenet.slice5(x), x], 1)
        for place, skip in enumerate(reversed(maps[:-1]), start=1):
            x = F.interpolate(self.get_submodule(f"upconv{place}").conv(x), skip.shape[2:], mode="bilinear")
            x = torch.cat([x, skip], 1)
        return self.conv_cls(self.upconv4.conv(x))


@pytest.fixture(scope="module")
def theirs():
    """With statistics of batch norm that keep the values of all layers near 1."""
    torch.manual_seed(0)
    network = Slices()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    """The network that was imported from their file."""
    folder = tmp_path_factory.mktemp("craft")
    torch.save({f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}, folder / "theirs.pth")
    convert(folder / "theirs.pth", folder / "ours.safetensors")
    return vggnet.load(folder / "ours.safetensors")


def assert_equal_maps(found, expected):
    """Within 1e-4 of the largest value."""
    assert found.shape == expected.shape == (1, 2, 37, 45)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.inference_mode()
def test_the_maps_are_those_of_the_authors_layers(theirs, ours):
    """Oracle: torchvision's layers, and PyTorch's for the rest; sides are no multiples of 32."""
    assert (ours.architecture.name, ours.task, ours.classes) == ("vgg16_bn", "maps", ("text", "link"))
    assert ours.preprocess == vggnet.Preprocess.imagenet()
    assert_equal_maps(ours(IMAGES), theirs(IMAGES.clone()))
    assert_equal_maps(vggnet.accelerate(ours)(IMAGES), theirs(IMAGES.clone()))


@torch.inference_mode()
def test_the_maps_are_those_of_easyocr(theirs, ours, monkeypatch):
    """Oracle: EasyOCR's own network, whose module is loaded without the rest of the package."""
    spec = find_spec("easyocr")
    if spec is None:
        pytest.skip("needs easyocr (pip install --no-deps easyocr)")
    package = ModuleType("easyocr")
    package.__path__ = spec.submodule_search_locations
    monkeypatch.setitem(sys.modules, "easyocr", package)
    from easyocr.craft import CRAFT  # type: ignore[import-not-found]

    network = CRAFT().eval()
    network.load_state_dict(theirs.state_dict())
    assert_equal_maps(ours(IMAGES), network(IMAGES.clone())[0].permute(0, 3, 1, 2))


def test_another_network_is_refused(theirs, tmp_path):
    """Oracle: one line that names the layer that does not fit."""
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name != "conv_cls.8.bias"}
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=r"do not fit CRAFT: conv_cls\.8\.bias is missing"):
        convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
