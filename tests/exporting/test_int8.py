"""Files in 8-bit integers: on real images, by the libraries that run them."""

import numpy as np
import pytest
import torch

import vggnet
from vggnet.cli.export import main
from vggnet.data.sources.digits import open_digits
from vggnet.errors import ConfigError, WeightsError
from vggnet.exporting import int8
from vggnet.exporting.export import FORMATS, export
from vggnet.exporting.graphs import Onnx
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.exported_files import ExportedFile

NAME = "vgg8_bn-cifar10-fast"


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(int8, "CALIBRATION", 32)
    monkeypatch.setattr(int8, "CHECK", 64)
    monkeypatch.setattr(int8, "ROUNDS", 1)


def test_a_quantized_file_classifies_as_the_network(tmp_path, capsys):
    """Oracle: onnxruntime alone against the network, on images of the test split; onnx, for the weights.

    Two products of 255 and a weight of 7 bits fit into 16 bits: 2 x 255 x 64 <= 32,767.
    """
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = tmp_path / "a.onnx"
    assert main([NAME, "--to", "onnx", "-o", str(path), "--int8", "--data", "digits"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith("compared on 64 images: outputs differ by")
    assert printed[2].startswith("8-bit integers, calibrated on 32 images: 8 images take")
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
    file = onnx.load(path)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    kernels = [tensor for tensor in weights.values() if tensor.dtype == np.int8 and tensor.ndim == 4]
    assert len(kernels) == 7
    assert all(np.abs(kernel.astype(int)).max() <= 64 for kernel in kernels)
    scales = [tensor.shape for name, tensor in weights.items() if name.endswith("weight_scale")]
    assert all((len(kernel),) in scales for kernel in kernels)
    model = vggnet.load(NAME)
    digits = open_digits("test")
    images = torch.stack([model.preprocess(digits.open(i).decode()) for i in range(100)])
    (found,) = runtime.InferenceSession(path).run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images).argmax(1).numpy()
    assert (found.argmax(1) == expected).mean() >= 0.95
    assert ExportedFile.open(path).precision == "int8"
    assert path.stat().st_size < 0.3 * sum(4 * tensor.numel() for tensor in Checkpoint.open(NAME).tensors().values())


def test_calibration_and_comparison_have_no_image_in_common():
    """Oracle: sets of the pixels of each image."""
    calibration, compared = (
        {image.numpy().tobytes() for image in images} for images in int8.read_images("digits", vggnet.Preprocess())
    )
    assert (len(calibration), len(compared)) == (32, 64)
    assert not calibration & compared


def test_what_fails_its_check_is_not_kept(tmp_path, monkeypatch):
    """Oracle: the file that was there before; outputs that name one class for every image."""
    path = tmp_path / "a.onnx"
    path.write_text("before")
    monkeypatch.setattr(Onnx, "packages", ())
    monkeypatch.setattr(Onnx, "write", lambda self, network, path: path.write_text("after"))
    one = torch.eye(10)[:1]
    monkeypatch.setattr(Onnx, "read", lambda self, path, network: lambda images: one.expand(len(images), -1))
    with pytest.raises(WeightsError, match=r"not kept, as \d+ of 64 images get the network's class"):
        export(NAME, path, to="onnx", int8=True, data="digits")
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
    assert path.read_text() == "before"


@pytest.mark.parametrize("to", sorted(FORMATS.keys() - {"onnx", "openvino", "web"}))
def test_formats_without_integers(to, tmp_path):
    """Oracle: the message."""
    out = tmp_path / f"a{FORMATS[to].suffix}"
    with pytest.raises(ConfigError, match=f"--int8: a file for {to} is in float32"):
        export(NAME, out, to=to, int8=True, data="digits")


@pytest.mark.parametrize(("options", "message"), [
    ({"int8": True}, "--int8 takes its images from --data"),
    ({"data": "digits"}, "--int8 takes its images from --data"),
    ({"int8": True, "data": "digits", "images": ["a.jpg"]}, "leave out --images"),
])  # fmt: skip
def test_options_that_do_not_fit(options, message, tmp_path):
    """Oracle: the message."""
    with pytest.raises(ConfigError, match=message):
        export(NAME, tmp_path / "a.onnx", to="onnx", **options)


def test_networks_that_give_no_classes(tmp_path):
    """Oracle: the message."""
    for options in ({"head": "none"}, {"head": "unet", "num_classes": 2}):
        model = vggnet.create_model("vgg11", width=0.05, **options)
        model.preprocess = vggnet.Preprocess(resize=64, crop=64)
        with pytest.raises(ConfigError, match="networks that give classes"):
            export(model, tmp_path / "a.onnx", to="onnx", int8=True, data="digits")


@pytest.mark.slow
def test_openvino_runs_integers(tmp_path):
    """Oracle: OpenVINO, which `export` compares with the network."""
    pytest.importorskip("ncnn", reason="the extra export is not installed")  # importing openvino would report it
    done = export(NAME, tmp_path / "a.xml", to="openvino", int8=True, data="digits")
    assert done.same_class >= 63
    assert done.bytes < 5e6
