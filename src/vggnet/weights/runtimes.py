"""Exported files that their own libraries run: onnxruntime, OpenVINO and ncnn."""

import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vggnet.accel.precision import allowed_precision
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, MissingDependencyError, WeightsError, one_line, require
from vggnet.models.architecture import Architecture
from vggnet.models.vgg import VGG, empty
from vggnet.weights.checkpoint import OpenModel, open_model
from vggnet.weights.exported_files import ExportedFile
from vggnet.weights.registry import locate

EXTRA = "export"
Run = Callable[[Tensor], Tensor]  # what a file takes -> its outputs


class ExportedNetwork(nn.Module):
    """An exported file in place of a network; its library runs it on the CPU.

    Normalized images (N, C, H, W) -> outputs, as the network that was exported.

    Args:
        file: what the file says of itself.

    Raises:
        WeightsError: its library cannot read it; when called, it cannot take the images, or its outputs are not those
            that it describes.
        MissingDependencyError: the library is not installed.
    """

    def __init__(self, file: ExportedFile) -> None:
        super().__init__()
        checkpoint = file.checkpoint
        assert checkpoint.path is not None  # it was opened
        self.path = checkpoint.path
        self.architecture, self.task = checkpoint.architecture, checkpoint.task
        self.classes, self.preprocess = checkpoint.classes, checkpoint.preprocess
        self.from_pixels, self.precision = file.from_pixels, file.precision
        self.run = run_exported(self.path)
        self._shape_of = cache(partial(_output_shape, self.architecture))

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without a head."""
        return self.architecture.num_classes

    def inputs(self, images: Tensor) -> Tensor:
        """What the file takes, from normalized images (N, C, H, W)."""
        if self.from_pixels:
            images = Preprocess.of(self).to_pixels(images).permute(0, 2, 3, 1)
        return images.contiguous()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_outputs), or what the network gives instead of scores."""
        try:
            outputs = self.run(self.inputs(images))
        except Exception as error:  # of whichever type the library has
            raise WeightsError(
                f"{self.path}: cannot run images of shape {tuple(images.shape)} ({one_line(error)})."
            ) from error
        expected = self._shape_of(tuple(images.shape))
        if tuple(outputs.shape) != expected:
            raise WeightsError(
                f"{self.path}: its outputs are {tuple(outputs.shape)}, but its description says {expected}. "
                "Export it again."
            )
        return outputs


def _output_shape(architecture: Architecture, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a network's outputs for images of a shape."""
    return tuple(empty(architecture).eval()(torch.empty(shape, device="meta")).shape)


def has_runtime(path: Path) -> bool:
    """Whether the name is that of an exported file which its own library runs."""
    return path.suffix.lower() in _RUNTIMES


def open_runnable(source: VGG | Path | str, *, device: str | None = None) -> OpenModel:
    """As `open_model`; it also opens exported files, which have outputs but no layers.

    Args:
        source: as for `open_model`, or a file of `vgg export`.
        device: as for `open_model`; libraries run exported files on the CPU.

    Raises:
        ConfigError: another device or precision is wanted for an exported file; and as `open_model`.
        WeightsError: as `Checkpoint.open`, or the file's library cannot read it.
        MissingDependencyError: that library is not installed.
    """
    if isinstance(source, nn.Module) or not has_runtime(path := locate(source)):
        return open_model(source, device=device)
    if device not in (None, "cpu"):
        raise ConfigError(f"{path}: exported files run on the CPU, not on {device}; leave out the device.")
    if allowed_precision() != "float32":
        raise ConfigError(f"{path}: an exported file has a precision of its own; leave out --precision.")
    # Prediction and evaluation call it, and ask for nothing that it lacks, as they do with networks of others.
    return OpenModel(cast("VGG", ExportedNetwork(ExportedFile.open(path))), torch.device("cpu"))


def run_exported(path: Path) -> Run:
    """The file in its own library, with as many threads as PyTorch.

    Raises: WeightsError if the library cannot read it; MissingDependencyError.
    """
    try:
        return _RUNTIMES[path.suffix.lower()](path)
    except MissingDependencyError:
        raise
    except Exception as error:  # of whichever type the library has
        raise WeightsError(
            f"{path}: its library cannot read it ({one_line(error)}). It may be truncated; export it again."
        ) from error


def import_openvino() -> Any:
    """The package, without its reports over the network.  Raises: MissingDependencyError."""
    # Importing openvino and converting with it report to its makers over the network, unless this import of its fails.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return require("openvino", EXTRA)


def _onnxruntime(path: Path) -> Run:
    runtime: Any = require("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4  # errors are raised as well
    # Else its threads spin for a while after a call and slow down whatever follows.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _openvino(path: Path) -> Run:
    openvino = import_openvino()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.compile_model(openvino.Core().read_model(path), "CPU", settings)
    return lambda images: torch.from_numpy(compiled(images.numpy())[0].copy())


def _ncnn(path: Path) -> Run:
    """In float32, each image by itself."""
    ncnn: Any = require("ncnn", EXTRA)
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise OSError("ncnn refuses it")

    def run_one(image: Tensor) -> Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image.contiguous().numpy()).clone())
        error, found = extractor.extract("out0")
        if error:
            raise OSError("ncnn cannot compute it")
        return torch.from_numpy(found.numpy().copy())

    return lambda images: torch.stack([run_one(image) for image in images])


_RUNTIMES: dict[str, Callable[[Path], Run]] = {".onnx": _onnxruntime, ".xml": _openvino, ".param": _ncnn}
