"""Perceptual distances: equal to their authors' own programs, differentiable everywhere, strict about their input."""

import json
import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models.vgg import cfgs, make_layers

import vggnet
from vggnet.cli.main import main
from vggnet.errors import ConfigError, InputError, MissingDependencyError, WeightsError
from vggnet.features import distance as distance_module
from vggnet.features import dists, perceptual
from vggnet.features.distance import LAYERS
from vggnet.features.lpips import HEADS_FILE
from vggnet.weights.checkpoint import FEATURES_FILE, Checkpoint

FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers17" / "train"


def pair(n=2, height=32, width=48, seed=0, near=0.5):
    """Images in [-1, 1], and others that look much like them."""
    generator = torch.Generator().manual_seed(seed)
    images = 2 * torch.rand(n, 3, height, width, generator=generator) - 1
    return images, (1 - near) * images + near * (2 * torch.rand(images.shape, generator=generator) - 1)


@pytest.fixture(scope="module", params=["direct", "winograd4"])
def engine(request):
    """PyTorch's convolutions, and ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGGNET_CONV", request.param)
        yield request.param


def theirs(make, stock):
    """Another package's distance on our random weights, instead of a download."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr("torchvision.models.vgg16", lambda **_: SimpleNamespace(features=make_layers(cfgs["D"])))
        patch.setattr("sys.prefix", "/nowhere")
        module = make()
    convolutions = [tensor for name, tensor in module.state_dict().items() if _is_conv(name)]
    for found, given_tensor in zip(convolutions, stock.state_dict().values(), strict=True):
        found.copy_(given_tensor)
    return module.requires_grad_(False).eval()


def _is_conv(name):
    return name.split(".")[-1] in ("weight", "bias") and not name.startswith("lin")


@pytest.fixture(scope="module")
def lpips_package(stock, heads):
    """Oracle: the package lpips 0.1.4 with the same weights."""
    lpips = pytest.importorskip("lpips", reason="the package lpips is not installed")

    def build(**options):
        module = theirs(
            lambda: lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False, **options), stock
        )
        for layer, head in zip(module.lins, heads, strict=True):
            layer.model[-1].weight.copy_(head.view(1, -1, 1, 1))
        return module

    return build


@pytest.fixture(scope="module")
def lpips_ours(weights):
    return perceptual.LPIPS(weights)


@pytest.fixture(scope="module")
def lpips_exact(weights):
    return perceptual.LPIPS(weights, exact=True)


def both_gradients(ours, other, images, others):
    """Distances and gradients for both images by two programs."""
    found = []
    for distance in (ours, other):
        a, b = images.clone().requires_grad_(), others.clone().requires_grad_()
        values = distance(a, b).flatten()
        found.append((values.detach(), *torch.autograd.grad(values.sum(), [a, b])))
    return zip(*found, strict=True)


def photos():
    """Real pairs, with flat and dark parts, where ReLUs and pools are undecided."""
    files = sorted(FLOWERS.glob("*/image_000*.jpg"))[:4] or sorted(FLOWERS.rglob("*.jpg"))[:4]
    if not files:
        pytest.skip("../shared/data/flowers17 is not here")
    pixels = [np.asarray(Image.open(file).convert("RGB").resize((96, 64))) for file in files]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1
    images[0, :, :20] = 1
    return images[:2], images[2:]


@pytest.mark.parametrize("images", [pair, photos, lambda: (photos()[0], (photos()[0] + 0.1).clamp(-1, 1))])
def test_lpips_is_that_of_its_authors(lpips_package, lpips_ours, lpips_exact, engine, images):
    """Oracle: the package lpips 0.1.4, gradients of both images included."""
    images = images()
    values, *gradients = both_gradients(lpips_exact, lpips_package(), *images)
    assert torch.allclose(*values, rtol=1e-5, atol=1e-5)
    for found, expected in gradients:
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    with torch.no_grad():
        assert torch.allclose(lpips_ours(*images), values[1], rtol=1e-5, atol=1e-5)
    wanted = [tensor.clone().requires_grad_() for tensor in images]
    assert torch.allclose(lpips_ours(*wanted), values[1], rtol=1e-5, atol=1e-5)


