"""The network: sizes, names, values and errors."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vggnet.errors import ConfigError, InputError
from vggnet.models.table1 import MODEL_NAMES, STRIDED, resolve
from vggnet.models.vgg import build, fold_repeated_pool, from_dense, to_dense

TORCHVISION_NAMES = [f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")]


def relative_difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("column", "parameters"),
    [
        ("A", 132_863_336),
        ("A-LRN", 132_863_336),
        ("B", 133_047_848),
        ("C", 133_638_952),
        ("D", 138_357_544),
        ("E", 143_667_240),
    ],
)
def test_parameters_match_the_paper(column, parameters):
    """Oracle: Table 2 of arXiv:1409.1556, counted exactly."""
    assert num_parameters(build(column, init=None)) == parameters


def torchvision_model(name):
    """Torchvision's network filled cheaply: He-like uniform weights, random batch-norm statistics."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(num_classes=10, init_weights=False)
    model.to_empty(device="cpu").eval()
    for key, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-bound, bound)
        elif tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if key.endswith("running_var") else tensor.uniform_(-0.5, 0.5)
    return model


@pytest.mark.integration
@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_logits_equal_torchvision(name):
    """Oracle: torchvision's VGG with the same weights in the same order, batch-norm statistics included."""
    torch.manual_seed(0)
    theirs = torchvision_model(name)
    ours = build(name, num_classes=10, init=None).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    for size in (224, 160):
        images = torch.randn(1, 3, size, size)
        with torch.inference_mode():
            assert relative_difference(ours(images), theirs(images)) < 1e-5


def test_lrn_equals_krizhevskys_formula():
    """Oracle: a loop over b_i = a_i / (k + alpha * sum_j a_j^2)^beta, n = 5, alpha = 1e-4, beta = 0.75, k = 2."""
    torch.manual_seed(0)
    a = 30 * torch.rand(1, 12, 2, 2, dtype=torch.float64)
    expected = torch.empty_like(a)
    for i in range(12):
        near = a[:, max(0, i - 2) : min(12, i + 3)]
        expected[:, i] = a[:, i] / (2 + 1e-4 * (near**2).sum(1)) ** 0.75
    lrn = build("vgg11_lrn", init=None, head="gap").features.lrn1_1
    torch.testing.assert_close(lrn(a), expected)


def test_lrn_follows_the_first_relu():
    """Oracle: section 2.3 and Krizhevsky (2012), who normalize after the nonlinearity."""
    names = [name for name, _ in build("A-LRN", init=None).features.named_children()]
    assert names[:4] == ["conv1_1", "relu1_1", "lrn1_1", "pool1"]
    assert sum(name.startswith("lrn") for name in names) == 1


def test_parameter_names_are_the_papers():
    """Oracle: the names promised in the documentation."""
    names = build("vgg16_bn", init=None).state_dict()
    for name in ("features.conv3_2.weight", "features.bn3_2.weight", "head.fc6.weight", "head.fc8.bias"):
        assert name in names


# Table 1, the shallow net and our own column, typed by hand: the layers of each block.
BLOCKS = {
    "vgg11": "3 3 33 33 33", "vgg11_lrn": "3n 3 33 33 33", "vgg13": "33 33 33 33 33", "vgg16_1x1": "33 33 331 331 331",
    "vgg16": "33 33 333 333 333", "vgg19": "33 33 3333 3333 3333", "vgg13_5x5": "5 5 5 5 5", "vgg8": "33 33 33 3 -",
}  # fmt: skip


