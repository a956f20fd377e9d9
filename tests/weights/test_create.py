"""Models by name, new or from trained weights."""

import pytest
import torch

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, WeightsError
from vggnet.weights.create import create_model


@pytest.fixture
def saved(tiny, tmp_path):
    """A trained network, and its file."""
    model = create_model("vgg11_bn", num_classes=4, dropout=0.25).eval()
    model.classes, model.preprocess = ("ant", "bee", "cow", "dog"), Preprocess.imagenet()
    vggnet.save(model, tmp_path / "given.safetensors")
    return model, tmp_path / "given.safetensors"


def test_new_models():
    """Oracle: the arguments; the paper's defaults; a column letter is the same network."""
    model = create_model("D_bn", init=None)
    assert model.architecture == vggnet.Architecture(name="vgg16_bn", num_classes=1000, head="paper")
    assert (model.classes, model.preprocess, model.training) == (None, None, True)
    options = {"num_classes": 7, "head": "gap", "in_channels": 1, "width": 0.1, "dropout": 0.0}
    model = create_model("vgg11", **options)
    assert model.architecture == vggnet.Architecture(name="vgg11", **options)
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    torch.manual_seed(3)
    expected = torch.nn.init.kaiming_normal_(torch.empty(6, 3, 3, 3), mode="fan_out", nonlinearity="relu")
    torch.manual_seed(3)
    assert torch.equal(create_model("vgg11", head="gap", width=0.1).features.conv1_1.weight, expected)


def test_models_with_weights(saved):
    """Oracle: the saved network; a changed number of classes gives a new last layer and nothing else.

    Away from the padded border the first layer gives for a gray picture what it gave for its RGB copies.
    """
    given, file = saved
    for source in (file, str(file)):
        same = create_model("A_bn", weights=source)
        assert same.architecture == given.architecture
        assert (same.classes, same.preprocess, same.training) == (given.classes, given.preprocess, False)
        assert all(map(torch.equal, same.state_dict().values(), given.state_dict().values()))
    other = create_model("vgg11_bn", weights=file, num_classes=6, in_channels=1)
    assert (other.num_classes, other.architecture.in_channels, other.classes) == (6, 1, None)
    assert torch.equal(other.head.fc7.weight, given.head.fc7.weight)
    gray = torch.randint(0, 256, (1, 1, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    copies = given.features.conv1_1(given.preprocess.normalize(gray.expand(1, 3, 9, 9)))
    found = other.features.conv1_1(other.preprocess.normalize(gray))
    torch.testing.assert_close(found[..., 1:-1, 1:-1], copies[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-5)


def test_another_head_is_new(saved):
    """Oracle: the features of the file; a head without layers in common starts afresh, dropout changes no weight."""
    given, file = saved
    model = create_model("vgg11_bn", weights=file, head="gap")
    assert model.architecture == vggnet.Architecture(name="vgg11_bn", num_classes=4, head="gap", dropout=0.25)
    for name, tensor in given.features.state_dict().items():
        assert torch.equal(model.features.state_dict()[name], tensor), name
    assert (model.classes, model.preprocess, model.training) == (None, given.preprocess, False)
    model = create_model("vgg11_bn", weights=file, dropout=0.75)
    assert model.head.drop6.p == 0.75
    assert model.classes == given.classes
    assert all(map(torch.equal, model.state_dict().values(), given.state_dict().values()))
    boxes = create_model("vgg11_bn", weights=file, boxes="per_class")
    assert (boxes.task, boxes.head.fc8.out_features) == ("localize", 16)


def test_without_head(saved):
    """Oracle: the features of the file; a head on features needs its number of classes."""
    given, file = saved
    features = create_model("vgg11_bn", weights=file, head="none")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(features(images), given.features(images))
    vggnet.save(features, file.with_name("features.safetensors"))
    with pytest.raises(ConfigError, match="num_classes"):
        create_model("vgg11_bn", weights=file.with_name("features.safetensors"), head="paper")
    model = create_model("vgg11_bn", weights=file.with_name("features.safetensors"), head="paper", num_classes=2)
    assert model.head.fc8.out_features == 2
    assert torch.equal(model.features.conv5_2.weight, given.features.conv5_2.weight)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("vgg12", {}, ConfigError, "vgg12"),
        ("vgg13_bn", {"weights": "given"}, WeightsError, "vgg11_bn, not of vgg13_bn"),
        ("vgg11_bn", {"weights": "nowhere"}, WeightsError, "nowhere"),
        ("vgg11_bn", {"weights": "given", "head": "round"}, ConfigError, "round"),
        ("vgg11_bn", {"weights": "given", "width": 2}, ConfigError, "width 2"),
    ],
)
def test_mistakes(name, options, error, message, saved):
    """Oracle: the message names the argument."""
    if options.get("weights") == "given":
        options = {**options, "weights": saved[1]}
    with pytest.raises(error, match=message):
        create_model(name, **options)
