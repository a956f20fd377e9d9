"""Preprocessing: the same numbers from every kind of image and in every layout of memory, and no other reader of it."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

import vggnet
from vggnet.data.preprocess import SMALL, Preprocess, is_small
from vggnet.errors import ConfigError, ImageError, InputError, WeightsError

SOURCES = Path(vggnet.__file__).parent
RGB = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
GRAY = {"mean": (0.3,), "std": (0.7,)}


def photo(width=50, height=38, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("statistics", [RGB, GRAY, {**RGB, "bgr": True}])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_normalize(statistics, kind):
    """Oracle: torchvision's normalize, of planar, channels-last and single images; what is given is left alone."""
    channels = len(statistics["mean"])
    pixels = torch.randint(0, 256, (3, channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = pixels if kind == torch.uint8 else pixels / 255
    expected = tv.normalize(pixels / 255, statistics["mean"], statistics["std"])
    expected = expected.flip(1) if "bgr" in statistics else expected
    normalize = Preprocess(**statistics).normalize
    channels_last = given.contiguous(memory_format=torch.channels_last)
    before = given.clone()
    for found in (normalize(given), normalize(channels_last), torch.stack([normalize(one) for one in channels_last])):
        assert torch.equal(found, expected)
    assert torch.equal(given, before)
    assert torch.equal(channels_last, before)


@pytest.mark.parametrize("statistics", [RGB, GRAY, {**RGB, "bgr": True}])
def test_ranges(statistics):
    """Oracle: what is in [0, 1] or in [-1, 1] gives the same as its bytes; by hand, the first channel that goes in."""
    preprocess = Preprocess(**statistics)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, preprocess.in_channels, 1, 1)
    pixels[:, -1] = 255 - pixels[:, -1]
    expected = preprocess.normalize(pixels)
    unit = pixels.double() / 255
    torch.testing.assert_close(preprocess.from_unit_range(unit.float()), expected)
    torch.testing.assert_close(preprocess.from_minus_one_one(2 * unit.float() - 1), expected, rtol=1e-5, atol=1e-6)
    first = unit[:, -1 if preprocess.bgr else 0]
    mean, std = (statistics[name][-1 if preprocess.bgr else 0] for name in ("mean", "std"))
    found = preprocess.from_minus_one_one(2 * unit - 1)[:, 0]
    torch.testing.assert_close(found, (first - mean) / std, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["from_unit_range", "from_minus_one_one"])
def test_ranges_are_differentiable_and_take_floats_alone(method):
    """Oracle: the derivative by hand: one over the deviation, half of that in [-1, 1]; bytes are refused."""
    convert = getattr(Preprocess(**RGB), method)
    images = torch.zeros(1, 3, 2, 2, requires_grad=True)
    convert(images).sum().backward()
    part = 1 if method == "from_unit_range" else 0.5
    assert images.grad[0, :, 0, 0].tolist() == pytest.approx([part / std for std in RGB["std"]])
    expected = {"from_unit_range": r"\[0, 1\]", "from_minus_one_one": r"\[-1, 1\]"}[method]
    with pytest.raises(InputError, match=f"expected floats in {expected}, but got torch.uint8"):
        convert(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("statistics", [RGB, GRAY])
def test_an_image_as_torchvision_has_it(interpolation, statistics):
    """Oracle: torchvision's transforms one after the other."""
    preprocess = Preprocess(resize=24, crop=20, interpolation=interpolation, **statistics)
    image = photo().convert(preprocess.mode)
    steps = [v2.Resize(24, v2.InterpolationMode[interpolation.upper()]), v2.CenterCrop(20), v2.PILToTensor()]
    expected = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(**statistics)])(image)
    torch.testing.assert_close(preprocess(image), expected)
    assert preprocess.whole(image).shape[1:] == (24, 31)


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    resize=st.integers(4, 60),
    cut=st.integers(0, 30),
    stretch=st.booleans(),
    kind=st.sampled_from(["bilinear", "bicubic", "mask"]),
)
def test_sizes_as_torchvision_has_them(size, resize, cut, stretch, kind):
    """Oracle: torchvision's resize and center crop, to the last bit; a mask keeps its values."""
    picture, crop = photo(*size), resize if stretch else max(1, resize - cut)
    interpolation = kind if kind != "mask" else "bilinear"
    preprocess = Preprocess(resize=resize, crop=crop, stretch=stretch, interpolation=interpolation)
    picture = picture.convert("L") if kind == "mask" else picture
    mode = v2.InterpolationMode["NEAREST" if kind == "mask" else kind.upper()]
    whole = tv.resize(picture, [resize, resize] if stretch else [resize], interpolation=mode)
    assert torch.equal(preprocess.whole(picture, nearest=kind == "mask"), tv.pil_to_tensor(whole))
    expected = tv.pil_to_tensor(tv.center_crop(whole, [crop]))
    assert torch.equal(preprocess.pixels(picture, nearest=kind == "mask"), expected)


