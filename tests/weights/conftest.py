"""Networks of a few channels, in every library's own building blocks: files of kilobytes instead of half a gigabyte."""

import pytest
import torch
from torch import nn
from torchvision.models import vgg as torchvision_vgg

WIDTHS, FC_WIDTH, NUM_CLASSES = (2, 3, 4, 5, 5), 8, 10

_LETTER = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}  # torchvision's
_CHANNELS = {64: 2, 128: 3, 256: 4, 512: 5, "M": "M"}


@pytest.fixture
def tiny(monkeypatch):
    """Table 1 with other numbers of channels: our networks are tiny within the test."""
    monkeypatch.setattr("vggnet.models.table1.WIDTHS", WIDTHS)
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", FC_WIDTH)
    torch.manual_seed(0)


@pytest.fixture
def configuration():
    """torchvision's and timm's list of layers for a name, with few channels."""
    return lambda name: [_CHANNELS[channels] for channels in torchvision_vgg.cfgs[_LETTER[name.removesuffix("_bn")]]]


@pytest.fixture
def torchvision_network(tiny, configuration, randomized):
    """torchvision's class and layers with few channels, and its classifier with fewer units, by name."""

    def make(name):
        with torch.device("meta"):  # its own classifier takes half a gigabyte
            model = torchvision_vgg.VGG(nn.Identity(), init_weights=False)
        model.features = torchvision_vgg.make_layers(configuration(name), batch_norm=name.endswith("_bn"))
        model.classifier = nn.Sequential(
            nn.Linear(WIDTHS[-1] * 49, FC_WIDTH), nn.ReLU(True), nn.Dropout(),
            nn.Linear(FC_WIDTH, FC_WIDTH), nn.ReLU(True), nn.Dropout(),
            nn.Linear(FC_WIDTH, NUM_CLASSES),
        )  # fmt: skip
        return randomized(model)

    return make


@pytest.fixture
def randomized():
    """A model in eval mode with weights that keep activations alive, and random batch-norm statistics."""

    def randomize(model):
        for name, tensor in model.state_dict().items():
            if tensor.ndim > 1:
                bound = (6 / tensor[0].numel()) ** 0.5
                tensor.uniform_(-bound, bound)
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if name.endswith("running_var") else tensor.uniform_(-0.2, 0.5)
            else:
                tensor.zero_()
        return model.eval()

    return randomize


@pytest.fixture
def assert_equal_answers():
    """The answers of two networks to random images differ by less than 1e-4 of the largest."""

    @torch.inference_mode()
    def check(ours, theirs, sizes=((64, 64),), channels=3):
        for size in sizes:
            images = torch.randn(2, channels, *size)
            expected = theirs(images)
            found = ours(images)
            assert found.shape == expected.shape
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max()

    return check
