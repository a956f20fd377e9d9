"""Attributions: by hand, by loops, by their axioms, and as other packages compute them."""

import sys

import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam

from vggnet.errors import ConfigError, MissingDependencyError
from vggnet.interpret.attributions import (
    cam_layers,
    default_layer,
    enlarged,
    grad_cam,
    grad_cam_plus_plus,
    guided_backpropagation,
    integrated_gradients,
    layer_cam,
    maps_and_gradients,
    num_windows,
    occlusion,
    score_cam,
)

MAPS = torch.tensor([[[[1.0, 0.0], [2.0, 1.0]], [[0.0, 3.0], [1.0, 0.0]]]])
GRADIENTS = torch.tensor([[[[1.0, -2.0], [0.0, 3.0]], [[-1.0, -1.0], [2.0, -2.0]]]])


def test_grad_cam_by_hand():
    """Oracle: worked by hand. The means of the gradients are 1/2 and -1/2."""
    expected = torch.tensor([[[0.5, 0.0], [0.5, 0.5]]])
    torch.testing.assert_close(grad_cam(MAPS, GRADIENTS), expected)


def test_grad_cam_plus_plus_by_hand():
    """Oracle: worked by hand. Both maps add up to 4: alpha is 1/6 for a gradient of 1, 1/10 for 2, 1/14 for 3.

    So the weights are 1/6 + 3/14 = 8/21 and 2/10 = 1/5.
    """
    expected = torch.tensor([[[8 / 21, 3 / 5], [16 / 21 + 1 / 5, 8 / 21]]])
    torch.testing.assert_close(grad_cam_plus_plus(MAPS, GRADIENTS), expected)


def test_grad_cam_plus_plus_by_its_formula():
    """Oracle: equation 19 in loops, with squares and cubes, where a gradient is not 0."""
    random = torch.Generator().manual_seed(0)
    maps, gradients = torch.rand(2, 3, 4, 5, generator=random), torch.randn(2, 3, 4, 5, generator=random)
    expected = torch.zeros(2, 4, 5)
    for n in range(2):
        for c in range(3):
            weight = 0.0
            for g in gradients[n, c].flatten().tolist():
                alpha = g**2 / (2 * g**2 + sum(maps[n, c].flatten().tolist()) * g**3)
                weight += alpha * max(g, 0)
            expected[n] += weight * maps[n, c]
    torch.testing.assert_close(grad_cam_plus_plus(maps, gradients), expected.clamp_min(0))


@pytest.mark.parametrize("layer", ["relu2_1", "relu4_2", "pool3"])
def test_maps_and_gradients_are_the_networks(network, image, layer):
    """Oracle: a hook that keeps the output of the layer, and PyTorch's gradient of the logit with respect to it."""
    network.eval()
    kept = []
    handle = getattr(network.features, layer).register_forward_hook(lambda module, given, output: kept.append(output))
    logit = network(image)[0, 1]
    handle.remove()
    (expected,) = torch.autograd.grad(logit, kept[0])
    maps, gradients = maps_and_gradients(network, image, 1, layer)
    torch.testing.assert_close(maps, kept[0])
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("layer", ["relu2_1", "relu4_2"])
def test_grad_cam_is_captums(network, image, layer):
    """Oracle: captum's LayerGradCam, which uses hooks on the whole network, and its interpolation."""
    network.eval()
    method = LayerGradCam(network, getattr(network.features, layer))
    cam = method.attribute(image, target=2, relu_attributions=True)
    expected = LayerAttribution.interpolate(cam, tuple(image.shape[2:]), interpolate_mode="bilinear")[:, 0].detach()
    found = enlarged(grad_cam(*maps_and_gradients(network, image, 2, layer)), image.shape[2:])
    assert found.max() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
@pytest.mark.parametrize("layer", ["relu2_1", "relu3_2"])
def test_the_package_grad_cam_agrees(network, image, method, layer):
    """Oracle: pytorch-grad-cam, which scales its maps to 0..1, and adds 1e-6 to a denominator: large gradients."""
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network.eval()
    with torch.no_grad():
        network.head.fc.weight.mul_(1000)
    kind, ours = {"gradcam": (GradCAM, grad_cam), "gradcam++": (GradCAMPlusPlus, grad_cam_plus_plus)}[method]
    with kind(network, [getattr(network.features, layer)]) as cam:
        expected = torch.from_numpy(cam(image, [ClassifierOutputTarget(2)]))
    found = enlarged(ours(*maps_and_gradients(network, image, 2, layer)), image.shape[2:])
    assert found.max() > found.min()
    found = (found - found.min()) / (found.max() - found.min())
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [("vgg16", 224, "relu5_3"), ("vgg16_bn", 32, "relu4_3"), ("vgg8_bn", 32, "relu4_1"), ("vgg19", 63, "relu4_4")],
)
def test_the_default_layer(make_network, name, size, layer):
    """Oracle: by hand: the map of block b is size >> (b - 1) places wide, and must be at least 4."""
    assert default_layer(make_network(name), size) == layer


