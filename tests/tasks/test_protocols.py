"""The paper's protocols against averages written out by hand, photo by photo, with torchvision's resize and crop."""

import json

import numpy as np
import pytest
import torch
from colors import Colors, Spoiled
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as tv

import vggnet
from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Subset
from vggnet.errors import ConfigError, DataError, ImageError, NonFiniteError
from vggnet.models.vgg import build, to_dense
from vggnet.tasks.protocols import Protocol, SixViews, default_batch_size, grid_crops, predict_split
from vggnet.weights.checkpoint import OpenModel, save

CLASSES = ("cat", "dog", "elk")
SIZES = [(120, 90), (120, 90), (90, 100), (96, 96), (200, 80), (97, 131)]  # width, height


@pytest.fixture
def photos(tmp_path):
    """Six photos of five sizes, two of each class."""
    random = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        file = tmp_path / "photos" / "test" / CLASSES[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    return tmp_path / "photos"


def network(seed=0, head="gap", crop=64, classes=CLASSES):
    torch.manual_seed(seed)
    model = build("vgg11_bn", num_classes=3, head=head, width=0.1, init="he").eval()
    model.classes = classes
    model.preprocess = Preprocess(resize=crop + 8, crop=crop, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    return model


def in_order(photos):
    """The photos as a test sees them: (image, label)."""
    files = [file for name in CLASSES for file in sorted((photos / "test" / name).iterdir())]
    return [(Image.open(file).convert("RGB"), CLASSES.index(file.parent.name)) for file in files]


def softmax(model, images):
    """PIL images of one size -> (N, 3) in float64."""
    pixels = torch.stack([tv.pil_to_tensor(image) for image in images]).double() / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.preprocess.mean, model.preprocess.std))
    with torch.no_grad():
        logits = model(((pixels - mean) / std).float()).double().numpy()
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def crops(image, scale, crop, kind):
    """The views of one photo at one scale, by torchvision."""
    image = tv.resize(image, [scale])
    if kind == "whole":
        return [image]
    if kind == "center":
        return [tv.center_crop(image, [crop])]
    down, right = image.height - crop, image.width - crop
    return [tv.crop(image, round(y * down / 4), round(x * right / 4), crop, crop) for y in range(5) for x in range(5)]


def by_hand(model, photos, kinds, scales, flip):
    """Mean softmax output (6, 3): over views, then over scales and kinds."""
    rows = []
    for image, _ in in_order(photos):
        passes = []
        for scale in scales:
            for kind in kinds:
                views = crops(image, scale, model.preprocess.crop, kind)
                if flip or kind == "grid":
                    views += [tv.horizontal_flip(view) for view in views]
                passes.append(softmax(model, views).mean(0))
        rows.append(np.mean(passes, 0))
    return np.array(rows)


def assert_scores(result, probabilities, photos):
    labels = [label for _, label in in_order(photos)]
    assert result.images == 6
    assert result.loss == pytest.approx(-np.log(probabilities[range(6), labels]).mean(), rel=1e-4)
    expected = np.zeros((3, 3), int)
    for label, predicted in zip(labels, probabilities.argmax(1), strict=True):
        expected[label, predicted] += 1
    assert np.array_equal(result.confusion, expected)


@pytest.mark.parametrize(
    ("protocol", "kinds", "scales", "flip", "views"),
    [
        ("single", ["center"], (), False, 1),
        ("single", ["center"], (80,), True, 2),
        ("multiscale", ["center"], (64, 72, 100), False, 3),
        ("multiscale", ["center"], (64, 100), True, 4),
        ("dense", ["whole"], (), False, 1),
        ("dense", ["whole"], (64, 96), True, 4),
        ("multicrop", ["grid"], (), False, 50),
        ("multicrop", ["grid"], (64, 72, 80), True, 150),
        ("dense+multicrop", ["whole", "grid"], (72, 96), True, 104),
        ("dense+multicrop", ["whole", "grid"], (72,), False, 51),
    ],
)
def test_a_protocol_is_the_average_by_hand(photos, protocol, kinds, scales, flip, views):
    """Oracle: torchvision's resize and crop and numpy's mean, on single photos; the views counted by hand."""
    model = network()
    result = vggnet.evaluate(model, data=photos, protocol=protocol, scales=scales, flip=flip, batch_size=7, workers=0)
    assert (result.protocol, result.scales, result.views) == (protocol, scales or (72,), views)
    assert_scores(result, by_hand(model, photos, kinds, scales or (72,), flip), photos)