def test_heads_of_the_package(lpips_ours, weights, tmp_path):
    """Oracle: the package's own reading of its file."""
    lpips = pytest.importorskip("lpips", reason="the package lpips is not installed")
    file = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    shutil.copy(weights / FEATURES_FILE, tmp_path)
    heads = perceptual.LPIPS(tmp_path).heads
    for index, tensor in enumerate(torch.load(file, map_location="cpu", weights_only=True).values()):
        assert torch.equal(heads[index], tensor[0, :, 0, 0])


def test_lpips_map_is_that_of_its_authors(lpips_package, lpips_ours, engine):
    """Oracle: the package lpips 0.1.4 with spatial=True."""
    with torch.no_grad():
        expected = lpips_package(spatial=True)(*pair(height=33))
        found = lpips_ours(*pair(height=33), spatial=True)
    assert found.shape == expected.shape == (2, 1, 33, 48)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_lpips_with_weights_of_layers(lpips_package, lpips_ours, weights):
    """Oracle: the terms of the layers by the package lpips 0.1.4 (retPerLayer); the map too."""
    images, others = pair()
    _, terms = lpips_package()(images, others, retPerLayer=True)
    _, maps = lpips_package(spatial=True)(images, others, retPerLayer=True)
    chosen = perceptual.LPIPS(weights, layers={"relu4_3": 0.25, "relu1_2": 2, "relu2_2": 0})
    with torch.no_grad():
        expected = 2 * terms[0] + 0.25 * terms[3]
        torch.testing.assert_close(chosen(images, others), expected.flatten(), rtol=1e-5, atol=1e-6)
        expected = 2 * maps[0] + 0.25 * maps[3]
        torch.testing.assert_close(chosen(images, others, spatial=True), expected, rtol=1e-5, atol=1e-6)
        same = perceptual.LPIPS(weights, layers=dict.fromkeys(["relu5_3", *list(LAYERS)[:-1]], 1))
        assert torch.equal(same(images, others), lpips_ours(images, others))


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_a_gradient_of_one_image_alone(lpips_ours, wanted):
    """Oracle: the gradients of both at once."""
    images, others = pair()
    both = [images.clone().requires_grad_(), others.clone().requires_grad_()]
    expected = torch.autograd.grad(lpips_ours(*both).sum(), both)[wanted.index(True)]
    one = [tensor.clone().requires_grad_(flag) for tensor, flag in zip((images, others), wanted, strict=True)]
    found = torch.autograd.grad(lpips_ours(*one).sum(), one[wanted.index(True)])[0]
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not any(parameter.requires_grad for parameter in lpips_ours.parameters())


@pytest.mark.parametrize("kind", ["noise", "black", "gray"])
def test_the_same_images_are_at_distance_0_without_nan(weights, kind, tmp_path):
    """Oracle: a distance's axioms; "gray" is the image whose features are zero everywhere, without biases."""
    tensors = load_file(weights / FEATURES_FILE)
    if kind == "gray":
        tensors = {name: tensor * (0 if name.endswith("bias") else 1) for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / FEATURES_FILE)
    shutil.copy(weights / HEADS_FILE, tmp_path)
    distance = perceptual.LPIPS(tmp_path)
    images = {
        "noise": pair()[0],
        "black": -torch.ones(1, 3, 32, 32),
        "gray": torch.tensor([2 * m - 1 for m in (0.485, 0.456, 0.406)]).view(1, 3, 1, 1).expand(1, 3, 32, 32),
    }[kind]
    a, b = images.clone().requires_grad_(), images.clone().requires_grad_()
    value = distance(a, b)
    value.sum().backward()
    assert value.abs().max() == 0
    assert (a.grad.abs().max(), b.grad.abs().max()) == (0, 0)
    other = pair(*images.shape[:1], *images.shape[2:])[1]
    (gradient,) = torch.autograd.grad(distance(a, other).sum(), a)
    assert gradient.isfinite().all()