def test_layers_for_grad_cam_are_not_negative(make_network):
    """Oracle: the names: a convolution and a norm give negative values."""
    assert cam_layers(make_network("vgg11_lrn"))[:3] == ["relu1_1", "lrn1_1", "pool1"]


def test_integrated_gradients_are_complete(network, image):
    """Oracle: the axiom of completeness: the sum is the difference of both logits; 256 steps come within 1 %."""
    network.eval()
    seen = []
    values, rise, delta = integrated_gradients(network, image, 1, steps=256, seen=seen.append)
    with torch.no_grad():
        difference = (network(image) - network(torch.zeros_like(image)))[0, 1].item()
    assert values.shape == image.shape[2:]
    assert rise == pytest.approx(difference, rel=1e-4)
    assert values.sum().item() == pytest.approx(difference, rel=0.01)
    assert delta == pytest.approx(values.sum().item() - difference, abs=1e-4)
    assert sum(seen) == 256


def test_integrated_gradients_of_a_square(network, image):
    """Oracle: by hand: of sum(x^2) the integral of the gradient 2 a x over a, times x, is x^2."""
    network.forward = lambda images: images.square().sum((1, 2, 3)).unsqueeze(1)
    values, _, delta = integrated_gradients(network, image, 0, steps=4, seen=lambda count: None)
    torch.testing.assert_close(values, image[0].square().sum(0))
    assert abs(delta) < 1e-2


@pytest.mark.parametrize(("window", "stride"), [(9, 9), (12, 5), (36, 36)])
def test_occlusion_is_what_a_loop_finds(network, image, window, stride):
    """Oracle: each square hidden by itself; a pixel has the mean of those over it. The last reach over the edge."""
    network.eval()
    size, seen = image.shape[-1], []
    found = occlusion(network, image, 2, window=window, stride=stride, seen=seen.append)
    total, count = torch.zeros(size, size), torch.zeros(size, size)
    starts = [*range(0, size - window, stride), -(-(size - window) // stride) * stride]
    with torch.no_grad():
        whole = network(image)[0, 2]
        for top in starts:
            for left in starts:
                hidden = image.clone()
                hidden[:, :, top : top + window, left : left + window] = 0
                total[top : top + window, left : left + window] += whole - network(hidden)[0, 2]
                count[top : top + window, left : left + window] += 1
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=1e-3)
    assert found.abs().max() > 0
    assert sum(seen) == len(starts) ** 2 + 1 == num_windows(size, window, stride) + 1


@pytest.mark.parametrize(
    ("window", "stride", "named"), [(37, 1, "36"), (0, 1, "window"), (4, 5, "stride"), (4, 0, "4")]
)
def test_squares_that_do_not_cover_the_image(window, stride, named):
    """Oracle: by hand."""
    with pytest.raises(ConfigError, match=named):
        num_windows(36, window, stride)


def test_a_package_that_is_missing(network, image, monkeypatch):
    """Oracle: the command that installs it."""
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vggnet\[explain\]'"):
        integrated_gradients(network, image, 1, steps=2, seen=lambda count: None)


def test_layer_cam_by_hand():
    """Oracle: worked by hand: only places with positive gradients count, each with its own."""
    expected = torch.tensor([[[1.0, 0.0], [2.0, 3.0]]])
    torch.testing.assert_close(layer_cam(MAPS, GRADIENTS), expected)


def test_score_cam_by_its_algorithm(network, image):
    """Oracle: algorithm 1 in loops, a pass of the network for each channel; one channel is the same everywhere."""
    network.eval()
    with torch.no_grad():
        network.features.bn3_2.weight[0] = 0
        maps = network.features[: 1 + [n for n, _ in network.features.named_children()].index("relu3_2")](image)[0]
        rises = []
        for channel in maps:
            mask = torch.nn.functional.interpolate(channel[None, None], list(image.shape[2:]), mode="bilinear")[0, 0]
            flat = mask.max() == mask.min()
            mask = torch.zeros_like(mask) if flat else (mask - mask.min()) / (mask.max() - mask.min())
            rises.append(network(image * mask)[0, 1] - network(torch.zeros_like(image))[0, 1])
        weights = torch.stack(rises).exp() / torch.stack(rises).exp().sum()
        expected = sum(weight * channel for weight, channel in zip(weights, maps, strict=True)).clamp_min(0)
    seen = []
    found = score_cam(network, image, 1, "relu3_2", seen=seen.append)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert sum(seen) == len(maps)


def test_guided_backpropagation_by_its_definition(network, image):
    """Oracle: hooks of our own, whose gradient keeps what is positive in the input and in the gradient."""
    network.eval()
    network.requires_grad_(False)

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.clamp_min(0)

        @staticmethod
        def backward(context, gradient):
            return gradient.clamp_min(0) * (context.saved_tensors[0] > 0)

    pixels = image.clone().requires_grad_()
    x = pixels
    for name, layer in network.features.named_children():
        x = Guided.apply(x) if name.startswith("relu") else layer(x)
    (expected,) = torch.autograd.grad(network.head(x)[0, 2], pixels)
    torch.testing.assert_close(guided_backpropagation(network, image, 2), expected[0].sum(0), rtol=1e-4, atol=1e-7)
