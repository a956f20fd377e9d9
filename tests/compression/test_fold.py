"""Folding: the same outputs with fewer layers."""

import pytest
import torch
from torch.nn import functional as F

from vggnet.compression.fold import fold, fold_batch_norm
from vggnet.errors import ConfigError
from vggnet.models.vgg import build


def filled(name, head, dtype=torch.float64, **options):
    """A network whose batch norm does something: every statistic, scale and shift is random."""
    torch.manual_seed(0)
    model = build(name, num_classes=5, head=head, width=0.06, **options).to(dtype).eval()
    for key, tensor in model.state_dict().items():
        if ".bn" in key and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if key.endswith("running_var") else tensor.uniform_(-0.6, 0.9)
        elif key.endswith("bias"):
            tensor.uniform_(-0.3, 0.3)
    model.classes, model.preprocess = tuple("abcde"), object()
    return model


def close(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(("name", "plain"), [("vgg16_bn", "vgg16"), ("vgg8_bn", "vgg8"), ("vgg16_1x1_bn", "vgg16_1x1")])
def test_batch_norm_becomes_part_of_the_convolutions(name, plain):
    """Oracle: the network itself in float64, on images whose borders are padded by every convolution."""
    model = filled(name, "gap")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    folded = fold_batch_norm(model)
    images = torch.randn(2, 3, 45, 38).double()
    with torch.no_grad():
        assert close(folded(images), model(images)) < 1e-12
    assert folded.architecture.name == plain
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    assert (folded.classes, folded.preprocess, folded.training) == (model.classes, model.preprocess, False)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_one_convolution_by_hand():
    """Oracle: the definition of batch norm in eval mode, in float64, on the first convolution of a float32 network."""
    model = filled("vgg11_bn", "gap", torch.float32)
    folded = fold_batch_norm(model)
    images = torch.randn(1, 3, 8, 8)
    convolution, norm = model.features.conv1_1, model.features.bn1_1
    x = F.conv2d(images.double(), convolution.weight.double(), convolution.bias.double(), padding=1)
    x = (x - norm.running_mean.double()[:, None, None]) / (norm.running_var.double()[:, None, None] + 1e-5).sqrt()
    expected = x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]
    with torch.no_grad():
        assert close(folded.features.conv1_1(images).double(), expected) < 1e-6


def test_the_repeated_pool_and_batch_norm_together(monkeypatch):
    """Oracle: the network itself in float64; fc6 has a 49th of its inputs."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 16)
    model = filled("vgg11_bn", "paper")
    folded = fold(model, 32)
    images = torch.randn(2, 3, 32, 32).double()
    with torch.no_grad():
        assert close(folded(images), model(images)) < 1e-12
    assert (folded.architecture.name, folded.architecture.head) == ("vgg11", "folded")
    assert 49 * folded.head.fc6.in_features == model.head.fc6.in_features
    assert fold(model, 64).architecture.head == "paper"  # a map of two cells is not repeated alike


def test_a_changed_copy_leaves_the_network():
    """Oracle: no tensor of both has the same memory."""
    model = filled("vgg11_bn", "gap")
    ours = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not ours & {tensor.data_ptr() for tensor in fold(model, 32).state_dict().values()}


def test_nothing_to_fold():
    """Oracle: a plain network with another head than the paper's, and one for larger images."""
    for head, size in (("gap", 32), ("paper", 64)):
        with pytest.raises(ConfigError, match="nothing to fold"):
            fold(build("vgg11", num_classes=2, head=head, width=0.05, init=None), size)
    with pytest.raises(ConfigError, match="no batch norm"):
        fold_batch_norm(build("vgg11", head="gap", init=None))
