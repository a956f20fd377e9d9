"""Dense answers: the score map is that of the head as convolutions and of every window alone; tiles change nothing."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vggnet.models.dense import dense_logits, feature_map, reach, score_map, sliding
from vggnet.models.vgg import build, to_dense


def network(name="vgg11", head="paper", **options):
    torch.manual_seed(0)
    return build(name, num_classes=3, head=head, width=0.05, **options).eval()


def same(pixels):
    return pixels


@pytest.fixture(scope="module")
def paper():
    return network()


@given(st.integers(7, 9), st.integers(7, 12), st.integers(1, 2))
@settings(max_examples=4)
def test_the_score_map_is_the_layers_as_convolutions(paper, height, width, n):
    """Oracle: PyTorch's convolutions with the fully connected layers' weights, reshaped here."""
    features = torch.randn(n, paper.head.fc6.in_features // 49, height, width)
    x = features
    for layer in (paper.head.fc6, paper.head.fc7, paper.head.fc8):
        kernel = 7 if layer is paper.head.fc6 else 1
        weight = layer.weight.view(layer.out_features, x.shape[1], kernel, kernel)
        x = F.conv2d(x, weight, layer.bias)
        x = x if layer is paper.head.fc8 else x.relu()
    with torch.inference_mode():
        found = score_map(paper, features, 7)
    torch.testing.assert_close(found, x.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("head", "crop"), [("paper", 224), ("paper", 64), ("paper", 32), ("cifar", 32), ("folded", 32)]
)
def test_the_score_map_is_the_head_on_every_window(head, crop):
    """Oracle: windows cut out one by one, each answered alone."""
    model, window = network(head=head), crop // 32
    images = torch.randn(2, 3, crop + 70, crop + 40)
    with torch.inference_mode():
        features = model.features(images)
        found = score_map(model, features, window)
        assert found.shape == (2, 3, (crop + 70) // 32 - window + 1, (crop + 40) // 32 - window + 1)
        for row in range(found.shape[2]):
            for column in range(found.shape[3]):
                alone = model.head(features[:, :, row : row + window, column : column + window])
                torch.testing.assert_close(found[:, :, row, column], alone, rtol=1e-4, atol=1e-5)
        answer = dense_logits(model, images, same, window=window, max_pixels=10**9)
        torch.testing.assert_close(answer, found.mean((2, 3)))


def test_a_large_photo_is_worked_through_in_pieces():
    """Oracle: the limits; what the features and the head are given at once."""
    model, sizes, windows = network("vgg16"), [], []
    model.features = model.features[:1] + torch.nn.Sequential(torch.nn.AvgPool2d(32, 32))
    model.features[0].register_forward_pre_hook(lambda layer, given: sizes.append(given[0][0, 0].numel()))
    model.head = torch.nn.Sequential(torch.nn.AvgPool2d(7), torch.nn.Flatten())
    model.head.register_forward_pre_hook(lambda layer, given: windows.append(len(given[0])))
    pixels, limit = torch.zeros(1, 3, 3000, 4000, dtype=torch.uint8), 32 * 224**2
    with torch.inference_mode():
        answer = dense_logits(model, pixels, torch.Tensor.float, window=7, max_pixels=limit)
    assert answer.shape == (1, model.features[0].out_channels)
    assert max(sizes) <= limit
    assert sum(windows) == (93 - 6) * (125 - 6)
    assert max(windows) <= 512


def test_dense_answers_are_those_of_the_dense_head(paper):
    """Oracle: `to_dense`, whose head is made of convolutions."""
    images = torch.randn(2, 3, 260, 330)
    with torch.inference_mode():
        expected = to_dense(paper)(images)
        found = dense_logits(paper, images, same, window=7, max_pixels=10**9)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["paper", "gap"])
def test_an_image_of_the_crop_is_answered_as_ever(head):
    """Oracle: the network itself."""
    model, images = network(head=head), torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        found = dense_logits(model, images, same, window=7, max_pixels=10**9)
        torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg11_lrn", "vgg13_bn", "vgg16_1x1", "vgg16", "vgg19"])
def test_tiles_give_the_map_of_the_whole(name):
    """Oracle: the whole image at once. Sizes that no pool divides; tiles of 8 cells beside their margins."""
    model, images = network(name, "gap", init="he"), torch.randn(1, 3, 32 * 17 + 13, 32 * 9 + 31)
    sizes = []
    model.features.conv1_1.register_forward_pre_hook(lambda layer, given: sizes.append(given[0].shape[2:]))
    with torch.inference_mode():
        whole = feature_map(model, images, same, 10**9)
        assert len(sizes) == 1
        tiled = feature_map(model, images, same, 1000)
    assert whole.shape == tiled.shape == (1, whole.shape[1], 17, 9)
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item())
    assert len(sizes) == 1 + 3 * 2
    assert max(max(size) for size in sizes[1:]) <= 32 * (8 + 2 * reach(model)) + 31


@pytest.mark.parametrize(
    ("name", "pixels"), [("vgg11", 59), ("vgg13", 62), ("vgg16_1x1", 62), ("vgg16", 90), ("vgg19", 118)]
)
def test_the_margin_covers_what_a_cell_sees(name, pixels):
    """Oracle: the gradient of one cell with respect to the image: how far beyond its 32 pixels it is not zero."""
    model = network(name, "gap")
    for layer in model.features:  # no weight may hide a connection
        if hasattr(layer, "weight"):
            torch.nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    image = torch.rand(1, 3, 352, 352, requires_grad=True)
    for index, layer in enumerate(model.features):
        if isinstance(layer, torch.nn.MaxPool2d):  # of equal pixels it would take one
            model.features[index] = torch.nn.AvgPool2d(2)
    model.features(image)[0, :, 5, 5].sum().backward()
    seen = image.grad[0].abs().sum(0).nonzero()
    assert seen.min(0).values.tolist() == [160 - pixels] * 2
    assert seen.max(0).values.tolist() == [191 + pixels] * 2
    assert 32 * reach(model) >= pixels > 32 * (reach(model) - 1)


@pytest.mark.parametrize(("head", "crop", "window"), [("paper", 224, 7), ("paper", 64, 2), ("cifar", 32, 1)])
def test_the_window_is_the_map_of_a_crop(head, crop, window):
    """Oracle: by hand."""
    model = network(head=head)
    assert sliding(model, crop) == (model, window)


def test_a_head_of_convolutions_keeps_its_window():
    """Oracle: the network itself, on crops that have more windows than one."""
    model = network(head="dense")
    slides, window = sliding(model, 260)
    images = torch.randn(1, 3, 260, 330)
    with torch.inference_mode():
        found = dense_logits(slides, images, same, window=window, max_pixels=10**9)
        torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)
