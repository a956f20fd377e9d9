"""Random weights of a whole VGG-16 without its head, with LPIPS heads beside them."""

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.features.lpips import HEADS_FILE
from vggnet.weights.checkpoint import FEATURES_FILE


@pytest.fixture(scope="session")
def stock():
    """torchvision's VGG-16 without its head; biases that are not zero."""
    torch.manual_seed(0)
    layers = make_layers(cfgs["D"]).eval().requires_grad_(False)
    for parameter in layers.parameters():
        if parameter.ndim == 1:
            parameter.uniform_(-0.1, 0.1)
        else:
            torch.nn.init.kaiming_normal_(parameter)
    return layers


@pytest.fixture(scope="session")
def heads():
    """Weights of the five heads of LPIPS."""
    torch.manual_seed(1)
    return [torch.rand(channels) for channels in (64, 128, 256, 512, 512)]


@pytest.fixture(scope="session")
def weights(stock, heads, tmp_path_factory):
    """A folder with both files, under the paper's names."""
    blocks = enumerate((2, 2, 3, 3, 3), start=1)
    convs = [f"conv{block}_{number}" for block, count in blocks for number in range(1, count + 1)]
    names = [f"{conv}.{kind}" for conv in convs for kind in ("weight", "bias")]
    folder = tmp_path_factory.mktemp("weights")
    save_file(dict(zip(names, stock.state_dict().values(), strict=True)), folder / FEATURES_FILE)
    save_file({f"lin{index}": head for index, head in enumerate(heads)}, folder / HEADS_FILE)
    return folder


@pytest.fixture(scope="module")
def small_network(tmp_path_factory):
    """The file of a small network, for tests of similar images."""
    torch.manual_seed(0)
    model = vggnet.create_model("vgg16", num_classes=2, head="gap", width=0.0625).eval()
    model.preprocess = Preprocess(resize=36, crop=32)
    path = tmp_path_factory.mktemp("run") / "weights.safetensors"
    vggnet.save(model, path)
    return path