@settings(max_examples=4)
@given(n=st.integers(1, 3), height=st.integers(16, 40), width=st.integers(16, 40), seed=st.integers(0, 99))
def test_lpips_of_any_size_is_symmetric_and_by_image(lpips_ours, n, height, width, seed):
    """Oracle: a distance's axioms, and each pair by itself."""
    images, others = pair(n, height, width, seed)
    with torch.no_grad():
        found = lpips_ours(images, others)
        assert found.shape == (n,)
        assert (found > 0).all()
        assert torch.allclose(lpips_ours(others, images), found, rtol=1e-4)
        alone = [lpips_ours(images[i : i + 1], others[i : i + 1])[0] for i in range(n)]
        assert torch.allclose(torch.stack(alone), found, rtol=1e-4)
        assert lpips_ours(images, others, spatial=True).shape == (n, 1, height, width)


@pytest.fixture(scope="module")
def dists_ours(weights):
    pytest.importorskip("DISTS_pytorch", reason="the package DISTS-pytorch is not installed")
    return perceptual.DISTS(weights)


def test_dists_is_that_of_its_authors(stock, dists_ours, weights, engine):
    """Oracle: the package DISTS-pytorch 0.1 with the same weights; it takes [0, 1]."""
    from DISTS_pytorch import DISTS

    package = theirs(lambda: DISTS(load_weights=False), stock)
    alpha, beta = dists._dists_weights()
    package.alpha.copy_(alpha.view(1, -1, 1, 1))
    package.beta.copy_(beta.view(1, -1, 1, 1))

    def original(images, others):
        return package((images + 1) / 2, (others + 1) / 2, require_grad=True)

    values, *gradients = both_gradients(perceptual.DISTS(weights, exact=True), original, *pair(height=48))
    assert torch.allclose(*values, atol=1e-5)
    wanted = [tensor.requires_grad_() for tensor in pair(height=48)]
    assert torch.allclose(dists_ours(*wanted), values[1], atol=1e-5)
    for found, expected in gradients:
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_dists_with_weights_of_layers(stock, dists_ours, weights):
    """Oracle: equations 4 to 6 layer by layer in NumPy, on the features of the package DISTS-pytorch 0.1."""
    from DISTS_pytorch import DISTS

    package = theirs(lambda: DISTS(load_weights=False), stock)
    images, others = pair(height=48)
    maps = [package.forward_once((x + 1) / 2) for x in (images, others)]
    alpha, beta = (np.split(x.double().numpy(), np.cumsum(package.chns)[:-1]) for x in dists._dists_weights())
    whole, terms = sum(x.sum() for x in (*alpha, *beta)), []
    for number, both in enumerate(zip(*maps, strict=True)):
        x, y = (values.double().numpy().reshape(*values.shape[:2], -1) for values in both)
        means = x.mean(2), y.mean(2)
        texture = (2 * means[0] * means[1] + 1e-6) / (means[0] ** 2 + means[1] ** 2 + 1e-6)
        covariance = (x * y).mean(2) - means[0] * means[1]
        structure = (2 * covariance + 1e-6) / (x.var(2) + y.var(2) + 1e-6)
        terms.append((alpha[number] * (1 - texture) + beta[number] * (1 - structure)).sum(1) / whole)
    chosen = perceptual.DISTS(weights, layers={"image": 3, "relu3_3": 0.5, "relu4_3": 0})
    assert np.allclose(chosen(images, others), 3 * terms[0] + 0.5 * terms[3], rtol=1e-4, atol=1e-6)
    same = perceptual.DISTS(weights, layers=dict.fromkeys(["image", *LAYERS], 1))
    assert torch.equal(same(images, others), dists_ours(images, others))
    assert np.allclose(dists_ours(images, others), sum(terms), rtol=1e-4)


