"""Networks with channels and ranks of their own: shapes, files, mistakes."""

import json

import pytest
import torch
from safetensors import safe_open

import vggnet
from vggnet.errors import ConfigError, WeightsError
from vggnet.interpret.costs import count_macs
from vggnet.interpret.summary import layer_table
from vggnet.models.vgg import Architecture, build, empty, fold_repeated_pool
from vggnet.report.layer_table_text import layer_table_title
from vggnet.training.config import TrainConfig
from vggnet.weights.adaptation import adapt
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.create import create_model

CHANNELS = (3, 5, 4, 7, 6, 2, 8, 9)  # of vgg11's eight convolutions
PREPROCESS = vggnet.Preprocess(resize=32, crop=32)


@pytest.fixture(autouse=True)
def _small_heads(monkeypatch):
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 16)


def small(head="cifar", name="vgg11_bn", **options):
    torch.manual_seed(0)
    model = build(name, num_classes=4, head=head, channels=list(CHANNELS), **options).eval()
    model.preprocess = PREPROCESS
    return model


def test_each_convolution_has_its_channels():
    """Oracle: the numbers given, and a count by hand of the multiply-adds of 32x32, 16x16, 8x8, 4x4 and 2x2 maps."""
    model = small()
    convolutions = [layer for layer in model.features if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == list(CHANNELS)
    assert [layer.in_channels for layer in convolutions] == [3, *CHANNELS[:-1]]
    assert [layer.num_features for layer in model.features if isinstance(layer, torch.nn.BatchNorm2d)] == list(CHANNELS)
    assert model.head.fc.in_features == 9
    sides = (32, 16, 8, 8, 4, 4, 2, 2)
    by_hand = sum(9 * a * b * side**2 for a, b, side in zip((3, *CHANNELS), CHANNELS, sides, strict=False)) + 9 * 4
    assert count_macs(empty(model.architecture), 32) == by_hand == layer_table(model, size=32).macs


def test_a_file_reloads_with_lists_as_tuples(tmp_path):
    """Oracle: the network itself; the metadata hold lists."""
    model = small("folded", ranks=(2, 0, 3))
    vggnet.save(model, tmp_path / "small.safetensors")
    with safe_open(tmp_path / "small.safetensors", framework="pt") as file:
        described = json.loads(file.metadata()["architecture"])
    assert (described["channels"], described["ranks"]) == (list(CHANNELS), [2, 0, 3])
    loaded = Checkpoint.open(tmp_path / "small.safetensors").build()
    assert loaded.architecture == model.architecture
    assert loaded.architecture.channels == CHANNELS
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert "pruned" in layer_table_title(layer_table(tmp_path / "small.safetensors"))


def test_other_networks_are_described_as_before():
    """Oracle: the fields of version 0.2, typed by hand: older versions know no others."""
    fields = {"name", "num_classes", "head", "in_channels", "width", "dropout", "boxes"}
    assert Architecture(name="vgg16").as_dict().keys() == fields
    assert Architecture(name="vgg11", head="paper", ranks=[0, 0, 0]) == Architecture(name="vgg11")


def test_a_factorized_layer_is_two():
    """Oracle: the product of both matrices in float64."""
    model = small("paper", ranks=(5, 0, 2)).double()
    head = model.head
    assert [name for name, _ in head.named_children() if name.startswith("fc")] == [
        "fc6_reduce", "fc6", "fc7", "fc8_reduce", "fc8"
    ]  # fmt: skip
    x = torch.randn(3, 9, 7, 7).double()
    hidden = (x.flatten(1) @ (head.fc6.weight @ head.fc6_reduce.weight).T + head.fc6.bias).relu()
    hidden = (hidden @ head.fc7.weight.T + head.fc7.bias).relu()
    expected = hidden @ (head.fc8.weight @ head.fc8_reduce.weight).T + head.fc8.bias
    torch.testing.assert_close(head(x), expected)
    images = torch.randn(2, 3, 32, 32).double()
    torch.testing.assert_close(fold_repeated_pool(model)(images), model(images))


def test_other_classes_gray_images_and_another_head():
    """Oracle: the shapes; what is kept is the same tensor."""
    model = small("folded", ranks=(2, 0, 3))
    adapted = adapt(model, num_classes=7, in_channels=1)
    assert adapted.head.fc8.weight.shape == (7, 3)
    assert torch.equal(adapted.head.fc8_reduce.weight, model.head.fc8_reduce.weight)
    assert adapted(torch.zeros(1, 1, 32, 32)).shape == (1, 7)


def test_another_head_is_whole(tmp_path):
    """Oracle: the features of the file, and a head without ranks."""
    model = small("folded", ranks=(2, 0, 3))
    vggnet.save(model, tmp_path / "small.safetensors")
    created = create_model("vgg11_bn", weights=tmp_path / "small.safetensors", head="gap")
    assert (created.architecture.ranks, created.architecture.channels) == (None, CHANNELS)
    assert torch.equal(created.features.conv5_2.weight, model.features.conv5_2.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (3, 4)}, "channels has 2 numbers; expected 8, one for each of the convolutions of vgg11"),
        ({"channels": (0, *CHANNELS[1:])}, "whole numbers of at least 1"),
        ({"channels": (True, *CHANNELS[1:])}, "whole numbers"),
        ({"channels": "12345678"}, "whole numbers"),
        ({"channels": CHANNELS, "width": 0.5}, "leave width out"),
        ({"ranks": (1,)}, "ranks has 1 numbers; expected 3"),
        ({"ranks": (1,), "head": "dense"}, "expected 0"),
        ({"ranks": (1, -1, 1)}, "at least 0"),
    ],
)
def test_mistakes(options, message):
    """Oracle: the documented rules."""
    with pytest.raises(ConfigError, match=message):
        Architecture(name="vgg11", **options)


def test_a_pruned_network_is_not_cut_to_a_width():
    """Oracle: the rule of Architecture."""
    with pytest.raises(ConfigError, match="leave width out"):
        adapt(small(), width=0.5)


def test_training_keeps_channels_and_ranks_as_far_as_they_act(tmp_path):
    """Oracle: the file; another model or head has no use for them; a width is refused."""
    vggnet.save(small("folded", ranks=(2, 0, 3)), tmp_path / "small.safetensors")
    config = vggnet.preset("quick", init_from=tmp_path / "small.safetensors")
    assert (config.model.head, config.model.channels, config.model.ranks) == ("folded", CHANNELS, (2, 0, 3))
    assert config.model.width == 1
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    assert config.override(head="gap").model.ranks is None
    assert config.override(model="vgg16_bn").model.channels is None
    with pytest.raises(ConfigError, match="width is 0.5, but it acts only with a network that is not pruned"):
        config.override(width=0.5)


def test_weights_of_other_channels_are_refused():
    """Oracle: the rule of transfer; the message names the channels."""
    from vggnet.weights.adaptation import transfer

    with pytest.raises(WeightsError, match=r"channels \(3, 5, 4"):
        transfer(small(), build("vgg11_bn", num_classes=4, head="cifar"))