@pytest.mark.parametrize("head", ["paper", "dense"])
def test_the_papers_head_slides_over_whole_photos(photos, head):
    """Oracle: the network with the dense head, on photos resized by torchvision."""
    model = network(head=head, crop=224)
    slides = to_dense(model) if head == "paper" else model
    result = vggnet.evaluate(model, data=photos, protocol="dense", scales=(230,), flip=True, workers=0)
    assert_scores(result, by_hand(slides, photos, ["whole"], (230,), True), photos)


def test_dense_equals_single_on_images_of_the_crop(tmp_path):
    """Oracle: the protocol single. On wider photos the two differ."""
    random, model = np.random.default_rng(0), network(head="paper", crop=224)
    losses = {}
    for width in (224, 320):
        for number in range(3):
            file = tmp_path / str(width) / "test" / CLASSES[number] / "1.png"
            file.parent.mkdir(parents=True)
            Image.fromarray(random.integers(0, 256, (224, width, 3), dtype=np.uint8)).save(file)
        for protocol in ("single", "dense"):
            tested = vggnet.evaluate(model, data=tmp_path / str(width), protocol=protocol, scales=(224,), workers=0)
            losses[width, protocol] = tested.loss
    assert losses[224, "dense"] == pytest.approx(losses[224, "single"], rel=1e-5)
    assert losses[320, "dense"] != pytest.approx(losses[320, "single"], rel=1e-5)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (1000, 0), (7, 2)])
def test_neither_batches_nor_workers_change_a_result(photos, batch_size, workers):
    """Oracle: the same test with other numbers."""
    model = network()
    options = {"data": photos, "protocol": "dense+multicrop", "scales": (66, 300)}
    expected = vggnet.evaluate(model, **options, batch_size=50, workers=0)
    result = vggnet.evaluate(model, **options, batch_size=batch_size, workers=workers)
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    assert result.confusion == expected.confusion


def test_several_networks_are_fused(photos):
    """Oracle: numpy's mean of their softmax outputs; networks of other crops, and with the classes in another order."""
    models = [network(0), network(1, crop=72), network(2, classes=("elk", "cat", "dog"))]
    order = [1, 2, 0]  # of cat, dog and elk in the third
    result = vggnet.evaluate(models, data=photos, protocol="single", flip=True, workers=0)
    parts = [by_hand(model, photos, ["center"], (model.preprocess.resize,), True) for model in models]
    parts[2] = parts[2][:, order]
    assert_scores(result, np.mean(parts, 0), photos)
    assert (result.model, result.scales, result.views) == ("vgg11_bn + vgg11_bn + vgg11_bn", (72, 80), 2)
    first_last = vggnet.evaluate(models[::-1], data=photos, protocol="single", flip=True, workers=0)
    assert first_last.classes == ("elk", "cat", "dog")
    assert first_last.per_class == result.per_class
    alone = vggnet.evaluate(models[:1], data=photos, workers=0)
    assert alone.loss == vggnet.evaluate(models[0], data=photos, workers=0).loss


def test_progress_counts_every_pass(photos):
    """Oracle: by hand: six photos, two scales, two kinds of views, two networks."""
    seen = []
    options = {"protocol": "dense+multicrop", "scales": (64, 72), "workers": 0}
    vggnet.evaluate([network(), network(1)], data=photos, progress=lambda *counts: seen.append(counts), **options)
    assert [total for _, total in seen] == [48] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (48, 48)