def test_the_interpolation_is_that_which_was_chosen():
    """Oracle: bicubic and bilinear differ on noise; torchvision's test above says which is which."""
    bilinear, bicubic = (Preprocess(resize=16, crop=16, interpolation=name) for name in ("bilinear", "bicubic"))
    assert not torch.equal(bilinear(photo()), bicubic(photo()))


def test_no_resizing_where_none_is_needed():
    """Oracle: the pixels themselves, where the shorter side has the size already."""
    image = photo(width=50, height=38)
    assert torch.equal(Preprocess(resize=38, crop=38).whole(image), tv.pil_to_tensor(image))
    assert torch.equal(Preprocess(resize=38, crop=38).pixels(image), tv.pil_to_tensor(image)[:, :, 6:44])


def test_an_image_of_the_size_of_the_crop_is_resized_too():
    """Oracle: torchvision's own transforms."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    theirs = v2.Compose([v2.Resize(30), v2.CenterCrop(24), v2.PILToTensor()])(picture)
    assert torch.equal(Preprocess(resize=30, crop=24).pixels(picture), theirs)


@pytest.mark.parametrize("preprocess", [Preprocess(resize=24, crop=20), Preprocess(resize=24, crop=20, **GRAY)])
def test_a_transform_of_every_kind_of_image(preprocess):
    """Oracle: the PIL image of the same pixels; also of an image that must be turned upright and has transparency."""
    image = photo()
    array = np.array(image)
    expected = preprocess(image)
    for image_given in (array, np.asfortranarray(array), torch.from_numpy(array).permute(2, 0, 1)):
        assert torch.equal(preprocess(image_given), expected)
    gray = np.array(image.convert("L"))
    for image_given in (gray, gray[..., None], torch.from_numpy(gray)[None]):
        assert torch.equal(preprocess(image_given), preprocess(image.convert("L")))
    clear = image.convert("RGBA")
    clear.putalpha(0)
    assert torch.equal(preprocess(clear), preprocess(Image.new("RGB", image.size, "white")))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[274] = 6  # a viewer turns it by 270 degrees
    assert torch.equal(preprocess(turned), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
        torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    ],
)
def test_what_is_no_image_is_refused(image):
    """Oracle: the contract; the message names what was given."""
    with pytest.raises(InputError, match=rf"with shape \({', '.join(map(str, image.shape))}"):
        Preprocess(resize=8, crop=8)(image)


def test_loader_workers_can_take_it():
    """Oracle: it survives pickling, and equals its copy."""
    preprocess = Preprocess(**RGB, interpolation="bicubic")
    assert pickle.loads(pickle.dumps(preprocess)) == preprocess


def test_named_statistics():
    """Oracle: torchvision's documented ImageNet statistics; sizes by hand."""
    from torchvision.models import VGG16_Weights

    expected = VGG16_Weights.IMAGENET1K_V1.transforms()
    found = Preprocess.imagenet()
    assert (found.mean, found.std) == (tuple(expected.mean), tuple(expected.std))
    assert [found.resize] == expected.resize_size
    assert [found.crop] == expected.crop_size
    gray = Preprocess.imagenet(1, resize=80, crop=72)
    assert (gray.mode, gray.resize, gray.crop) == ("L", 80, 72)
    assert Preprocess.caffe(bgr=False).std == tuple(expected.std)
    assert (Preprocess.cifar10().resize, Preprocess.cifar10().crop) == (32, 32)
    for known in (Preprocess.imagenet, Preprocess.cifar10):
        assert known(1).mean == pytest.approx([sum(known().mean) / 3], abs=0.01)
        with pytest.raises(ConfigError, match="2 channels"):
            known(2)


