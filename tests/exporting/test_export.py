"""Exported networks: other libraries give what the network gives, and what does not is not kept."""

import json
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

import vggnet
from vggnet import VGG, Architecture, Preprocess
from vggnet.cli.export import main
from vggnet.data.decoding import decode_image
from vggnet.errors import ConfigError, ImageError, MissingDependencyError, StorageError, WeightsError
from vggnet.exporting.export import FORMATS, export
from vggnet.exporting.format import Exported
from vggnet.exporting.graphs import TorchExport
from vggnet.weights.importers.pytorch import NAMES, TORCHVISION_HEAD, their_names

FILES = {"onnx": "a.onnx", "openvino": "a.xml", "ncnn": "a.param", "torch-export": "a.pt2", "torchvision": "a.pth",
         "timm": "a"}  # fmt: skip


def needs(name):
    """Skip where a library of the format is not installed."""
    missing = [package for package in FORMATS[name].packages if not find_spec(package)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def network(head="gap", name="vgg11_bn", side=70, channels=3, **options):
    """A small one with statistics of its own."""
    torch.manual_seed(0)
    model = vggnet.create_model(name, num_classes=5, head=head, width=0.05, in_channels=channels, **options).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    model.classes = ("ant", "bee", "猫", "dog", "eel")
    model.preprocess = Preprocess.imagenet(channels, resize=side + 3, crop=side)
    return model


def photos(folder):
    """Photos of many kinds: eight orientations, gray, 16 bits, transparent."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(folder / f"turned{orientation}.jpg", exif=exif)
    Image.fromarray(pixels[..., 0]).save(folder / "gray.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(folder / "clear.png")
    return sorted(folder.iterdir())


def test_onnx_gives_the_same_for_photos_of_every_kind(tmp_path):
    """Oracle: the network with its own preprocessing; onnxruntime alone runs the file, on uint8 pixels."""
    needs("onnx")
    import onnx
    import onnxruntime

    model, path = network(), tmp_path / "a.onnx"
    (tmp_path / "photos").mkdir()
    files = photos(tmp_path / "photos")
    done = export(model, path, to="onnx", with_preprocessing=True, images=[tmp_path / "photos"])
    assert (done.images, done.same_class, done.bytes) == (11, 11, path.stat().st_size)
    assert done.input == "uint8 pixels (batch, height, width, 3), height and width at least 64"
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    described = {entry.key: json.loads(entry.value) for entry in file.metadata_props}
    assert described["classes"] == list(model.classes)
    assert Preprocess.from_dict(described["preprocess"]) == model.preprocess
    assert [entry.version for entry in file.opset_import if not entry.domain] == [18]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for file in files:
        image = decode_image(file)
        pixels = model.preprocess.pixels(image).permute(1, 2, 0).numpy()
        (found,) = session.run(None, {"images": pixels[None]})
        with torch.no_grad():
            expected = model(model.preprocess(image)[None])
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-6)
    for size in ((1, 64, 64), (3, 165, 97)):
        pixels = torch.randint(256, (*size, 3), dtype=torch.uint8)
        (found,) = session.run(None, {"images": pixels.numpy()})
        with torch.no_grad():
            expected = model(model.preprocess.normalize(pixels.permute(0, 3, 1, 2)))
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("channels", "with_preprocessing"), [(1, True), (3, False)])
@settings(max_examples=5, phases=[Phase.generate])
@given(n=st.integers(1, 4), height=st.integers(64, 130), width=st.integers(64, 130))
def test_an_exported_program_takes_every_size(channels, with_preprocessing, tmp_path_factory, n, height, width):
    """Oracle: the network."""
    folder = tmp_path_factory.getbasetemp()
    path, model = folder / f"program{channels}{with_preprocessing}.pt2", network(channels=channels)
    if not path.exists():
        export(model, path, to="torch-export", with_preprocessing=with_preprocessing)
    pixels = torch.randint(256, (n, channels, height, width), dtype=torch.uint8)
    images = model.preprocess.normalize(pixels)
    program = torch.export.load(path).module()
    with torch.no_grad():
        found = program(pixels.permute(0, 2, 3, 1).contiguous() if with_preprocessing else images)
        torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_has_the_same_tensors(name):
    """Oracle: torchvision's own networks, without memory: names and shapes."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None, init_weights=False).state_dict()
    ours = vggnet.create_model(name, init=None).state_dict()
    names = their_names(name, "paper", tuple(TORCHVISION_HEAD.items()))
    assert {names[key]: tensor.shape for key, tensor in ours.items()} == {
        key: tensor.shape for key, tensor in theirs.items()
    }


def test_what_differs_is_not_kept(tmp_path, monkeypatch):
    """Oracle: the file that was there before; the difference by hand."""
    model, path = network(), tmp_path / "a.pt2"
    path.write_text("before")
    read = TorchExport.read

    def read_changed(self, path, network):
        run = read(self, path, network)
        return lambda images: run(images) * 1.01

    monkeypatch.setattr(TorchExport, "read", read_changed)
    with pytest.raises(WeightsError, match="differ from the network's by 1.0e-02"):
        export(model, path, to="torch-export")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]
    assert path.read_text() == "before"
    monkeypatch.setattr(TorchExport, "read", lambda self, path, network: lambda x: torch.full((len(x), 5), torch.nan))
    with pytest.raises(WeightsError, match="by nan"):
        export(model, path, to="torch-export")


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"to": "tensorflow"}, ConfigError, "unknown format. The formats are onnx"),
    ({"to": "onnx", "out": "a.xml"}, ConfigError, "ends with .onnx"),
    ({"to": "timm", "out": "a.onnx"}, ConfigError, "a folder"),
    ({"to": "ncnn", "with_preprocessing": True}, ConfigError, "the network's own layers alone"),
    ({"to": "torchvision"}, ConfigError, r"torchvision has no such network \(name vgg11_bn, .*head gap, .*width 0.05"),
    ({"to": "timm"}, ConfigError, "onnx, openvino and torch-export take every network"),
    ({"to": "torch-export", "images": ["broken.jpg"]}, ImageError, "broken.jpg"),
    ({"to": "torch-export", "out": "/proc/none/a.pt2"}, StorageError, "choose another place"),
])  # fmt: skip
def test_mistakes_are_told(options, error, message, tmp_path, monkeypatch):
    """Oracle: the message; nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(error, match=message):
        export(network(), options.pop("out", FILES.get(options["to"], "a")), **options)
    assert [file.name for file in tmp_path.iterdir()] == ["broken.jpg"]


def test_a_pruned_network_is_no_torchvision_network(tmp_path):
    """Oracle: the message; without the list of channels it is one."""
    with torch.device("meta"):
        model = VGG(Architecture(name="vgg11", num_classes=3, channels=(64, 128, 256, 256, 512, 512, 512, 504)))
        whole = VGG(Architecture(name="vgg11", num_classes=3))
    with pytest.raises(ConfigError, match=r"no such network \(.*channels \(64, .*504\)"):
        FORMATS["torchvision"].check(Exported(model))
    FORMATS["torchvision"].check(Exported(whole))


def test_a_missing_package_is_named_before_work_begins(tmp_path, monkeypatch):
    """Oracle: the message."""
    from vggnet.exporting import export as module

    def require(package, extra):
        raise MissingDependencyError(f"{package} is not installed; pip install 'vggnet[{extra}]'")

    monkeypatch.setattr(module, "require", require)
    with pytest.raises(MissingDependencyError, match=r"onnx is not installed; pip install 'vggnet\[export\]'"):
        export(network(), tmp_path / "a.onnx", to="onnx")


def test_the_command_prints_json(tmp_path, capsys):
    """Oracle: the file's size, and PyTorch, which runs it."""
    vggnet.save(network("cifar", side=32), tmp_path / "mine.safetensors")
    assert main([str(tmp_path / "mine.safetensors"), "--to", "torch-export", "-o", f"{tmp_path}/a.pt2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bytes"] == (tmp_path / "a.pt2").stat().st_size
    assert printed["input"] == "float32, normalized (batch, 3, 32, 32)"
    files = {"classes": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=files)
    assert json.loads(files["classes"]) == ["ant", "bee", "猫", "dog", "eel"]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino", "ncnn", "torch-export"])
@pytest.mark.parametrize(("head", "side"), [
    ("gap", 40), ("gap", 70), ("cifar", 32), ("grid", 64), ("none", 64), ("dense", 224), ("paper", 224), ("paper", 32),
    ("paper", 96),
])  # fmt: skip
def test_every_head_in_every_format(to, head, side, tmp_path):
    """Oracle: the format's own library, which `export` compares with the network."""
    needs(to)
    done = export(network(head, side=side), tmp_path / FILES[to], to=to)
    assert done.same_class == done.images == 9


@pytest.mark.slow
@pytest.mark.parametrize(("head", "side"), [("paper", 224), ("paper", 40), ("dense", 224)])
def test_timm_and_transformers_load_the_folder(head, side, tmp_path):
    """Oracle: our own probabilities for a photo, by the preprocessing, labels and network that they make of it."""
    needs("timm")
    import timm

    model = vggnet.create_model("vgg11_bn", num_classes=5, head=head).eval()
    model.classes = ("ant", "bee", "猫", "dog", "eel")
    model.preprocess = Preprocess(resize=side + 5, crop=side, interpolation="bicubic")
    export(model, tmp_path / "folder", to="timm")
    export(model, tmp_path / "a.pth", to="torchvision")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    theirs = timm.create_model(f"local-dir:{tmp_path}/folder", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=theirs))
    with torch.no_grad():
        expected = model(model.preprocess(image)[None])
        torch.testing.assert_close(theirs(transform(image)[None]), expected, rtol=1e-5, atol=1e-5)
        ours = vggnet.load(tmp_path / "folder")
        torch.testing.assert_close(ours(ours.preprocess(image)[None]), expected, rtol=1e-5, atol=1e-5)
        assert (ours.classes, ours.preprocess) == (model.classes, model.preprocess)
    with suppress(ImportError):
        from transformers import pipeline

        answers = pipeline("image-classification", f"{tmp_path}/folder")(image)
        found = {answer["label"]: answer["score"] for answer in answers}
        assert found == pytest.approx(dict(zip(model.classes, expected.softmax(1)[0].tolist(), strict=True)), abs=1e-5)
