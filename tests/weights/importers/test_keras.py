"""Keras' files: the same answers as Keras, and refusal of everything else."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import vggnet
from vggnet.errors import MissingDependencyError, WeightsError
from vggnet.weights.checkpoint import load
from vggnet.weights.conversion import convert

KINDS = [
    f"{name}-{top}{suffix}"
    for name in ("vgg16", "vgg19")
    for top in ("top", "notop", "gap")
    for suffix in (".h5", ".weights.h5", ".keras")
]


def keras_files(folder, *options):
    if not (find_spec("keras") and find_spec("h5py")):
        pytest.skip("keras and h5py are not installed")
    program = Path(__file__).with_name("keras_files.py")
    subprocess.run([sys.executable, program, folder, *options], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    return keras_files(tmp_path_factory.mktemp("keras"))


@pytest.fixture(scope="module")
def full_files(tmp_path_factory):
    folder = keras_files(tmp_path_factory.mktemp("full"), "full")
    yield folder
    for file in folder.iterdir():
        file.unlink()


def assert_answers_are_keras(folder, kind, out, **options):
    convert(folder / kind, out, **options)
    ours = load(out)
    saved = np.load(folder / f"{kind.partition('.')[0]}.npz")
    expected = torch.from_numpy(saved["answers"])
    with torch.inference_mode():
        found = ours(ours.preprocess.normalize(torch.from_numpy(saved["pixels"]).permute(0, 3, 1, 2)))
    if "notop" in kind:
        found = found.permute(0, 2, 3, 1)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    return ours


@pytest.mark.parametrize("keep_bgr", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_keras(kind, keep_bgr, small_files, tiny, tmp_path):
    """Oracle: Keras' own layers, on pixels that Keras has prepared."""
    ours = assert_answers_are_keras(small_files, kind, tmp_path / "ours.safetensors", keep_bgr=keep_bgr)
    head = {"top": "paper", "notop": "none", "gap": "gap"}[kind.partition(".")[0][6:]]
    expected = {} if head == "none" else {"num_classes": 10}
    assert ours.architecture == vggnet.Architecture(name=kind[:5], head=head, **expected)
    assert ours.preprocess.bgr is keep_bgr


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_keras_in_full(kind, full_files, tmp_path):
    """Oracle: Keras Applications' networks as they are."""
    assert_answers_are_keras(full_files, kind, tmp_path / "ours.safetensors")
    (tmp_path / "ours.safetensors").unlink()


@pytest.fixture
def h5(tmp_path):
    """VGG-16 without top in the layout of Keras 2, as Keras Applications' files are, written by hand."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        names, channels = [], 3
        for block, (width, count) in enumerate(zip((2, 3, 4, 5, 5), (2, 2, 3, 3, 3), strict=True), start=1):
            for number in range(1, count + 1):
                name = f"block{block}_conv{number}"
                names.append(name.encode())
                group = file.create_group(name)
                group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
                group[f"{name}_W_1:0"] = np.ones((3, 3, channels, width), "float32")
                group[f"{name}_b_1:0"] = np.ones(width, "float32")
                channels = width
            names.append(f"block{block}_pool".encode())
            file.create_group(f"block{block}_pool").attrs["weight_names"] = np.array([], "S1")
        file.attrs["layer_names"] = names
    return path


def test_files_of_keras_applications(h5, tiny, tmp_path):
    """Oracle: the layout, by hand."""
    convert(h5, tmp_path / "ours.safetensors", keep_bgr=True)
    ours = load(tmp_path / "ours.safetensors")
    assert ours.architecture == vggnet.Architecture(name="vgg16", head="none")
    assert all((tensor == 1).all() for tensor in ours.state_dict().values())


def replaced(file, name, data, **options):
    del file[name]
    return file.create_dataset(name, data=data, **options)


def link_elsewhere(file):
    import h5py

    del file["block1_conv1/block1_conv1_W_1:0"]
    file["block1_conv1/block1_conv1_W_1:0"] = h5py.ExternalLink("other.h5", "/secret")


def data_elsewhere(file):
    del file["block1_conv1/block1_conv1_b_1:0"]
    file.create_dataset("block1_conv1/block1_conv1_b_1:0", (2,), "float32", external=[("/etc/hostname", 0, 8)])


def huge(file):
    del file["block1_conv1/block1_conv1_W_1:0"]
    file.create_dataset("block1_conv1/block1_conv1_W_1:0", (3, 3, 1 << 20, 1 << 20), "float32", chunks=(1, 1, 8, 8))


CHANGES = {
    "12 convolutions": lambda file: file.attrs.__setitem__(
        "layer_names", [n for n in file.attrs["layer_names"] if "block3_conv2" not in str(n)]
    ),
    "block3_conv2 is missing": lambda file: file.__delitem__("block3_conv2"),
    "block1_conv1_b_1:0 is missing": lambda file: file.__delitem__("block1_conv1/block1_conv1_b_1:0"),
    "expected a kernel and a bias": lambda file: file["block1_conv1"].attrs.__setitem__(
        "weight_names", [b"block1_conv1_b_1:0"]
    ),
    r"conv1_1.bias is \(7,\)": lambda file: replaced(file, "block1_conv1/block1_conv1_b_1:0", np.ones(7, "float32")),
    "conv1_1.bias has type": lambda file: replaced(file, "block1_conv1/block1_conv1_b_1:0", np.ones(2, "int32")),
    "conv1_1.bias holds NaN": lambda file: replaced(
        file, "block1_conv1/block1_conv1_b_1:0", np.full(2, np.nan, "float32")
    ),
    "or a link": link_elsewhere,
    "outside the file": data_elsewhere,
    r"conv1_1.weight is \(1048576, 1048576, 3, 3\)": huge,
    "holds no weights of Keras": lambda file: file.attrs.__delitem__("layer_names"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_hdf5_that_does_not_fit(message, h5, tiny, tmp_path):
    """Oracle: the damage, made by hand; one line names it, nothing is written, nothing outside the file is read."""
    import h5py

    with h5py.File(h5, "r+") as file:
        CHANGES[message](file)
    with pytest.raises(WeightsError, match=message) as error:
        convert(h5, tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours.safetensors").exists()


def test_without_h5py(tmp_path, monkeypatch):
    """Oracle: the extra to install."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "theirs.h5").write_bytes(b"")
    with pytest.raises(MissingDependencyError, match=r"h5py is not installed.*vggnet\[import\]"):
        convert(tmp_path / "theirs.h5", tmp_path / "ours.safetensors")