def test_measured_statistics():
    """Oracle: NumPy's mean and deviation of all pixels; a single color gets a deviation above 0."""
    pixels = np.random.default_rng(0).integers(0, 200, (5, 3, 6, 7), dtype=np.uint8)
    pixels[:, 2] = 51
    found = Preprocess.measured(torch.from_numpy(pixels), resize=8, crop=6)
    scaled = pixels / 255
    assert found.mean == pytest.approx(scaled.mean((0, 2, 3)), abs=5e-5)
    assert found.std[:2] == pytest.approx(scaled.std((0, 2, 3))[:2], abs=5e-5)
    assert found.std[2] == 1e-4
    assert (found.resize, found.crop) == (8, 6)
    assert all(round(value, 4) == value for value in (*found.mean, *found.std))


def test_other_numbers_of_channels():
    """Oracle: by hand."""
    rgb = Preprocess(mean=(0.1, 0.2, 0.6), std=(0.2, 0.3, 0.4), resize=40, crop=30, bgr=True, interpolation="bicubic")
    gray = rgb.adapted(1)
    assert gray == Preprocess(mean=(0.3,), std=(0.3,), resize=40, crop=30, interpolation="bicubic")
    assert gray.adapted(3).mean == (0.3, 0.3, 0.3)
    assert Preprocess(mean=(0.1, 0.1, 0.3), std=(0.1, 0.2, 0.2)).adapted(1).mean == (0.166667,)
    assert rgb.adapted(3) is rgb
    assert rgb.adapted(4) is None


def test_kernels_for_another_order_and_deviation():
    """Oracle: a convolution of the same image, prepared either way, zero padding included."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8, generator=random)
    kernel = torch.randn(4, 3, 3, 3, generator=random)
    theirs = Preprocess.caffe()
    for ours in (Preprocess.caffe(bgr=False), theirs):
        converted = theirs.convert_kernel(kernel, ours)
        found, expected = (
            torch.conv2d(preprocess.normalize(pixels).double(), weights.double(), padding=1)
            for preprocess, weights in ((ours, converted), (theirs, kernel))
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)  # values are in the hundreds
        assert converted.dtype == torch.float32
    with pytest.raises(ConfigError, match="cannot be converted"):
        theirs.convert_kernel(kernel, Preprocess.imagenet())


def test_kernels_in_float64_stay_exact():
    """Oracle: NumPy: red, green and blue of the first kernel, in reverse, times new over old deviation."""
    new, old = np.array(Preprocess.caffe(bgr=False).std), np.array([1 / 255] * 3)
    kernel = np.random.default_rng(0).random((2, 3, 1, 1))
    found = Preprocess.caffe().convert_kernel(torch.from_numpy(kernel), Preprocess.caffe(bgr=False))
    np.testing.assert_allclose(found.numpy(), kernel[:, ::-1] * (new / old)[:, None, None], rtol=1e-15)


def test_the_order_of_a_kernel():
    """Oracle: by hand."""
    kernel = torch.tensor([[1, 2, 3]])
    assert Preprocess.caffe().in_rgb_order(kernel).tolist() == [[3, 2, 1]]
    assert Preprocess.caffe(bgr=False).in_rgb_order(kernel).tolist() == [[1, 2, 3]]
    assert Preprocess.caffe().in_rgb_order(kernel, dim=0).tolist() == [[1, 2, 3]]


def test_an_image_that_is_too_elongated(monkeypatch):
    """Oracle: by hand: 50 x 10 pixels become 100 x 20, which are 2,000; 51 x 10 become more."""
    monkeypatch.setattr("vggnet.data.preprocess.MAX_PIXELS", 2000)
    preprocess = Preprocess(resize=20, crop=20)
    for size in ((50, 10), (10, 50)):
        assert preprocess.whole(Image.new("RGB", size)).shape == (3, 2 * size[1], 2 * size[0])
    for size in ((51, 10), (10, 51)):
        with pytest.raises(ImageError, match=rf"{size[0]} x {size[1]} pixels .* shorter side to 20: .*over 2,000"):
            preprocess.pixels(Image.new("RGB", size))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalizing_stays_on_the_device(layout):
    """Oracle: the device "meta", which refuses tensors of the CPU."""
    pixels = torch.empty(2, 3, 4, 5, dtype=torch.uint8, device="meta").contiguous(memory_format=layout)
    assert Preprocess(**RGB).normalize(pixels).device.type == "meta"


def test_statistics_for_another_training():
    """Oracle: what was given, by the names of the options of a training."""
    assert Preprocess(**RGB).statistics() == RGB


def test_caffe_is_the_mean_pixel_alone():
    """Oracle: Keras' documented preprocessing of VGG: BGR, 0..255, less 103.939, 116.779, 123.68."""
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    found = Preprocess.caffe().normalize(pixels).flatten().tolist()
    assert found == pytest.approx([30 - 103.939, 20 - 116.779, 10 - 123.68], abs=1e-4)