def test_dists_of_the_same_images(dists_ours):
    """Oracle: a distance's axioms."""
    images = pair()[0].requires_grad_()
    value = dists_ours(images, images.detach().clone())
    value.sum().backward()
    assert value.abs().max() < 1e-5
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("make", [perceptual.LPIPS, perceptual.DISTS, perceptual.StyleDistance])
def test_a_distance_goes_where_it_is_sent(weights, make):
    """Oracle: in float64 it gives the same, with a gradient and without: all of it has moved."""
    if make is perceptual.DISTS:
        pytest.importorskip("DISTS_pytorch", reason="the package DISTS-pytorch is not installed")
    distance = make(weights)
    images, others = pair()
    with torch.no_grad():
        expected = distance(images, others)
    moved = distance.double()
    found = moved(images.double().requires_grad_(), others.double())
    assert found.dtype == torch.float64
    with torch.no_grad():
        assert torch.allclose(moved(images.double(), others.double()), found)
    assert torch.allclose(found.float(), expected, rtol=1e-3)


def test_content_and_style_by_the_paper(weights):
    """Oracle: equations 1, 3, 4 and 5 in NumPy, on taps of the same weights."""
    images, others = pair()
    shift, scale = np.array([-0.03, -0.088, -0.188]), np.array([0.458, 0.448, 0.45])
    normal = [
        torch.from_numpy(((x.numpy() - shift[:, None, None]) / scale[:, None, None]).astype(np.float32))
        for x in (images, others)
    ]
    layers = ["relu4_2", "relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
    taps = [
        {name: tap.double().numpy() for name, tap in vggnet.extract_features(weights, x, layers).items()}
        for x in normal
    ]
    content, style = np.zeros(2), np.zeros(2)
    for i in range(2):
        first, second = (tap["relu4_2"][i] for tap in taps)
        content[i] = 0.5 * ((first - second) ** 2).sum() / first.size
        for name in layers[1:]:
            flat = [tap[name][i].reshape(len(tap[name][i]), -1) for tap in taps]
            channels, places = flat[0].shape
            grams = [rows @ rows.T for rows in flat]
            style[i] += 0.2 * ((grams[0] - grams[1]) ** 2).sum() / (4 * channels**2 * places**2)
    with torch.no_grad():
        assert np.allclose(perceptual.ContentDistance(weights)(images, others), content, rtol=1e-3)
        assert np.allclose(perceptual.StyleDistance(weights)(images, others), style, rtol=1e-3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((1, 3, 32, 32), 1.01), r"expected RGB values in \[-1, 1\], but found 1.01 to 1.01"),
        (torch.full((1, 3, 32, 32), -2.0), "found -2 to -2"),
        (torch.full((1, 3, 32, 32), torch.nan), "found nan to nan"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"images / 127.5 - 1"),
        (torch.zeros(1, 1, 32, 32), r"Gray is RGB"),
        (torch.zeros(3, 32, 32), r"\(N, 3, H, W\)"),
        (torch.zeros(0, 3, 32, 32), r"\(0, 3, 32, 32\)"),
        (torch.zeros(1, 3, 15, 32), "at least 16x16 pixels, but got 15x32"),
    ],
)
def test_images_that_cannot_be_compared(lpips_ours, images, message):
    """Oracle: the contract."""
    sound = torch.zeros(images.shape)
    for given_pair in ((images, sound), (sound, images)):
        with pytest.raises(InputError, match=message):
            lpips_ours(*given_pair)
    with pytest.raises(InputError, match="must be the same"):
        lpips_ours(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 31))


