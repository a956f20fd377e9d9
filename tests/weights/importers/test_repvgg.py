"""timm's RepVGG, imported and folded: the outputs are those of timm's own network."""

import pytest
import torch
from safetensors.torch import save_file

import vggnet
from vggnet.accel.modules import Conv3x3, OtherConv2d
from vggnet.errors import ConfigError, WeightsError
from vggnet.features.extractor import FeatureExtractor
from vggnet.models.dense import feature_map, reach
from vggnet.models.vgg import build, empty

timm = pytest.importorskip("timm", reason="timm is not installed (vggnet[export])")


def theirs(name, **options):
    """timm's network in eval mode, with random weights, statistics, scales and shifts."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **options).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return model


def difference(one, two, images):
    """Of the outputs, relative to the largest."""
    with torch.no_grad():
        expected, found = one(images), two(images)
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def a0(tmp_path_factory):
    """timm's network for 7 classes, and ours of its file."""
    folder = tmp_path_factory.mktemp("a0")
    model = theirs("repvgg_a0", num_classes=7)
    save_file(model.state_dict(), folder / "theirs.safetensors")
    vggnet.weights.convert(folder / "theirs.safetensors", folder / "ours.safetensors")
    return model, vggnet.load(folder / "ours.safetensors")


def test_the_folded_network_is_timms(a0):
    """Oracle: timm in eval mode, with branches; at an odd size as well. Preprocessing: timm's configuration."""
    model, ours = a0
    for size in (64, 75):
        assert difference(model, ours, torch.randn(2, 3, size, size)) < 1e-5
    assert (ours.architecture.name, ours.architecture.head, ours.num_classes) == ("repvgg_a0", "gap", 7)
    config, preprocess = model.pretrained_cfg, ours.preprocess
    assert (preprocess.mean, preprocess.std) == (config["mean"], config["std"])
    assert preprocess.crop / preprocess.resize == config["crop_pct"]
    assert preprocess.crop == config["input_size"][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repvgg_a1", "repvgg_a2", "repvgg_b0", "repvgg_b1"])
def test_other_depths_and_widths(name, tmp_path):
    """Oracle: timm, whose file is written by torch.save with the prefix of DataParallel."""
    model = theirs(name)
    torch.save({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, tmp_path / "theirs.pth")
    vggnet.weights.convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    ours = vggnet.load(tmp_path / "ours.safetensors")
    assert ours.architecture.name == name
    assert difference(model, ours, torch.randn(1, 3, 32, 32)) < 1e-5


def test_a_file_that_timm_has_folded_and_one_without_head(a0, tmp_path):
    """Oracle: timm's own re-parameterization, and timm's features."""
    model, _ = a0
    folded = timm.utils.model.reparameterize_model(model)
    torch.save(folded.state_dict(), tmp_path / "folded.pth")
    vggnet.weights.convert(tmp_path / "folded.pth", tmp_path / "ours.safetensors")
    assert difference(model, vggnet.load(tmp_path / "ours.safetensors"), torch.randn(2, 3, 64, 64)) < 1e-5
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    vggnet.weights.convert(tmp_path / "theirs.pth", tmp_path / "features.safetensors", features_only=True)
    ours = vggnet.load(tmp_path / "features.safetensors")
    assert difference(model.forward_features, ours, torch.randn(2, 3, 64, 64)) < 1e-5


def test_names_that_are_known():
    """Oracle: a channel count times 0.25 by hand; branches are for columns with pools, by the documentation."""
    ours = build("REPVGG-A0_bn", num_classes=2, head="cifar", width=0.25)
    assert (ours.architecture.name, ours.features.bn1_1.num_features) == ("repvgg_a0_bn", 12)
    with pytest.raises(ConfigError, match="branches is repvgg, but it acts only with .* pools"):
        vggnet.preset("digits").override(model="repvgg_a0_bn", branches="repvgg")


def test_variants_that_have_no_column_here_are_refused(a0, tmp_path):
    """Oracle: grouped convolutions have kernels of fewer inputs."""
    state, name = a0[0].state_dict(), "stages.1.1.conv_kxk.conv.weight"
    torch.save({**state, name: state[name][:, ::4].clone()}, tmp_path / "grouped.pth")
    with pytest.raises(WeightsError, match=rf"do not fit repvgg_a0, the nearest one: {name} is .*, expected"):
        vggnet.weights.convert(tmp_path / "grouped.pth", tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


def test_the_fast_convolutions_leave_strides_to_pytorch(a0):
    """Oracle: the same network without the engine."""
    _, ours = a0
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = ours(images)
    assert type(ours.features.conv2_1) is torch.nn.Conv2d
    with torch.no_grad():
        found = vggnet.accelerate(ours)(images)
    assert (type(ours.features.conv2_1), ours.features.conv2_1.stride) == (OtherConv2d, (2, 2))
    assert type(ours.features.conv2_2) is Conv3x3
    vggnet.restore(ours)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_what_needs_the_strides_as_data(a0):
    """Oracles: every second place of the dense map of a layer is the plain map; tiles give the map of the whole; by
    hand, a cell of the last map sees 1 + 2 + 4 + 4 + 3 * 8 + 8 + 13 * 16 + 16 = 267 pixels more on each side,
    9 cells."""
    _, ours = a0
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        plain = FeatureExtractor(ours, "relu5_1")(images)["relu5_1"]
        dense = FeatureExtractor(ours, "relu5_1", output_stride=8)(images)["relu5_1"]
        torch.testing.assert_close(dense[..., ::4, ::4], plain, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="has no pools"):
        build("repvgg_a0", num_classes=2, head="unet", width=0.1)
    assert reach(empty(ours.architecture)) == 9
    with torch.no_grad():
        wide = torch.rand(1, 3, 32, 1024)
        whole = ours.features(wide)
        tiled = feature_map(ours, wide, lambda pixels: pixels, 32 * 600)
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5)