def test_stored_and_read_again():
    """Oracle: itself; and files of version 0.1, which lack the newer fields."""
    preprocess = Preprocess(resize=40, crop=36, **RGB, bgr=True, interpolation="bicubic")
    assert Preprocess.from_dict(preprocess.as_dict()) == preprocess
    old = {"resize": 40, "crop": 36, "mean": [0.5], "std": [0.2]}
    assert Preprocess.from_dict(old) == Preprocess(resize=40, crop=36, mean=(0.5,), std=(0.2,))


@pytest.mark.parametrize(
    "options",
    [
        {"resize": 20, "crop": 21},
        {"crop": 0},
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, 0.5), "std": (0.1, 0.1)},
        {"std": (0.1, 0.1, 0.0)},
        {"bgr": True, **GRAY},
        {"interpolation": "nearest"},
    ],
)
def test_impossible_preprocessing_is_refused(options):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match="preprocessing"):
        Preprocess(**options)


def test_what_is_barely_possible():
    """Oracle: the contract: a crop of one pixel; and the choices of what is refused are named."""
    assert Preprocess(resize=1, crop=1)(photo()).shape == (3, 1, 1)
    with pytest.raises(ConfigError, match="'nearest'; choose bilinear or bicubic"):
        Preprocess(interpolation="nearest")


def test_a_model_without_preprocessing_is_refused():
    """Oracle: the contract: one sentence that says what to do."""
    model = nn.Linear(1, 1)
    model.preprocess = Preprocess.cifar10()
    assert Preprocess.of(model) is model.preprocess
    model.preprocess = None
    for lacking in (model, nn.Linear(1, 1)):
        with pytest.raises(WeightsError, match=r"has no preprocessing .* Set model.preprocess, such as"):
            Preprocess.of(lacking)


def test_small_images():
    """Oracle: by hand: at most 64 pixels."""
    assert SMALL == 64
    assert [is_small(side) for side in (63, 64, 65)] == [True, True, False]
    assert Preprocess(resize=100, crop=64).is_small
    assert not Preprocess(resize=100, crop=65).is_small


# Objects with fields of these names that are no preprocessing: (module, name of the object) -> what it is.
NO_PREPROCESSING = {
    ("accel/kernels/batch_norm_kernels.py", "task"),  # statistics of batch norm
    ("data/inspection.py", "split"),  # the result of `vgg data`
    ("training/options.py", "self"),  # options that a user gives
    ("training/inputs.py", "data"),
    ("training/distillation.py", "config.data"),
}


def test_nothing_else_reads_mean_deviation_or_order():
    """Oracle: Python's parser on every module: reads of an attribute mean, std or bgr that are not method calls."""
    found, allowed = set(), set()
    for file in SOURCES.rglob("*.py"):
        module = file.relative_to(SOURCES).as_posix()
        if module == "data/preprocess.py":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("mean", "std", "bgr") and id(node) not in calls:
                owner = ast.unparse(node.value)
                allowed.add((module, owner))
                if (module, owner) not in NO_PREPROCESSING:
                    found.add(f"{module}:{node.lineno} reads {owner}.{node.attr}")
    assert not found
    assert allowed == NO_PREPROCESSING