def test_weights_that_are_not_for_it(weights, tmp_path, monkeypatch):
    """Oracle: the contract."""
    shutil.copy(weights / FEATURES_FILE, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(distance_module, "find_spec", lambda name: None)
        with pytest.raises(MissingDependencyError, match=r"lpips.* not installed; pip install 'vggnet\[distances\]'"):
            perceptual.LPIPS(tmp_path)
        with pytest.raises(MissingDependencyError, match=r"DISTS-pytorch.* pip install 'vggnet\[distances\]'"):
            perceptual.DISTS(weights)
    heads = load_file(weights / HEADS_FILE)
    save_file(heads | {"lin2": heads["lin2"][:5]}, tmp_path / HEADS_FILE)
    with pytest.raises(WeightsError, match=r"lin2 is \(5,\), expected \(256,\)"):
        perceptual.LPIPS(tmp_path / FEATURES_FILE)
    narrow = vggnet.create_model("vgg16", num_classes=2, head="gap", width=0.0625)
    narrow.preprocess = vggnet.Preprocess.imagenet()
    vggnet.save(narrow, tmp_path / "narrow" / "weights.safetensors")
    for make in (perceptual.LPIPS, perceptual.DISTS):
        if make is perceptual.LPIPS or find_spec("DISTS_pytorch"):
            with pytest.raises(WeightsError, match="VGG-16 at full width"):
                make(tmp_path / "narrow")
    gray = vggnet.create_model("vgg16", num_classes=2, head="gap", width=0.0625, in_channels=1)
    with pytest.raises(WeightsError, match="1 channels"):
        perceptual.ContentDistance(gray)
    with pytest.raises(ConfigError, match="no layer relu6_1"):
        perceptual.StyleDistance(narrow, layers=["relu6_1"])
    assert all(parameter.requires_grad for parameter in narrow.parameters())


@pytest.fixture
def sound(weights):
    return weights / FEATURES_FILE


def test_the_bare_convolutions_are_torchvisions(stock, sound):
    """Oracle: torchvision's layers; its preprocessing by its four numbers."""
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = stock(images)
    for source in (sound, sound.parent, str(sound)):
        assert torch.allclose(vggnet.extract_features(source, images, "pool5")["pool5"], expected, rtol=1e-4, atol=1e-4)
    preprocess = Checkpoint.open(sound).preprocess
    assert (preprocess.resize, preprocess.crop) == (256, 224)
    assert (preprocess.mean, preprocess.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("conv3_2.bias"), "conv3_2.bias is missing"),
        (lambda tensors: tensors.update(fc=torch.ones(1)), "fc does not belong"),
        (
            lambda tensors: tensors.update({"conv1_1.bias": torch.ones(63)}),
            r"conv1_1.bias is \(63,\), expected \(64,\)",
        ),
        (
            lambda tensors: tensors["conv1_1.bias"].fill_(torch.nan),
            "conv1_1.bias holds NaN or infinity",
        ),
        (
            lambda tensors: tensors.update({"conv1_1.bias": torch.ones(64, dtype=torch.int8)}),
            "bias has type torch.int8",
        ),
    ],
)
def test_other_tensors_are_refused(sound, tmp_path, damage, message):
    """Oracle: the contract."""
    tensors = load_file(sound)
    damage(tensors)
    save_file(tensors, tmp_path / FEATURES_FILE)
    with pytest.raises(WeightsError, match=message):
        vggnet.load(tmp_path)


def test_a_file_that_is_cut_short_is_refused(sound, tmp_path):
    """Oracle: the contract, at every 1/64 of the length."""
    path = Path(shutil.copy(sound, tmp_path))
    size = path.stat().st_size
    for part in reversed(range(64)):
        os.truncate(path, size * part // 64)
        with pytest.raises(WeightsError, match="not a sound safetensors file"):
            vggnet.load(tmp_path)


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code, *capsys.readouterr()


def test_the_command(weights, lpips_ours, tmp_path, capsys):
    """Oracle: LPIPS of the decoded pixels; one line for what cannot be compared."""
    random = np.random.default_rng(0)
    for name, size in (("a", (40, 32)), ("b", (40, 32)), ("c", (32, 40))):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    tensors = [torch.from_numpy(np.array(Image.open(tmp_path / f"{name}.png"))) / 127.5 - 1 for name in "ab"]
    with torch.no_grad():
        expected = lpips_ours(*(tensor.permute(2, 0, 1)[None] for tensor in tensors)).item()
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    options = ["--weights", weights, "--distances", "lpips", "content", "--json"]
    code, out, _ = command(capsys, "distance", a, b, *options)
    assert code == 0
    assert json.loads(out)["distances"]["lpips"] == pytest.approx(expected, rel=1e-3)
    code, out, _ = command(capsys, "distance", a, a, *options)
    assert json.loads(out)["distances"] == {"lpips": 0, "content": 0}
    code, out, err = command(capsys, "distance", a, c, *options)
    assert (code, out) == (2, "")
    assert "40 x 32" in err
    assert "32 x 40" in err
