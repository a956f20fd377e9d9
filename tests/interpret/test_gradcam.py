import pytest
import torch

from vggnet.interpret.gradcam import (
    cam_layers,
    default_layer,
    enlarged,
    grad_cam,
    grad_cam_plus_plus,
    maps_and_gradients,
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
