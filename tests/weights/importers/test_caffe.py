"""Caffe's files: written by protobuf from Caffe's own message definitions, answered as Caffe's input is by PyTorch."""

import sys

import pytest
import torch

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.errors import MissingDependencyError, WeightsError
from vggnet.weights.checkpoint import load
from vggnet.weights.conversion import convert

MEAN = (123.68, 116.779, 103.939)  # RGB, as Oxford's page gives it (in BGR order there)
STRING, FLOAT, DOUBLE, INT32, INT64, MESSAGE = 9, 2, 1, 5, 3, 11  # of FieldDescriptorProto
MESSAGES = {  # name -> fields: (name, number, type or message, repeated, packed)
    "BlobShape": [("dim", 1, INT64, True, True)],
    "BlobProto": [
        ("num", 1, INT32, False, False), ("channels", 2, INT32, False, False), ("height", 3, INT32, False, False),
        ("width", 4, INT32, False, False), ("data", 5, FLOAT, True, True), ("shape", 7, "BlobShape", False, False),
        ("double_data", 8, DOUBLE, True, True),
    ],
    "V1LayerParameter": [
        ("bottom", 2, STRING, True, False), ("top", 3, STRING, True, False), ("name", 4, STRING, False, False),
        ("type", 5, INT32, False, False), ("blobs", 6, "BlobProto", True, False),
    ],
    "LayerParameter": [
        ("name", 1, STRING, False, False), ("type", 2, STRING, False, False), ("blobs", 7, "BlobProto", True, False),
    ],
    "NetParameter": [
        ("name", 1, STRING, False, False), ("layers", 2, "V1LayerParameter", True, False),
        ("input", 3, STRING, True, False), ("input_dim", 4, INT32, True, False),
        ("layer", 100, "LayerParameter", True, False),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def messages():
    """Classes of protobuf by the names above."""
    protobuf = pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    assert protobuf
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated, packed in fields:
            added = message.field.add(name=field, number=number, label=3 if repeated else 1)
            added.type = kind if isinstance(kind, int) else MESSAGE
            if isinstance(kind, str):
                added.type_name = f".caffe.{kind}"
            if packed:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in MESSAGES}


def layers_of(model):
    """(Caffe's name, weight, bias) of each layer of a torchvision network, in order."""
    block, number, convs = 1, 0, []
    for layer in model.features:
        if isinstance(layer, torch.nn.Conv2d):
            number += 1
            convs.append((f"conv{block}_{number}", layer))
        elif isinstance(layer, torch.nn.MaxPool2d):
            block, number = block + 1, 0
    linear = [layer for layer in model.classifier if isinstance(layer, torch.nn.Linear)]
    named = [*convs, *zip(("fc6", "fc7", "fc8"), linear, strict=False)]
    return [(name, layer.weight.detach(), layer.bias.detach()) for name, layer in named]


@pytest.fixture
def caffemodel(messages, tmp_path):
    """Write a network's layers as Oxford's Caffe did ("V1LayerParameter"), or as later ones do ("LayerParameter")."""

    def write(layers, kind="V1LayerParameter", double=False):
        network = messages["NetParameter"](name="VGG", input=["data"], input_dim=[10, 3, 224, 224])
        for name, weight, bias in layers:
            if kind == "V1LayerParameter":
                layer = network.layers.add(name=name, type=4, bottom=["x"], top=["y"])
            else:
                layer = network.layer.add(name=name, type="Convolution")
            for tensor in (weight, bias):
                blob = layer.blobs.add()
                (blob.double_data if double else blob.data).extend(tensor.flatten().tolist())
                if kind == "V1LayerParameter":
                    blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - tensor.ndim) + tuple(tensor.shape)
                else:
                    blob.shape.dim.extend(tensor.shape)
        path = tmp_path / "theirs.caffemodel"
        path.write_bytes(network.SerializeToString())
        return path

    return write


def as_caffe_sees(model):
    """The network of Caffe's file on an image in [0, 1]: BGR in 0..255 less the mean pixel."""

    def answer(images):
        pixels = 255 * images - torch.tensor(MEAN).view(3, 1, 1)
        return model(pixels[:, [2, 1, 0]])

    return answer


@pytest.mark.parametrize("keep_bgr", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "double"),
    [("vgg16", "V1LayerParameter", False), ("vgg19", "LayerParameter", False), ("vgg11", "LayerParameter", True)],
)
def test_caffe(name, kind, double, keep_bgr, torchvision_network, caffemodel, assert_equal_answers, tmp_path):
    """Oracle: the layers in PyTorch, on pixels prepared by hand; the border of the image included."""
    theirs = torchvision_network(name)
    theirs.features[0].weight.data /= 100  # for inputs of 0..255
    convert(caffemodel(layers_of(theirs), kind, double), tmp_path / "ours.safetensors", keep_bgr=keep_bgr)
    ours = load(tmp_path / "ours.safetensors")
    assert ours.architecture == vggnet.Architecture(name=name, num_classes=10)
    assert ours.preprocess.bgr is keep_bgr
    assert_equal_answers(lambda images: ours(ours.preprocess.normalize(images)), as_caffe_sees(theirs), [(224, 224)])
    assert_equal_answers(
        lambda images: ours.features(ours.preprocess.normalize(images)),
        as_caffe_sees(theirs.features),
        [(32, 32), (64, 96)],
    )


