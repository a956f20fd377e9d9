"""Weights files cut short or changed in any place: one line, or a whole sound network; never a part of one."""

import os
import struct

import pytest
import torch

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.errors import VGGError, WeightsError
from vggnet.models.vgg import build
from vggnet.weights.checkpoint import load, save
from vggnet.weights.conversion import convert

PIECES = 64
OURS, LEGACY, ZIPPED = "ours.safetensors", "legacy.pth", "theirs.pth"


@pytest.fixture
def files(tiny, torchvision_network, tmp_path):
    """A file of each kind, by name. The tensors of the foreign ones are those of one network of torchvision's."""
    state = torchvision_network("vgg11").state_dict()
    torch.save(state, tmp_path / ZIPPED)
    torch.save(state, tmp_path / LEGACY, _use_new_zipfile_serialization=False)
    ours = build("vgg11_bn", num_classes=3, head="cifar")
    save(ours, tmp_path / OURS, classes=["cat", "dog", "eel"], preprocess=Preprocess.cifar10())
    return tmp_path


def loaded(path):
    """The network in a file; one of another library is converted first."""
    if path.name.startswith("ours"):
        return load(path)
    out = path.with_name("converted.safetensors")
    out.unlink(missing_ok=True)
    convert(path, out)
    return load(out)


def outcome(path):
    """None for an error of one line, or the network."""
    try:
        return loaded(path)
    except VGGError as error:
        said = str(error)
    assert "\n" not in said
    assert str(path) in said
    return None


def pieces(size):
    return sorted({share * size // PIECES for share in range(PIECES)} | {size - 1})


@pytest.mark.parametrize("name", [OURS, ZIPPED, LEGACY])
def test_truncated(name, files):
    """Oracle: the beginning of a file is no file."""
    content = (files / name).read_bytes()
    for length in pieces(len(content)):
        (files / name).write_bytes(content[:length])
        assert outcome(files / name) is None, length


def test_every_change_of_our_file_is_noticed(files):
    """Oracle: a file in which one byte is another is another file, in its header as in its numbers."""
    content = (files / OURS).read_bytes()
    for place in pieces(len(content)):
        for mask in (0xFF, 0x01):
            changed = bytearray(content)
            changed[place] ^= mask
            (files / OURS).write_bytes(changed)
            assert outcome(files / OURS) is None, (place, mask)


def test_every_change_of_a_number_in_a_zipped_file_is_noticed(files):
    """Oracle: as above; where the archive does not look (names twice, times of day, padding), the tensors are whole."""
    content = (files / ZIPPED).read_bytes()
    expected = loaded(files / ZIPPED).state_dict()
    for place in pieces(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        (files / ZIPPED).write_bytes(changed)
        found = outcome(files / ZIPPED)
        if found is not None:
            assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items()), place


def test_changes_of_a_file_without_checksums(files):
    """Oracle: a number that is another cannot be told there; all of the network is there nevertheless, or nothing."""
    content = (files / LEGACY).read_bytes()
    expected = loaded(files / LEGACY)
    for place in pieces(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        (files / LEGACY).write_bytes(changed)
        found = outcome(files / LEGACY)
        if found is not None:
            assert found.architecture == expected.architecture
            assert all(tensor.isfinite().all() for tensor in found.state_dict().values())


@pytest.mark.parametrize("name", ["ours.safetensors", "theirs.safetensors"])
@pytest.mark.parametrize("claimed", [2 << 30, 2**64 - 1, 0])
def test_a_header_of_two_gigabytes(name, claimed, tmp_path):
    """Oracle: the length that a safetensors file begins with; nothing of that size is read."""
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(struct.pack("<Q", claimed))
        if claimed == 2 << 30:
            os.truncate(path, (2 << 30) + 8)  # sparse: the file is as long as it says
    assert outcome(path) is None


def test_a_changed_class_name_is_noticed(files):
    """Oracle: the header is checked, not the tensors alone."""
    content = (files / OURS).read_bytes()
    (files / OURS).write_bytes(content.replace(b"dog", b"fog"))
    with pytest.raises(WeightsError, match="checksum"):
        load(files / OURS)
    with pytest.raises(WeightsError, match="checksum"):
        vggnet.load(files / OURS, num_classes=5)


def test_files_of_the_first_format_have_no_checksum(files):
    """Oracle: the same file by hand, as it was written before."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    expected = load(files / OURS)
    with safe_open(files / OURS, framework="pt") as file:
        metadata = file.metadata()
    del metadata["crc32"]
    save_file(load_file(files / OURS), files / OURS, {**metadata, "format": "vggnet 1"})
    assert all(map(torch.equal, load(files / OURS).state_dict().values(), expected.state_dict().values()))
    save_file(load_file(files / OURS), files / OURS, metadata)
    with pytest.raises(WeightsError, match="checksum"):
        load(files / OURS)


@pytest.mark.parametrize("suffix", [".h5", ".caffemodel"])
def test_hdf5_and_caffe(suffix, tiny, tmp_path):
    """Oracle: as for other files without checksums; truncated ones are never whole."""
    if suffix == ".h5":
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        path = tmp_path / "theirs.h5"
        write_h5(h5py, path)
    else:
        path = tmp_path / "theirs.caffemodel"
        path.write_bytes(caffemodel())
    content = path.read_bytes()
    expected = loaded(path)
    for place in pieces(len(content)):
        path.write_bytes(content[:place])
        assert outcome(path) is None, place
        changed = bytearray(content)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        found = outcome(path)
        if found is not None:
            assert found.architecture == expected.architecture
            assert all(tensor.isfinite().all() for tensor in found.state_dict().values())


def blocks():
    """(block, number, inputs, outputs) of the tiny VGG-16's convolutions."""
    inputs = 3
    for block, (outputs, count) in enumerate(zip((2, 3, 4, 5, 5), (2, 2, 3, 3, 3), strict=True), start=1):
        for number in range(1, count + 1):
            yield block, number, inputs, outputs
            inputs = outputs


def write_h5(h5py, path):
    """The layout of Keras 2, by hand."""
    with h5py.File(path, "w") as file:
        names = []
        for block, number, inputs, outputs in blocks():
            names.append(f"block{block}_conv{number}".encode())
            group = file.create_group(names[-1])
            group.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
            group["kernel:0"] = torch.randn(3, 3, inputs, outputs).numpy()
            group["bias:0"] = torch.randn(outputs).numpy()
        file.attrs["layer_names"] = names


def caffemodel():
    """LayerParameters in protobuf's wire format, by hand."""

    def field(number, content):
        return varint(number << 3 | 2) + varint(len(content)) + content

    def blob(tensor):
        shape = b"".join(map(varint, tensor.shape))
        return field(7, field(7, field(1, shape)) + field(5, tensor.numpy().tobytes()))

    network = b""
    for block, number, inputs, outputs in blocks():
        blobs = blob(torch.randn(outputs, inputs, 3, 3)) + blob(torch.randn(outputs))
        network += field(100, field(1, f"conv{block}_{number}".encode()) + blobs)
    return network


def varint(number):
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])