def test_small_images_are_tested_by_crops_and_densely():
    """Oracle: on images as large as the crop every view is the same, so all protocols agree."""
    model = network(head="cifar", crop=32)
    model.preprocess = Preprocess(resize=32, crop=32)
    model.classes = ("0", "1", "2")
    torch.manual_seed(0)
    model.head.fc = torch.nn.Linear(model.head.fc.in_features, 10)
    model.architecture = vggnet.Architecture(name="vgg11_bn", num_classes=10, head="cifar", width=0.1)
    model.classes = None
    losses = [
        vggnet.evaluate(model, data="digits", protocol=name, scales=(32,)).loss
        for name in ("single", "dense", "multiscale")
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "densest"}, "unknown protocol 'densest'.*single, multiscale, dense"),
        ({"scales": (64, 80)}, "single takes one scale, but 2 were given; take multiscale"),
        ({"name": "dense", "scales": (64, 0)}, "scale 0 cannot work"),
        ({"six_views": True, "flip": True}, "leave out protocol and flip"),
        ({"six_views": True, "name": "dense"}, "leave out protocol and flip"),
    ],
)
def test_protocols_that_cannot_work(options, message):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match=message):
        Protocol(**options)


@pytest.mark.parametrize(
    ("name", "scales", "expected"),
    [
        ("multiscale", (), (224, 256, 288)),  # the paper's section 4.2: S - 32, S, S + 32
        ("dense", (), (256,)),
        ("dense+multicrop", (), (256,)),
        ("dense", (256, 384, 512), (256, 384, 512)),
    ],
)
def test_scales(name, scales, expected):
    """Oracle: the paper."""
    assert Protocol(name=name, scales=scales).at(Preprocess()).scales == expected


@pytest.mark.parametrize(
    ("name", "scales", "message"),
    [
        ("dense", (256, 223), "scale 223 is smaller than the crop of 224 pixels"),
        ("multiscale", (), r"scale 198 is .*\(198, 230, 262 are the default of multiscale\)"),
    ],
)
def test_scales_below_the_crop(name, scales, message):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match=message):
        Protocol(name=name, scales=scales).at(Preprocess(resize=230))


def test_a_network_that_is_no_vgg_is_not_dense(photos):
    """Oracle: the contract. By crops it is tested."""
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 3))
    linear.classes, linear.num_classes, linear.preprocess = CLASSES, 3, Preprocess(resize=64, crop=64)
    assert vggnet.evaluate(linear, data=photos, protocol="multicrop", workers=0).images == 6
    with pytest.raises(ConfigError, match="for a VGG, not for a Sequential"):
        vggnet.evaluate(linear, data=photos, protocol="dense", workers=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_cannot_be_shown_whole_is_named(photos, workers):
    """Oracle: its path. Cut short; or so long that it would fill the memory."""
    broken = photos / "test" / "dog" / "1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    with pytest.raises(ImageError, match=r"dog/1\.png.*damaged or truncated"):
        vggnet.evaluate(network(), data=photos, protocol="dense", workers=workers)
    Image.new("RGB", (60_000, 2)).save(broken)
    with pytest.raises(ImageError, match=r"dog/1\.png.*too elongated.*89,478,485"):
        vggnet.evaluate(network(), data=photos, protocol="dense", workers=workers)


def test_a_diverged_network_is_not_hidden_by_the_mean(photos):
    """Oracle: the contract. One of a photo's views has an infinite logit; the mean of the softmax outputs is finite."""

    class Diverged(torch.nn.Module):
        classes, num_classes, preprocess = CLASSES, 3, Preprocess(resize=72, crop=64)

        def forward(self, images):
            logits = torch.zeros(len(images), 3)
            logits[0, 0] = -float("inf")
            return logits

    with pytest.raises(NonFiniteError):
        vggnet.evaluate(Diverged(), data=photos, protocol="multicrop", workers=0)


def vgg(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err.strip().splitlines()


def test_the_command(photos, tmp_path, capsys, own_cache):
    """Oracle: the library on the same networks; a run folder and a plain file are fused."""
    paths = [tmp_path / "run" / "weights.safetensors", tmp_path / "other.safetensors"]
    for seed, path in enumerate(paths):
        save(network(seed), path)
    options = ["--protocol", "dense", "--scales", "64,80", "--flip", "--workers", "0", "--json"]
    code, out, lines = vgg(capsys, "test", paths[0].parent, paths[1], "--data", photos, *options)
    assert (code, lines) == (0, [])
    answer = json.loads(out)
    expected = vggnet.evaluate(
        [network(0), network(1)], data=photos, protocol="dense", scales=(64, 80), flip=True, workers=0
    )
    assert (answer["protocol"], answer["scales"], answer["views"]) == ("dense", [64, 80], 4)
    assert answer["loss"] == pytest.approx(expected.loss, rel=1e-3)
    assert answer["model"] == f"{paths[0].parent} + {paths[1]}"
    assert not (paths[0].parent / "test.json").exists()
    code, out, _ = vgg(capsys, "test", paths[1], "--data", photos, "--protocol", "multicrop", "--workers", "0")
    assert code == 0
    assert "protocol multicrop, scale 72, mean softmax over 50 views of each image" in out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--scales", "64,"], ["--scales 64,", "256,384,512"]),
        (["--scales", "63"], ["scale 63", "64 pixels"]),
        (["--scales", "64,72"], ["single", "multiscale"]),
        (["--protocol", "denser"], ["--protocol", "denser"]),
        (["--views", "6", "--protocol", "dense"], ["six views", "protocol"]),
        (["nothing"], ["nothing", "no such run folder"]),
    ],
)
def test_mistakes(photos, tmp_path, capsys, options, named):
    """Oracle: exit code 2 and one line that names the culprit."""
    save(network(), tmp_path / "mine.safetensors")
    code, out, lines = vgg(capsys, "test", tmp_path / "mine.safetensors", *options, "--data", photos)
    assert (code, out, len(lines)) == (2, "", 1)
    assert all(name in lines[0] for name in named)