def test_kept_weights_are_theirs(torchvision_network, caffemodel, tmp_path):
    """Oracle: every number; folded, the first layer alone differs."""
    theirs = torchvision_network("vgg16")
    source = caffemodel(layers_of(theirs))
    for keep_bgr in (True, False):
        convert(source, tmp_path / "ours.safetensors", keep_bgr=keep_bgr)
        state = zip(
            load(tmp_path / "ours.safetensors").state_dict().values(), theirs.state_dict().values(), strict=True
        )
        assert [torch.equal(ours, their) for ours, their in state] == [keep_bgr] + [True] * 31
    expected = {"resize": 256, "crop": 224, "mean": tuple(value / 255 for value in MEAN)}
    assert load(tmp_path / "ours.safetensors").preprocess == Preprocess(**expected)


def test_without_fully_connected_layers(torchvision_network, caffemodel, tmp_path):
    """Oracle: the contract."""
    convert(caffemodel(layers_of(torchvision_network("vgg16"))[:13]), tmp_path / "ours.safetensors")
    assert load(tmp_path / "ours.safetensors").architecture == vggnet.Architecture(name="vgg16", head="none")


CHANGES = {
    "13 convolutions|12 convolutions": lambda layers: layers.pop(3),
    "head.fc8.bias is missing": lambda layers: layers.pop(),
    "head.extra.weight does not belong": lambda layers: layers.append(("extra", torch.ones(2, 2), torch.ones(2))),
    "head.fc8.bias holds NaN": lambda layers: layers[-1][2].fill_(torch.nan),
    r"conv1_1.weight is \(2, 3, 3, 3\)|of sizes 5, 3": lambda layers: layers.__setitem__(
        0, ("conv1_1", torch.ones(2, 3, 5, 5), torch.ones(2))
    ),
    r"conv1_2.bias is \(3,\), expected \(2,\)": lambda layers: layers.__setitem__(
        1, ("conv1_2", torch.ones(2, 2, 3, 3), torch.ones(3))
    ),
    "no layer has weights": lambda layers: layers.clear(),
}


@pytest.mark.parametrize("message", CHANGES)
def test_caffemodels_that_do_not_fit(message, torchvision_network, caffemodel, tmp_path):
    """Oracle: the damage, made by hand; one line names it, nothing is written."""
    layers = layers_of(torchvision_network("vgg16"))
    CHANGES[message](layers)
    with pytest.raises(WeightsError, match=message) as error:
        convert(caffemodel(layers), tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no layer has weights"),
        (b"\x12\xff\xff\xff\xff\x7f", "Error parsing"),  # a layer of 32 GB
        (b"\x10\x05", "no layer has weights"),  # layers = 5
        (b"\x12\x02\x30\x05", "no layer has weights"),  # blobs = 5
        (b"\x12" + b"\xff" * 12, "Error parsing"),  # a number of more than ten bytes
        (b"\x13\x00", "Error parsing"),  # a group that does not end
        (b"\x12\x0a\x22\x01x\x32\x05\x2a\x03abc", "Error parsing"),  # three bytes of floats
        (b"\x12\x0d\x22\x01x\x32\x08\x2a\x04\0\0\0\0\x08\x09", "shape"),  # num = 9, one float
    ],
)
def test_bytes_that_are_no_caffemodel(content, message, tmp_path):
    """Oracle: the wire format, by hand."""
    (tmp_path / "theirs.caffemodel").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        convert(tmp_path / "theirs.caffemodel", tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value)


def test_numbers_that_are_not_packed(messages):
    """Oracle: the same message by hand, with each float and each dimension a field of its own."""
    from vggnet.weights.importers.caffe import _network_class, _tensor

    content = b"\x3a\x04\x08\x01\x08\x02" + b"\x2d\x00\x00\x80\x3f" + b"\x2d\x00\x00\x00\x40"
    network = _network_class().FromString(
        b"\xa2\x06" + bytes([2 + len(content)]) + b"\x3a" + bytes([len(content)]) + content
    )
    assert torch.equal(_tensor(network.layer[0].blobs[0]), torch.tensor([[1.0, 2.0]]))


def test_without_protobuf(tmp_path, monkeypatch):
    """Oracle: the contract: the command that installs it."""
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    (tmp_path / "theirs.caffemodel").write_bytes(b"")
    with pytest.raises(MissingDependencyError, match=r"protobuf is not installed; pip install 'vggnet\[import\]'"):
        convert(tmp_path / "theirs.caffemodel", tmp_path / "ours.safetensors")
