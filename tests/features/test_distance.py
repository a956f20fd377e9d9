"""What all four distances promise: half precision, tracers, ranges, weights of layers."""

import copy

import pytest
import torch

import vggnet
from vggnet.errors import ConfigError, InputError
from vggnet.features.perceptual import DISTANCES, DISTS, LPIPS, ContentDistance, StyleDistance

pytest.importorskip("lpips")
pytest.importorskip("DISTS_pytorch")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = vggnet.create_model("vgg16", head="none")
    model.preprocess = vggnet.Preprocess.imagenet()
    for parameter in model.parameters():  # features as large as those of trained weights: their squares overflow
        parameter.data.mul_(1.35)
    return model


@pytest.fixture(scope="module", params=DISTANCES)
def distance(request, network):
    return DISTANCES[request.param](network)


@pytest.fixture(scope="module")
def pair():
    random = torch.Generator().manual_seed(1)
    return torch.rand(2, 1, 3, 32, 32, generator=random).mul(2).sub(1).unbind()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("way", ["inputs", "autocast", "module", "default"])
def test_every_precision(distance, network, pair, dtype, way):
    """Oracle: float32, of the images as this type has them; the gradient too."""
    images, others = (image.to(dtype) for image in pair)
    expected = distance(images.float(), others.float())
    images.requires_grad_()
    if way == "autocast" and dtype != torch.float64:
        with torch.autocast("cpu", dtype=dtype):
            found = distance(images, others)
    elif way == "module":
        found = copy.deepcopy(distance).to(dtype)(images, others)
    elif way == "default":
        torch.set_default_dtype(dtype)
        try:
            found = type(distance)(network)(images, others)
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        found = distance(images, others)
    loose = way == "module" and dtype != torch.float64
    torch.testing.assert_close(found.detach().float(), expected, rtol=0.05 if loose else 1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0 or dtype == torch.float16


def test_tracers(distance, pair):
    """Oracle: the distance itself."""
    expected = distance(*pair)
    ways = {
        "compile": torch.compile(distance, fullgraph=True, backend="eager"),
        "export": torch.export.export(distance, pair).module(),
        "parallel": torch.nn.DataParallel(distance),
    }
    for name, found in ways.items():
        torch.testing.assert_close(found(*pair), expected, rtol=1e-3, atol=1e-6, msg=name)
    mapped = torch.vmap(distance)(*(image[None] for image in pair))
    torch.testing.assert_close(mapped[0], expected, rtol=1e-3, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(distance(*pair), expected)


def test_fx_is_refused(distance):
    """Oracle: the documented limit, in one line that names what works."""
    with pytest.raises(InputError, match=r"torch.fx cannot trace .*torch.export") as error:
        torch.fx.symbolic_trace(distance)
    assert "\n" not in str(error.value)


def test_inference_mode_leaves_gradients_alone(distance, pair):
    """Oracle: the gradient before, where the same module was used in inference_mode in between."""
    images = pair[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(distance(images, pair[1]).sum(), images)
    with torch.inference_mode():
        distance(*pair)
    (found,) = torch.autograd.grad(distance(images, pair[1]).sum(), images)
    assert torch.equal(found, expected)


def test_no_distance_is_below_zero(distance):
    """Oracle: a distance of a picture with itself is 0, and with one that nearly is the same not below."""
    for seed in range(3):
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        assert distance(image, image).item() == 0
        assert distance(image, (image + 1e-6).clamp(-1, 1)).item() >= 0


def test_images_in_zero_to_one(distance, pair):
    """Oracle: the same images in [-1, 1]."""
    units = [(image + 1) / 2 for image in pair]
    torch.testing.assert_close(distance(*units, normalize=True), distance(*pair), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        distance(*pair, normalize=True)


@pytest.mark.parametrize("make", [ContentDistance, StyleDistance])
def test_weights_of_layers(network, pair, make):
    """Oracle: the layers one by one."""
    one, two = (make(network, layer)(*pair) for layer in ("relu1_2", "relu2_1"))
    torch.testing.assert_close(make(network, {"relu2_1": 3.0, "relu1_2": 0.5})(*pair), 0.5 * one + 3 * two)
    torch.testing.assert_close(make(network, ["relu1_2", "relu2_1"])(*pair), (one + two) / 2)
    with pytest.raises(ConfigError, match="at least 0"):
        make(network, {"relu1_2": -1.0})


@pytest.mark.parametrize("make", [LPIPS, DISTS])
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"relu1_1": 1.0}, "relu1_1"),
        ({"relu1_2": -1.0}, "at least 0"),
        ({"relu1_2": float("nan")}, "at least 0"),
        (["relu1_2"], "{layer: weight}"),
        ("relu1_2", "{layer: weight}"),
    ],
)
def test_weights_that_layers_of_learned_distances_cannot_have(network, make, layers, message):
    """Oracle: the contract: one line that names what is wrong, and the layers that there are."""
    with pytest.raises(ConfigError) as error:
        make(network, layers=layers)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