class Weighted(nn.Module):
    """Logits that are sums over the image with a weight for each pixel, so that every view counts."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weights = torch.randn(3, 2, 5, 4)

    def forward(self, images):
        return torch.einsum("kchw,nchw->nk", self.weights, images)


def test_the_mean_of_six_views_by_hand():
    """Oracle: numpy's reflecting pad, and each of the six views by itself with its weight."""
    network = Weighted()
    images = torch.randn(7, 2, 5, 4)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    views = [(images.numpy(), 1 / 2), (padded[:, :, 0:5, 0:4], 1 / 4), (padded[:, :, 2:7, 2:6], 1 / 4)]
    expected = torch.zeros(7, 3)
    for view, weight in views:
        for mirrored in (view, view[:, :, :, ::-1]):
            expected += weight / 2 * network(torch.from_numpy(mirrored.copy()))
    torch.testing.assert_close(SixViews(network)(images), expected)


def test_a_test_by_six_views_says_so(tmp_path):
    """Oracle: a plain test of `SixViews` itself, whose mean is checked above."""
    torch.manual_seed(0)
    model = build("vgg11_bn", num_classes=10, head="cifar", width=0.1, init="dirac").eval()
    model.preprocess = vggnet.Preprocess(resize=32, crop=32, mean=(0.3, 0.3, 0.3), std=(0.3, 0.3, 0.3))
    result = vggnet.evaluate(model, data="digits", split="test", views=6)
    assert result.views == 6
    wrapped = SixViews(model)
    wrapped.preprocess = model.preprocess
    expected = vggnet.evaluate(wrapped, data="digits", split="test")
    assert expected.views == 1
    assert (result.loss, result.confusion) == (expected.loss, expected.confusion)
    assert result.loss != vggnet.evaluate(model, data="digits", split="test").loss