def loops(name, head, state, x):
    """The network by functions of PyTorch, with the parameters in order and nothing of our own code."""
    values = iter(state.values())

    def take(count):
        return [next(values) for _ in range(count)]

    for block in BLOCKS[name.removesuffix("_bn")].split():
        for letter in block.replace("-", ""):
            if letter == "n":
                x = F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
                continue
            x = F.conv2d(x, *take(2), padding=int(letter) // 2)
            if name.endswith("_bn"):
                weight, bias, mean, variance, _ = take(5)
                x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
                x = x * weight[:, None, None] + bias[:, None, None]
            x = x.clamp(min=0)
        x = F.max_pool2d(x, 2)
    if head == "dense":  # the paper's layers on every 7x7 window, averaged
        weights, h, w = take(6), x.shape[2] - 6, x.shape[3] - 6
        windows = [x[:, :, i : i + 7, j : j + 7].flatten(1) for i in range(h) for j in range(w)]
        return torch.stack(
            [three_layers(window, [t.flatten(1) if t.ndim > 1 else t for t in weights]) for window in windows]
        ).mean(0)
    if head == "paper":
        return three_layers(F.adaptive_avg_pool2d(x, 7).flatten(1), take(6))
    if head == "folded":
        return three_layers(x[:, :, 0, 0], take(6))
    if head == "grid":
        x = F.adaptive_avg_pool2d(x, 4).flatten(1)
        x = x / x.square().sum(1, keepdim=True).sqrt()
    else:
        x = x.mean((2, 3))
    weight, bias = take(2)
    return x @ weight.T + bias


def three_layers(x, weights):
    """4096, 4096, num_classes."""
    for number in range(0, 6, 2):
        x = x @ weights[number].T + weights[number + 1]
        x = x.clamp(min=0) if number < 4 else x
    return x


@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if resolve(name).column not in STRIDED])
@pytest.mark.parametrize(
    ("head", "size"),
    [("paper", 32), ("cifar", 32), ("gap", 45), ("grid", 45), ("folded", 63), ("dense", 260)],
)
def test_every_model_and_head_gives_the_logits_of_plain_loops(name, head, size, monkeypatch):
    """Oracle: functions of PyTorch in the order of the paper's table, typed by hand, with the same parameters."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 8)
    torch.manual_seed(0)
    model = build(name, num_classes=7, head=head, width=0.06).eval()
    for key, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-bound, bound)
        elif tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if key.endswith("running_var") else tensor.uniform_(-0.2, 0.5)
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected = loops(name, head, model.state_dict(), images)
        assert expected.shape == (2, 7)
        assert relative_difference(model(images), expected) < 1e-4


def test_width_scales_the_convolutions_only():
    """Oracle: hand count. Halved channels; fc6 sees 256 x 49 inputs and still has 4096 outputs."""
    model = build("vgg16", width=0.5, init=None)
    assert model.features.conv1_1.out_channels == 32
    assert model.features.conv5_3.out_channels == 256
    assert model.head.fc6.weight.shape == (4096, 256 * 49)
    assert model.head.fc7.weight.shape == (4096, 4096)


def test_he_initialization_is_the_articles():
    """Oracle: He et al., fan out: sd sqrt(2 / (9 * out)) for convolutions; 0.01 for linear layers; biases 0."""
    torch.manual_seed(0)
    model = build("vgg11_bn", head="paper", num_classes=10)
    assert model.features.conv4_2.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert model.head.fc7.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert model.head.fc8.bias.abs().max() == 0
    assert torch.equal(model.features.bn4_2.weight, torch.ones(512))
    assert torch.equal(model.features.bn4_2.running_var, torch.ones(512))


def test_gaussian_and_glorot_initialization():
    """Oracle: the paper's variance 1e-2; Glorot's bound sqrt(6 / (fan_in + fan_out))."""
    torch.manual_seed(0)
    assert build("A", head="gap", init="gaussian").features.conv4_2.weight.std().item() == pytest.approx(0.1, rel=0.01)
    glorot = build("A", head="gap", init="glorot").features.conv4_1.weight
    bound = (6 / (9 * 256 + 9 * 512)) ** 0.5
    assert 0.99 * bound < glorot.abs().max().item() <= bound


def test_dirac_passes_images_through():
    """Oracle: an identity kernel leaves its channel as it is."""
    conv = build("vgg11", head="gap", init="dirac").features.conv1_1
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(conv(images)[:, :3], images)


def test_init_none_takes_weights_by_a_plain_load():
    """Oracle: the model that the weights came from."""
    model = build("vgg11", head="gap", width=0.1, num_classes=3).eval()
    empty = build("vgg11", head="gap", width=0.1, num_classes=3, init=None).eval()
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(empty(images), model(images))


def test_a_model_without_weights_says_so():
    """Oracle: the meta device holds no values."""
    with pytest.raises(InputError, match="without weights"):
        build("vgg11", head="gap", init=None)(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    "field", [{"name": 5}, {"name": None}, {"width": "wide"}, {"dropout": "a"}, {"num_classes": True}], ids=str
)
def test_values_of_another_type_are_named(field):
    """Oracle: the documented types."""
    with pytest.raises(ConfigError, match=f"{next(iter(field)).replace('name', 'model')}"):
        build(**{"name": "vgg11", **field})


def test_nothing_works_in_place():
    """Oracle: hooks on every layer see the outputs that the next layers leave untouched."""
    model = build("vgg16_bn", head="paper", num_classes=3, width=0.1).train()
    kept = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, output: kept.append((output, output.detach().clone())))
    model(torch.randn(2, 3, 32, 32))
    assert len(kept) > 40
    assert all(torch.equal(output, copied) for output, copied in kept)


@settings(max_examples=25)
@given(
    height=st.integers(1, 70), width=st.integers(1, 70), channels=st.integers(1, 5), batch=st.integers(0, 3),
)  # fmt: skip
def test_any_image_gives_logits_or_one_clear_error(height, width, channels, batch):
    """Oracle: the documented rule, at least 32 pixels each side and the model's channels."""
    model = build("vgg11", head="gap", num_classes=4, in_channels=3, init=None)
    images = torch.empty(batch, channels, height, width, device="meta")
    if channels == 3 and min(height, width) >= 32:
        assert model(images).shape == (batch, 4)
    else:
        with pytest.raises(InputError, match="at least 32x32" if channels == 3 else r"\(N, 3, H, W\)"):
            model(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "big"}, "cifar"),
        ({"init": "orthogonal"}, "glorot"),
        ({"width": 0}, "width"),
        ({"num_classes": 0}, "num_classes"),
        ({"dropout": 1.0}, "dropout"),
        ({"in_channels": -1}, "in_channels"),
    ],
)
def test_impossible_options_say_what_is_possible(options, message):
    """Oracle: the message names the field or the choices."""
    with pytest.raises(ConfigError, match=message):
        build("vgg11", **options)


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn", "A-LRN"])
def test_without_head_the_network_gives_the_last_map(name):
    """Oracle: the features themselves; five pools halve 96 x 70 pixels to 3 x 2; the number of classes says nothing."""
    model = build(name, head="none", width=0.1, num_classes=7).eval()
    images = torch.randn(2, 3, 96, 70)
    with torch.inference_mode():
        assert torch.equal(model(images), model.features(images))
    assert model(images).shape == (2, 51, 3, 2)
    assert model.num_classes == 0
    assert num_parameters(model.head) == 0


def test_the_features_of_vgg16_are_59_megabytes():
    """Oracle: the paper's table, counted by hand elsewhere: 14,714,688 parameters."""
    assert num_parameters(build("vgg16", head="none", init=None)) == 14_714_688


def test_conversions_refuse_other_heads():
    """Oracle: each names the head that it takes."""
    model = build("vgg11", head="gap", init=None)
    for convert, head in ((to_dense, "paper"), (from_dense, "dense"), (fold_repeated_pool, "paper")):
        with pytest.raises(ConfigError, match=f'head="{head}"'):
            convert(model)
