"""Exported files in place of checkpoints: what they say of themselves, and what they give."""

import json
import os
import pickle
import warnings
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from vggnet import Preprocess
from vggnet.accel.precision import products_in
from vggnet.benchmarking.timing import bench_infer
from vggnet.cli.predict import main
from vggnet.errors import ConfigError, WeightsError
from vggnet.exporting.export import FORMATS, export
from vggnet.weights.checkpoint import Checkpoint, open_model
from vggnet.weights.exported_files import ExportedFile
from vggnet.weights.runtimes import open_runnable

CLASSES = ("ant", "bee", "猫", "dog", "eel")
PIXELS = {"with_preprocessing": True}


def network(head="gap", side=70, name="vgg11_bn", **options):
    torch.manual_seed(0)
    model = vggnet.create_model(name, num_classes=5, head=head, width=0.05, **options).eval()
    model.classes, model.preprocess = CLASSES, Preprocess.imagenet(resize=side + 3, crop=side)
    return model


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The file of a suffix, with or without preprocessing, made once."""
    folder = tmp_path_factory.mktemp("exported")

    def file(suffix, **options):
        kind = next(kind for kind in FORMATS.values() if kind.suffix == suffix)
        missing = [package for package in kind.packages if not find_spec(package)]
        if missing:
            pytest.skip(f"{', '.join(missing)} is not installed")
        path = folder / f"a-{suffix[1:]}{len(options)}{suffix}"
        if not path.exists():
            export(model, path, to=kind.name, **options)
        return path

    return file


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(("suffix", "options"), [
    (".onnx", PIXELS), (".param", {}), (".pt2", {}), (".pt2", PIXELS),
    pytest.param(".onnx", {}, marks=pytest.mark.slow), pytest.param(".xml", {}, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_file_predicts_as_the_network(suffix, options, exported, model, photo, capsys):
    """Oracle: the network, on a photo and a broken one, by the function and the command."""
    path = exported(suffix, **options)
    broken = photo.with_name("broken.jpg")
    broken.write_bytes(b"none")
    expected = vggnet.predict(model, [photo, broken, photo])
    found = vggnet.predict(path, [photo, broken, photo])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.name, ours.classes, ours.error) == (theirs.name, theirs.classes, theirs.error)
        assert ours.probabilities == pytest.approx(theirs.probabilities, rel=1e-4)
    assert main([str(path), str(photo), "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert printed["classes"] == list(expected[0].classes)
    described = Checkpoint.open(path)
    assert (described.classes, described.preprocess, described.task) == (CLASSES, model.preprocess, "classify")
    assert described.architecture == model.architecture


def test_metadata_of_onnx_is_read_as_onnx_reads_it(exported):
    """Oracle: the package onnx."""
    path = exported(".onnx", **PIXELS)
    import onnx

    theirs = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    file = ExportedFile.open(path)
    assert (file.from_pixels, file.precision) == (theirs["from_pixels"], theirs["precision"]) == (True, "float32")
    assert list(file.checkpoint.classes) == theirs["classes"]


def test_an_exported_program_gives_its_weights_back(tmp_path):
    """Oracle: the network's tensors; its fully connected layer is folded for 32 pixels in the file."""
    model = network("paper", side=32, name="vgg11")
    export(model, tmp_path / "a.pt2", to="torch-export")
    found = open_model(tmp_path / "a.pt2", device="cpu", accelerate=False).network
    assert found.architecture.head == "folded"
    assert torch.equal(found.features.conv1_1.weight, model.features.conv1_1.weight)
    assert torch.equal(found.head.fc8.weight, model.head.fc8.weight)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(images), model(images))


def test_nothing_in_an_archive_is_unpickled(exported, tmp_path):
    """Oracle: a folder that the pickle would make; it is not there."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    path = tmp_path / "evil.pt2"
    with zipfile.ZipFile(exported(".pt2")) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename.endswith("/weight_0") or info.filename.endswith("sample_inputs/model.pt"):
                content = pickle.dumps(Evil())
            if info.filename.endswith("model_weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            target.writestr(info, content)
    with pytest.raises(WeightsError, match="nothing is unpickled"):
        vggnet.predict(path, Image.new("RGB", (80, 80)))
    assert not (tmp_path / "evil").exists()
    with warnings.catch_warnings():  # and PyTorch's own reader would have done it
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match=".*"):
            torch.export.load(path)
    assert (tmp_path / "evil").exists()


def changed(path, target, key, value):
    """A copy of an exported program whose description differs."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as out:
        for info in source.infolist():
            is_key = info.filename.endswith(f"/extra/{key}")
            if value is not None or not is_key:
                out.writestr(info, json.dumps(value) if is_key else source.read(info))
    return target