@given(st.integers(1, 9), st.integers(0, 20), st.integers(0, 20))
def test_the_grid_reaches_the_corners_evenly(crop, more_rows, more_columns):
    """Oracle: numpy.linspace for where a crop may begin; each pixel holds its place, so a crop tells where it is."""
    height, width = crop + more_rows, crop + more_columns
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))[None]
    crops = grid_crops(places, crop)
    assert crops.shape == (25, 1, 2, crop, crop)
    corners = crops[:, 0, :, 0, 0].numpy().reshape(5, 5, 2)
    tops, lefts = np.linspace(0, more_rows, 5), np.linspace(0, more_columns, 5)
    assert np.abs(corners[:, :, 0] - tops[:, None]).max() <= 0.5
    assert np.abs(corners[:, :, 1] - lefts).max() <= 0.5
    assert (crops[-1, 0, :, -1, -1] == torch.tensor([height - 1, width - 1])).all()
    assert (crops[:, 0, 0].diff(dim=1) == 1).all()
    assert (crops[:, 0, 1].diff(dim=2) == 1).all()


@pytest.fixture
def small():
    """A network for crops of 32 pixels."""
    torch.manual_seed(0)
    model = build("vgg11_bn", num_classes=3, head="gap", width=0.05)
    model.preprocess = Preprocess(resize=40, crop=32)
    return OpenModel(model.eval(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "kinds", "scales", "flip"),
    [
        ("single", ["center"], (40,), False),
        ("single", ["center"], (32,), True),
        ("multiscale", ["center"], (36, 48), False),
        ("dense", ["whole"], (70,), True),
        ("multicrop", ["grid"], (45,), False),
        ("dense+multicrop", ["whole", "grid"], (40, 70), False),
    ],
)
def test_the_prediction_for_each_image(small, name, kinds, scales, flip):
    """Oracle: torchvision's resize and crops of each image by itself, and NumPy's mean; images come in order."""
    source, seen = Colors(7), []
    protocol = Protocol(name=name, scales=scales, flip=flip)
    logits = predict_split(small, source, protocol, batch_size=3, workers=None, progress=seen.append)
    passes = []
    for scale in scales:
        for kind in kinds:
            rows = []
            for index in range(7):
                views = crops(source.read(index), scale, 32, kind)
                views += [tv.horizontal_flip(view) for view in views] if flip or kind == "grid" else []
                rows.append(softmax(small.network, views).mean(0))
            passes.append(rows)
    np.testing.assert_allclose(logits.double().softmax(1), np.mean(passes, 0), rtol=1e-4, atol=1e-6)
    assert sum(seen) == 7 * len(passes)
    assert protocol.passes == len(passes)
    assert not logits.requires_grad
    assert predict_split(small, source, protocol, batch_size=3, workers=0).equal(logits)


def test_six_views_of_each_image(small):
    """Oracle: `SixViews` of the center crops, whose mean is checked above."""
    source = Colors(7)
    found = predict_split(small, source, Protocol(six_views=True, scales=(40,)), batch_size=3, workers=0)
    with torch.no_grad():
        expected = SixViews(small.network)(torch.stack([small.preprocess(source.read(index)) for index in range(7)]))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("batch_size", "given"), [(1, [1] * 4), (3, [2, 2]), (4, [4])])
@pytest.mark.parametrize("name", ["single", "dense", "multicrop"])
def test_how_many_crops_a_network_sees_at_once(small, name, batch_size, given):
    """Oracle: by hand: as many crops as were asked for, or whole images with as many pixels."""
    sizes = []
    small.network.register_forward_pre_hook(lambda layer, images: sizes.append(len(images[0])))
    small.network.features[0].register_forward_pre_hook(lambda layer, images: sizes.append(len(images[0])))
    protocol = Protocol(name=name, scales=(32,))
    predict_split(small, Colors(4), protocol, batch_size=batch_size, workers=0)
    if name == "multicrop":
        assert sum(sizes) == 2 * 4 * 50
        assert max(sizes) == batch_size
    elif name == "single":
        assert sizes == [size for size in given for _ in range(2)]
    else:
        assert sizes == ([3, 1] if batch_size == 3 else given)


