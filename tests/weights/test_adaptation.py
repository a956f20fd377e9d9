"""Given weights for other classes, channels and widths, and as a start of training."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, WeightsError
from vggnet.models.vgg import build, to_dense
from vggnet.weights.adaptation import adapt, to_channels, transfer

IMAGES = (2, 3, 64, 64)


@pytest.fixture
def saved(tiny, tmp_path):
    """Save a network with this head, and return it with its file."""

    def save(head, name="vgg11_bn", **options):
        model = build(name, num_classes=4, head=head, **options).eval()
        model.classes = ("ant", "bee", "cow", "dog") if head != "none" else None
        model.preprocess = Preprocess.imagenet(in_channels=model.architecture.in_channels)
        vggnet.save(model, tmp_path / "given.safetensors")
        return model, tmp_path / "given.safetensors"

    return save


def last_layer(model):
    return list(model.state_dict())[-1].rpartition(".")[0]


@pytest.mark.parametrize("head", ["paper", "dense", "gap", "grid", "cifar", "folded"])
def test_other_classes_get_a_new_last_layer(head, saved):
    """Oracle: every other tensor of the file; new weights N(0, 0.01), biases 0, no class names."""
    given, file = saved(head)
    model = vggnet.load(file, num_classes=7)
    last = last_layer(given)
    for name, tensor in model.state_dict().items():
        if not name.startswith(last):
            assert torch.equal(tensor, given.state_dict()[name]), name
    assert model.state_dict()[f"{last}.weight"].shape[0] == model.num_classes == 7
    assert 0 < model.state_dict()[f"{last}.weight"].abs().max() < 0.06
    assert not model.state_dict()[f"{last}.bias"].any()
    assert model.classes is None
    assert model.preprocess == vggnet.load(file).preprocess


def test_as_many_classes_are_kept(saved):
    """Oracle: the file."""
    given, file = saved("gap")
    model = vggnet.load(file, num_classes=4)
    assert torch.equal(model.head.fc.weight, given.head.fc.weight)
    assert model.classes == given.classes


def test_a_network_without_head_gets_one(saved):
    """Oracle: the convolutions of the file below a global average pool, by hand."""
    given, file = saved("none")
    model = vggnet.load(file, num_classes=7)
    assert model.architecture.head == "gap"
    images = torch.randn(IMAGES)
    with torch.inference_mode():
        pooled = given.features(images).mean((2, 3))
        torch.testing.assert_close(model(images), pooled @ model.head.fc.weight.T + model.head.fc.bias)


@pytest.mark.parametrize("bgr", [False, True])
def test_gray_answers_as_its_copies(saved, bgr):
    """Oracle: the network for RGB on three copies of the gray image, each by its own preprocessing."""
    given, file = saved("gap")
    given.preprocess = Preprocess(mean=(0.449,) * 3, std=(0.229, 0.224, 0.13), bgr=bgr)
    vggnet.save(given, file)
    model = vggnet.load(file, in_channels=1)
    gray = torch.rand(2, 1, 64, 64)
    copies = given.preprocess.from_unit_range(gray.expand(IMAGES))
    with torch.inference_mode():
        ours = model(model.preprocess.from_unit_range(gray))
        torch.testing.assert_close(ours, given(copies), rtol=1e-5, atol=1e-5)
    assert model.classes == given.classes


@pytest.mark.parametrize("preprocess", [Preprocess.imagenet(), Preprocess.cifar10(), Preprocess.caffe()])
def test_gray_features_are_those_of_copies(saved, preprocess):
    """Oracle: as above. Where the layer pads with zeros, these stand for the mean, which differs between channels."""
    given, file = saved("gap")
    given.preprocess = preprocess
    vggnet.save(given, file)
    model = vggnet.load(file, in_channels=1)
    gray = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        ours = model.features.conv1_1(model.preprocess.from_unit_range(gray))[..., 1:-1, 1:-1]
        theirs = given.features.conv1_1(preprocess.from_unit_range(gray.expand(IMAGES)))[..., 1:-1, 1:-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_gray_has_the_mean_statistics(saved):
    """Oracle: the averages of ImageNet's, by hand."""
    _, file = saved("gap")
    assert vggnet.load(file, in_channels=1).preprocess == Preprocess(mean=(0.449,), std=(0.226,))


def test_rgb_from_gray(saved):
    """Oracle: the network for gray, on an image of three equal channels."""
    given, file = saved("gap", in_channels=1)
    model = vggnet.load(file, in_channels=3)
    assert model.preprocess.mean == (0.449,) * 3
    gray = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(gray.expand(IMAGES)), given(gray), rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(given_channels=st.integers(1, 6), in_channels=st.integers(1, 9))
def test_kernels_for_other_channels(given_channels, in_channels):
    """Oracle: plain loops over the rule."""
    kernel = torch.randn(2, given_channels, 3, 3)
    found = to_channels(kernel, in_channels)
    assert found.shape == (2, in_channels, 3, 3)
    if in_channels == 1 < given_channels:
        torch.testing.assert_close(found[:, 0], sum(kernel[:, c] for c in range(given_channels)))
    else:
        for c in range(in_channels):
            torch.testing.assert_close(found[:, c], kernel[:, c % given_channels] * given_channels / in_channels)


@pytest.mark.parametrize("in_channels", [1, 4, 6, 7])
def test_kernels_are_those_of_timm(in_channels):
    """Oracle: timm's own rule for RGB."""
    adapt_input_conv = pytest.importorskip("timm.models", reason="timm is not installed").adapt_input_conv
    kernel = torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(to_channels(kernel, in_channels), adapt_input_conv(in_channels, kernel.clone()))


