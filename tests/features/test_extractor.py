"""Layers by the paper's names: the right values, no deeper than needed, nothing changed on the way."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import FeaturePyramidNetwork

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, ImageError, InputError, WeightsError
from vggnet.features import extractor as taps
from vggnet.models.table1 import MODEL_NAMES


def tiny(name="vgg16", width=0.0625, **options):
    torch.manual_seed(0)
    model = vggnet.create_model(name, num_classes=2, head="gap", width=width, **options).eval()
    for parameter in model.parameters():  # biases and norms that matter
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.1, 0.3)
    model.preprocess = Preprocess(resize=40, crop=32)
    return model


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(("column", "name"), [("A", "vgg11"), ("D", "vgg16"), ("E", "vgg19_bn")])
def test_torchvision_gives_the_same_layers(column, name):
    """Oracle: torchvision's own VGG and create_feature_extractor, by the index of each layer."""
    ours = tiny(name, width=1.0)
    theirs = make_layers(cfgs[column], batch_norm=name.endswith("_bn")).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.features.state_dict().values(), strict=True)))
    for layer in theirs:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # else its convolution's output is overwritten
    names = [layer for layer, _ in ours.features.named_children()]
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, {str(index): layer for index, layer in enumerate(names)})(images)
    found = vggnet.extract_features(ours, images, names)
    assert list(found) == names
    assert all(close(found[layer], expected[layer]) for layer in names)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_layer_of_every_network(name):
    """Oracle: the network's own layers, one after the other; nothing later overwrites them."""
    model = tiny(name)
    x = images = torch.randn(2, 3, 64, 32)
    expected = {}
    for layer, module in model.features.named_children():
        x = module(x).detach().clone()
        expected[layer] = x
    found = vggnet.extract_features(model, images, list(expected))
    assert list(found) == list(expected)
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)


@settings(max_examples=10)
@given(
    data=st.data(),
    n=st.integers(1, 3),
    height=st.integers(32, 50),
    width=st.integers(32, 50),
    channels=st.integers(1, 4),
)
def test_any_layers_of_any_images(data, n, height, width, channels):
    """Oracle: hooks on the network itself."""
    model = tiny("vgg11_lrn", in_channels=channels)
    names = [name for name, _ in model.features.named_children()]
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    images, seen = torch.randn(n, channels, height, width), {}
    for name in wanted:
        module = model.features.get_submodule(name)
        module.register_forward_hook(lambda _, __, y, name=name: seen.__setitem__(name, y))
    with torch.no_grad():
        model(images)
    expected = dict(seen)
    extractor = vggnet.FeatureExtractor(model, wanted)
    found = extractor(images)
    assert list(found) == sorted(wanted, key=names.index)
    assert {name: tap.shape[1] for name, tap in found.items()} == extractor.channels
    assert all(close(found[name], expected[name]) for name in wanted)