@pytest.mark.parametrize("name", ["single", "dense", "multicrop", "dense+multicrop"])
def test_images_that_cannot_be_read_have_no_logits(small, name):
    """Oracle: the other images by themselves; the third and the tenth of every seven are spoiled, in each pass."""
    protocol, heard = Protocol(name=name, scales=(40,)), []
    with pytest.raises(ImageError, match="color 3: is spoiled"):
        predict_split(small, Spoiled(12), protocol, batch_size=4, workers=0)
    found = predict_split(
        small, Spoiled(12), protocol, batch_size=4, workers=0, skip=lambda *given: heard.append(given)
    )
    readable = [index for index in range(12) if index not in (3, 10)]
    assert found[[3, 10]].isnan().all()
    expected = predict_split(small, Subset(Colors(12), np.array(readable)), protocol, batch_size=4, workers=0)
    torch.testing.assert_close(found[readable], expected)
    assert [index for index, _ in heard] == [3, 10] * protocol.passes
    assert all("is spoiled" in str(error) for _, error in heard)


def test_no_image_can_be_read(small):
    """Oracle: the contract: the message names the data."""
    none = Subset(Spoiled(12), np.array([3, 10]))
    for name, message in (("single", "colors: none of its 2"), ("dense", "colors, split test: none of its images")):
        with pytest.raises(DataError, match=message):
            predict_split(
                small, none, Protocol(name=name, scales=(40,)), batch_size=4, workers=0, skip=lambda *given: None
            )


def test_images_go_to_the_device_of_the_network(small):
    """Oracle: the device "meta", which refuses tensors of the CPU, and can give nothing back."""
    there = OpenModel(small.network.to("meta"), torch.device("meta"))
    with pytest.raises(NotImplementedError, match="meta"):
        predict_split(there, Colors(2), Protocol(scales=(32,)), batch_size=2, workers=0)


def test_the_layers_are_in_eval_mode_and_then_as_before(small):
    """Oracle: the modes before; batch norm in training would change the result."""
    expected = predict_split(small, Colors(4), Protocol(scales=(32,)), batch_size=2, workers=0)
    small.network.train()
    found = predict_split(small, Colors(4), Protocol(scales=(32,)), batch_size=2, workers=0)
    assert torch.equal(found, expected)
    assert small.network.training


@pytest.mark.parametrize(("crop", "size"), [(64, 500), (65, 32)])
def test_the_size_of_batches(crop, size):
    """Oracle: the docstring: 64 pixels are small."""
    assert default_batch_size(Preprocess(resize=100, crop=crop)) == size


@pytest.mark.parametrize(
    ("options", "views", "passes", "mirrored"),
    [
        ({}, 1, 1, ""),
        ({"flip": True, "scales": (40,)}, 2, 1, "center whole"),
        ({"name": "multiscale", "scales": (40, 50, 60)}, 3, 3, ""),
        ({"name": "dense+multicrop", "scales": (40, 50)}, 102, 4, ""),
        ({"name": "dense+multicrop", "scales": (40,), "flip": True}, 52, 2, "center whole"),
        ({"six_views": True}, 6, 1, ""),
    ],
)
def test_views_and_passes(options, views, passes, mirrored):
    """Oracle: by hand: six views are mirrored already, a grid always is."""
    protocol = Protocol(**{"scales": (40,), **options})
    assert (protocol.views, protocol.passes) == (views, passes)
    assert [kind for kind in ("center", "six", "whole", "grid") if protocol.mirrors(kind)] == [
        *mirrored.split(),
        "grid",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (1,)}, None),
        ({"scales": (80, -1), "name": "dense"}, "^scale -1 cannot work"),
        ({"six_views": True, "scales": (40,)}, None),
        ({"six_views": True, "name": "multiscale"}, "^six views are mirrored already"),
    ],
)
def test_the_limits_of_a_protocol(options, message):
    """Oracle: the contract: a scale of one pixel is a number of pixels."""
    if message is None:
        assert Protocol(**options).scales == options["scales"]
    else:
        with pytest.raises(ConfigError, match=message):
            Protocol(**options)


def test_a_scale_as_large_as_the_crop():
    """Oracle: by hand: 224 pixels fill a crop of 224; the message has no default where a scale was given."""
    assert Protocol(name="dense", scales=(224,)).at(Preprocess()).scales == (224,)
    with pytest.raises(ConfigError, match="crop of 224 pixels that the network takes; give scales of 224 and more"):
        Protocol(name="dense", scales=(223,)).at(Preprocess())