@pytest.mark.parametrize(("key", "value", "message"), [
    ("task", None, r"no description by vggnet \(task missing\)"),
    ("task", 3, "task or from_pixels has another type"),
    ("classes", ["ant"], "do not name the 5 outputs"),
    ("preprocess", {"crop": 32}, "cannot be used"),
    ("preprocess", {"resize": 9, "crop": 9, "mean": [0.5], "std": [1.0]}, "preprocessing for 1 channels, not 3"),
    ("architecture", {"name": "resnet18"}, "cannot be used"),
    ("architecture", {"name": "vgg11_bn", "num_classes": 5, "head": "gap", "width": 0.1}, "do not fit the network"),
    ("precision", "int4", "precision is 'int4'"),
])  # fmt: skip
def test_a_description_that_is_wrong_is_one_line(key, value, message, exported, tmp_path):
    """Oracle: the message."""
    path = changed(exported(".pt2"), tmp_path / "changed.pt2", key, value)
    with pytest.raises(WeightsError, match=message) as caught:
        open_runnable(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "cut"), [
    (".onnx", 0), (".onnx", 100), (".onnx", -2000), (".pt2", 5000), pytest.param(".xml", 900, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_truncated_file_is_one_line(suffix, cut, exported, tmp_path):
    """Oracle: the contract."""
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(exported(suffix, **PIXELS).read_bytes()[:cut])
    with pytest.raises(WeightsError) as caught:
        vggnet.predict(path, Image.new("RGB", (80, 80)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_others_is_refused(tmp_path):
    """Oracle: the message; the file is torch.export's and sound."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "theirs.pt2")
    with pytest.raises(WeightsError, match="no description by vggnet"):
        vggnet.predict(tmp_path / "theirs.pt2", Image.new("RGB", (80, 80)))


def test_what_needs_layers_refuses_a_graph(exported):
    """Oracle: the message."""
    with pytest.raises(WeightsError, match="this needs the layers of a checkpoint"):
        open_model(exported(".onnx", **PIXELS))
    with pytest.raises(ConfigError, match="on the CPU, not on cuda"):
        open_runnable(exported(".onnx", **PIXELS), device="cuda")
    with products_in("bfloat16"), pytest.raises(ConfigError, match="a precision of its own"):
        open_runnable(exported(".onnx", **PIXELS))


def test_outputs_that_do_not_fit_the_description(exported, tmp_path):
    """Oracle: the message: the file has five outputs and says four."""
    path = exported(".onnx", **PIXELS)
    import onnx

    file = onnx.load(path)
    for entry in file.metadata_props:
        values = json.loads(entry.value)
        if entry.key == "architecture":
            entry.value = json.dumps({**values, "num_classes": 4})
        if entry.key == "classes":
            entry.value = json.dumps(values[:4])
    onnx.save(file, tmp_path / "four.onnx")
    with pytest.raises(WeightsError, match=r"outputs are \(1, 5\), but its description says \(1, 4\)"):
        vggnet.predict(tmp_path / "four.onnx", Image.new("RGB", (80, 80)))


def test_two_formats_do_not_share_a_file_of_weights(model, tmp_path):
    """Oracle: the message."""
    (tmp_path / "a.param").touch()
    with pytest.raises(ConfigError, match=r"a\.param has its weights in a file that this export would replace"):
        export(model, tmp_path / "a.xml", to="openvino")


def test_pixels_come_back():
    """Oracle: every value of every channel, as it was before it was normalized."""
    for preprocess in (Preprocess.imagenet(), Preprocess.caffe(), Preprocess.imagenet(1)):
        pixels = torch.arange(256, dtype=torch.uint8).expand(preprocess.in_channels, 4, 256)
        assert torch.equal(preprocess.to_pixels(preprocess.normalize(pixels)), pixels)


def test_the_benchmark_has_an_exported_file_as_one_more_way(exported, model, tmp_path):
    """Oracle: the network in float64, from which the file's outputs differ little; the messages."""
    path = exported(".onnx", **PIXELS)
    for name, saved in (("mine", model), ("other", network(name="vgg13_bn"))):
        vggnet.save(saved, tmp_path / f"{name}.safetensors")
    bench = bench_infer(str(tmp_path / "mine.safetensors"), batch=2, rounds=1, exported=[path], peers=False)
    assert bench.work.endswith("70x70, batch 2")
    assert len(bench.seconds[str(path)]) == 1
    assert 0 < bench.errors[str(path)] < 1e-5
    with pytest.raises(ConfigError, match=r"is of another network .*; expected Architecture\(name='vgg13_bn'"):
        bench_infer(str(tmp_path / "other.safetensors"), exported=[path], rounds=1, peers=False)
    with pytest.raises(ConfigError, match="vgg11 has random weights; give the run folder"):
        bench_infer("vgg11", width=0.05, head="gap", size=32, exported=[path], peers=False)
    with pytest.raises(ConfigError, match="no library runs it as it is"):
        bench_infer(str(tmp_path / "mine.safetensors"), exported=[exported(".pt2")], rounds=1, peers=False)