def test_channels_beyond_rgb_have_no_preprocessing(saved):
    """Oracle: the contract; nobody knows their mean."""
    _, file = saved("gap")
    model = vggnet.load(file, in_channels=4)
    assert model.preprocess is None
    assert model(torch.randn(1, 4, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize("head", ["paper", "dense", "gap", "grid", "cifar", "folded", "none"])
def test_a_smaller_width_keeps_the_first_channels(head, saved):
    """Oracle: the kept channels by loops over every tensor; fc6 by pixels and channels."""
    given, file = saved(head)
    model = vggnet.load(file, width=0.5)
    size = 224 if head in ("paper", "dense") else 32
    assert model(torch.randn(1, 3, size, size)).isfinite().all()
    theirs = dict(given.state_dict())
    if head == "paper":  # as a convolution, whose channels are easily counted
        theirs = dict(to_dense(given).state_dict())
        model = to_dense(model)
    for name, tensor in model.state_dict().items():
        expected = theirs[name]
        for dimension, kept in enumerate(tensor.shape):
            expected = expected.narrow(dimension, 0, kept)
        assert torch.equal(tensor, expected), name
    assert model.classes == given.classes


def test_everything_at_once(saved):
    """Oracle: the architecture that was asked for."""
    _, file = saved("paper")
    model = vggnet.load(file, num_classes=6, in_channels=1, width=0.5)
    assert (model.num_classes, model.architecture.in_channels, model.architecture.width) == (6, 1, 0.5)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 6)
    assert not model.training


def test_nothing_is_shared_with_the_given_network(saved):
    """Oracle: the given network, after the adapted one was zeroed."""
    given, _ = saved("gap")
    before = copy.deepcopy(given.state_dict())
    with torch.no_grad():
        for parameter in adapt(given, num_classes=6, width=0.5).parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1.5}, r"width 1\.5 is more than the 1"),
        ({"width": 0}, "width"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_numbers_that_cannot_be(options, message, saved):
    """Oracle: the message names the argument."""
    _, file = saved("gap")
    with pytest.raises(ConfigError, match=message):
        vggnet.load(file, **options)


def filled(value, **architecture):
    """A network whose every parameter and statistic is `value`."""
    model = build("vgg11_bn", width=0.05, **architecture)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


@pytest.mark.parametrize(
    ("given", "ours", "kept"),
    [
        ({"num_classes": 3, "head": "gap"}, {"num_classes": 2, "head": "gap"}, ("head.fc.weight", "head.fc.bias")),
        ({"num_classes": 2, "head": "cifar"}, {"num_classes": 2, "head": "gap"}, ()),
        (
            {"num_classes": 3, "head": "folded"},
            {"num_classes": 2, "head": "folded"},
            ("head.fc8.weight", "head.fc8.bias"),
        ),
    ],
)
def test_what_is_taken_from_given_weights(given, ours, kept):
    """Oracle: by hand: ones where copied, sevens where not; equal class names allow the last layer."""
    source, model = filled(1, **given), filled(7, **ours)
    source.classes = tuple(map(str, range(given["num_classes"])))
    model.classes = tuple(map(str, range(ours["num_classes"])))
    assert transfer(source, model) == kept
    for name, tensor in model.state_dict().items():
        assert (tensor == (7 if name in kept else 1)).all(), name


def test_a_deeper_network_starts_from_column_a():
    """Oracle: section 3.1: the first four convolutions and the fully connected layers of A, typed by hand."""
    given = build("vgg11", num_classes=2, head="paper", width=0.05)
    model = build("vgg19", num_classes=2, head="paper", width=0.05)
    given.classes = model.classes = ("cat", "dog")
    for network, value in ((given, 1), (model, 7)):
        for tensor in network.state_dict().values():
            tensor.fill_(value)
    kept = transfer(given, model)
    copied = ("features.conv1_1", "features.conv2_1", "features.conv3_1", "features.conv3_2", "head.fc")
    for name, tensor in model.state_dict().items():
        assert (tensor == (1 if name.startswith(copied) else 7)).all(), name
        assert (name in kept) is not name.startswith(copied)
    with pytest.raises(WeightsError, match="name vgg11"):
        transfer(given, build("vgg19_bn", num_classes=2, head="paper", width=0.05))


def test_transfer_starts_a_last_layer_for_other_classes_afresh():
    """Oracle: by hand: as many classes, but with other names."""
    source, model = filled(1, num_classes=2, head="gap"), filled(7, num_classes=2, head="gap")
    source.classes, model.classes = ("cat", "dog"), ("cat", "eel")
    assert transfer(source, model) == ("head.fc.weight", "head.fc.bias")


@pytest.mark.parametrize("ours", [{"width": 0.1}, {"in_channels": 1}])
def test_weights_of_another_network_are_refused(ours):
    """Oracle: the field that differs is named."""
    model = build("vgg11_bn", num_classes=2, head="gap", **{"width": 0.05, **ours})
    with pytest.raises(WeightsError, match=next(iter(ours))):
        transfer(filled(1, num_classes=2, head="gap"), model)


def test_weights_for_bgr_are_turned_round():
    """Oracle: a first layer whose channels are told apart."""
    source, model = filled(1, num_classes=2, head="gap"), filled(7, num_classes=2, head="gap")
    with torch.no_grad():
        source.features.conv1_1.weight.copy_(
            torch.arange(3.0).view(1, 3, 1, 1).expand_as(source.features.conv1_1.weight)
        )
    source.preprocess, model.preprocess = Preprocess(bgr=True), Preprocess()
    transfer(source, model)
    assert model.features.conv1_1.weight[0, :, 0, 0].tolist() == [2, 1, 0]