@pytest.mark.parametrize("name", ["vgg13_bn", "vgg16_1x1"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_layers_hold_the_plain_ones(name, output_stride):
    """Oracle: the plain network: its values lie at every second or fourth place of the denser map."""
    model = tiny(name)
    names = [layer for layer, _ in model.features.named_children()]
    images = torch.randn(2, 3, 96, 64)
    plain = vggnet.extract_features(model, images, names)
    dense = vggnet.extract_features(vggnet.accelerate(copy.deepcopy(model)), images, names, output_stride=output_stride)
    assert dense["pool5"].shape[2:] == (96 // output_stride, 64 // output_stride)
    for layer in names:
        step = dense[layer].shape[2] // plain[layer].shape[2]
        assert close(dense[layer][:, :, ::step, ::step], plain[layer])


def test_no_deeper_than_needed():
    """Oracle: by hand: the layers up to relu2_2, and images smaller than five pools need."""
    extractor = vggnet.FeatureExtractor(tiny(), ["relu2_2", "relu1_1"])
    deepest = [name for stage in extractor.stages.values() for name, _ in stage.named_children()]
    assert deepest == [
        "conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1", "conv2_2", "relu2_2"
    ]  # fmt: skip
    assert extractor(torch.randn(1, 3, 3, 2))["relu2_2"].shape == (1, 8, 1, 1)


def test_the_fast_engine_gives_the_same_and_leaves_the_model_alone(own_cache, monkeypatch):
    """Oracle: PyTorch's convolutions."""
    monkeypatch.setenv("VGGNET_CONV", "winograd4")
    model = tiny(width=0.25)
    layers = ["conv1_2", "relu2_2", "pool3", "relu4_3"]
    classes = [type(module) for module in model.modules()]
    images = torch.randn(2, 3, 32, 32)
    extractor = vggnet.accelerate(vggnet.FeatureExtractor(model, layers))
    assert [type(module) for module in model.modules()] == classes
    expected = vggnet.extract_features(model, images, layers)
    with torch.no_grad():
        found = extractor(images)
    assert all(close(found[layer], expected[layer]) for layer in layers)


def test_gradients_flow_and_training_one_trains_the_other():
    """Oracle: autograd on the network itself; the network's mode is its own."""
    model = tiny("vgg13_bn")
    extractor = vggnet.FeatureExtractor(model, "relu3_2").train()
    assert not model.training
    assert not any(module.training for module in model.modules())
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    names = [name for name, _ in model.features.named_children()]
    stock = copy.deepcopy(model.features[: names.index("relu3_2") + 1]).train()
    stock(images).square().sum().backward()
    expected, images.grad = images.grad, None
    extractor(images)["relu3_2"].square().sum().backward()
    assert close(images.grad, expected)
    assert close(model.features.conv1_1.weight.grad, stock.conv1_1.weight.grad)
    before = model.features.conv1_1.weight.detach().clone()
    torch.optim.SGD(extractor.parameters(), lr=0.1).step()
    assert not torch.equal(model.features.conv1_1.weight, before)


def test_taps_feed_a_feature_pyramid_and_a_detector_learns():
    """Oracle: torchvision's FeaturePyramidNetwork and RetinaNet take the taps; the loss falls."""

    class Backbone(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.taps = vggnet.FeatureExtractor(network, ["relu3_3", "relu4_3", "relu5_3"])
            self.out_channels = 16
            self.pyramid = FeaturePyramidNetwork(list(self.taps.channels.values()), self.out_channels)

        def forward(self, images):
            return self.pyramid(self.taps(images))

    torch.manual_seed(0)
    anchors = AnchorGenerator(sizes=((8,), (16,), (32,)), aspect_ratios=((1.0,),) * 3)
    detector = RetinaNet(Backbone(tiny()), 2, anchor_generator=anchors, min_size=64, max_size=64)
    images = [torch.rand(3, 64, 64)]
    targets = [{"boxes": torch.tensor([[10.0, 12.0, 40.0, 44.0]]), "labels": torch.tensor([1])}]
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = sum(detector(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in detector.backbone.taps.parameters())


def test_it_can_be_exported():
    """Oracle: the extractor itself, at another batch size than it was exported with."""
    extractor = vggnet.FeatureExtractor(tiny("vgg11"), ["conv1_1", "relu2_1"], output_stride=16)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(extractor, (torch.randn(2, 3, 32, 32),), dynamic_shapes={"images": {0: batch}})
    images = torch.randn(5, 3, 32, 32)
    found, expected = program.module()(images), extractor(images)
    assert list(found) == list(expected)
    assert all(close(found[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore")  # PyTorch deprecates TorchScript
def test_it_can_be_scripted():
    """Oracle: the extractor itself, values and gradients, and its own error."""
    extractor = vggnet.FeatureExtractor(tiny("vgg11"), ["conv1_1", "relu2_1", "pool5"], output_stride=16).eval()
    scripted = torch.jit.script(extractor)
    images, same = (torch.ones(2, 3, 32, 32).mul(0.5).requires_grad_() for _ in range(2))
    found, expected = scripted(images), extractor(same)
    assert list(found) == list(expected)
    assert all(close(found[name], expected[name]) for name in expected)
    for answers in (found, expected):
        sum(values.square().sum() for values in answers.values()).backward()
    assert close(images.grad, same.grad)
    with pytest.raises(torch.jit.Error, match="at least 16x16 pixels"):
        scripted(torch.zeros(1, 3, 8, 8))


@pytest.fixture
def pictures(tmp_path):
    """Five PNG files of five sizes."""
    random = np.random.default_rng(0)
    for index in range(5):
        pixels = random.integers(0, 256, (33 + 5 * index, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_pictures_are_prepared_as_the_network_says(pictures, batch_size):
    """Oracle: the saved preprocessing, image by image."""
    model = tiny()
    tensors = [model.preprocess(Image.open(pictures / f"{index}.png")) for index in range(5)]
    expected = vggnet.extract_features(model, torch.stack(tensors), "relu2_1")["relu2_1"]
    files = [pictures / "0.png", (pictures / "1.png").read_bytes(), Image.open(pictures / "2.png")]
    files += [str(pictures / "3.png"), pictures / "4.png"]
    for given_pictures in (files, pictures):
        found = vggnet.extract_features(model, given_pictures, "relu2_1", batch_size=batch_size)["relu2_1"]
        assert close(found, expected)


def test_generalized_mean_by_hand():
    """Oracle: by hand: the cube root of (1 + 8 + 27 + 0) / 4; a negative value counts as 0."""
    maps = torch.tensor([[[[1.0, 2.0], [3.0, -5.0]]]])
    assert taps.POOLINGS["gem"](maps).item() == pytest.approx(9 ** (1 / 3))


def test_weights_from_a_file(tmp_path):
    """Oracle: the model that was saved."""
    model = tiny()
    vggnet.save(model, tmp_path / "weights.safetensors")
    images = torch.randn(1, 3, 32, 32)
    expected = vggnet.extract_features(model, images, "relu3_3")["relu3_3"]
    for source in (tmp_path, str(tmp_path / "weights.safetensors")):
        assert close(vggnet.extract_features(source, images, "relu3_3")["relu3_3"], expected)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (["relu9_1"], {}, r"vgg16 has no layer relu9_1. Its layers are conv1_1, relu1_1"),
        (["bn1_1", 3], {}, "no layer 3, bn1_1"),
        ([], {}, "asked for no layer"),
        (["relu1_1"], {"output_stride": 4}, "output_stride is 4"),
        (["relu1_1"], {"batch_size": 0}, "batch_size is 0"),
        (["relu1_1"], {"device": "quantum"}, "device 'quantum'"),
    ],
)
def test_arguments_that_cannot_work(pictures, layers, options, message):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match=message):
        vggnet.extract_features(tiny(), pictures, layers, **options)


def test_inputs_that_cannot_work(pictures, tmp_path):
    """Oracle: the contract."""
    model = tiny()
    with pytest.raises(InputError, match=r"\(N, 3, H, W\), but got \[2, 1, 32, 32\]"):
        vggnet.extract_features(model, torch.randn(2, 1, 32, 32), "relu1_1")
    with pytest.raises(InputError, match="relu3_1 needs images of at least 4x4 pixels, but got 9x3"):
        vggnet.extract_features(model, torch.randn(2, 3, 9, 3), "relu3_1")
    with pytest.raises(InputError, match="no images"):
        vggnet.extract_features(model, [], "relu1_1")
    (pictures / "broken.png").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"broken\.png"):
        vggnet.extract_features(model, pictures, "relu1_1")
    model.preprocess = None
    with pytest.raises(WeightsError, match="preprocess"):
        vggnet.extract_features(model, pictures, "relu1_1")
    with pytest.raises(ConfigError, match="without weights"):
        taps.FeatureExtractor(vggnet.create_model("vgg11", init=None), "relu1_1")
    with pytest.raises(WeightsError, match="nowhere"):
        vggnet.extract_features(tmp_path / "nowhere", pictures, "relu1_1")


@pytest.mark.parametrize(("head", "size"), [("paper", 64), ("folded", 32), ("dense", 224)])
def test_fully_connected_layers(head, size, monkeypatch):
    """Oracle: hooks on the head's own layers, and the logits of the network."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 8)
    torch.manual_seed(0)
    network = vggnet.create_model("vgg11", num_classes=3, head=head, width=0.05).eval()
    kept, images = {}, torch.rand(2, 3, size, size)
    for name in ("fc6", "relu6", "fc7", "relu7", "fc8"):
        network.head.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: kept.update({name: out}))
    logits, maps = network(images), network.features(images)
    expected = dict(kept)
    found = vggnet.FeatureExtractor(network, ["pool5", *expected])(images)
    assert list(found) == ["pool5", *expected]
    torch.testing.assert_close(found["pool5"], maps)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)
    assert logits.shape == (2, 3)
    assert vggnet.FeatureExtractor(network, "relu7").channels == {"relu7": 8}
    with pytest.raises(ConfigError, match="need the map at 32"):
        vggnet.FeatureExtractor(network, "fc6", output_stride=16)
    with pytest.raises(ConfigError, match="Its layers are .*pool5, fc6, relu6, fc7, relu7, fc8"):
        vggnet.FeatureExtractor(network, "fc9")


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_features_are_those_of_the_maps(pooling):
    """Oracle: PyTorch's reductions of the maps, of prepared and of unprepared images."""
    model = tiny()
    for images in (torch.randn(3, 3, 32, 32), torch.randint(256, (3, 3, 40, 40), dtype=torch.uint8)):
        maps = vggnet.extract_features(model, images, "relu2_1")["relu2_1"]
        found = vggnet.extract_features(model, images, "relu2_1", pooling=pooling)["relu2_1"]
        assert torch.equal(found, maps.mean((2, 3)) if pooling == "mean" else maps.amax((2, 3)))
    with pytest.raises(ConfigError, match="median"):
        vggnet.extract_features(model, images, "relu2_1", pooling="median")
