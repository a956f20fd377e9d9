"""Formats that hold a graph of operators: ONNX, OpenVINO, PyTorch's exported programs and ncnn."""

import logging
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from vggnet.errors import ConfigError, one_line, require
from vggnet.exporting.format import INPUT, OUTPUT, Exported, Format
from vggnet.exporting.int8 import quantize
from vggnet.files import write_text
from vggnet.weights.runtimes import EXTRA, Run, import_openvino

BATCH = 32  # images of one calibration step
OPSET, IR_VERSION = 18, 8  # onnxruntime 1.14 and OpenVINO 2023.0 are the oldest releases that read both


class Onnx(Format):
    """An ONNX file; batch and, where the head allows it, height and width are free."""

    name, suffix = "onnx", ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    takes_int8 = True

    def write(self, network: Exported, path: Path) -> None:
        """As the base class says. It passes ONNX's checker with shape inference."""
        with _quiet():
            program: Any = torch.onnx.export(
                network.module, (network.example(),), dynamo=True, verbose=False, input_names=[INPUT],
                output_names=[OUTPUT], dynamic_shapes=(_dimensions(network),), opset_version=OPSET,
            )  # fmt: skip
        program.model.ir_version = IR_VERSION
        program.model.metadata_props.update(network.description())
        program.save(path)
        if network.calibration is not None:
            quantize(path, [network.inputs(batch) for batch in torch.split(network.calibration, BATCH)], INPUT)
        onnx: Any = require("onnx", EXTRA)
        onnx.checker.check_model(str(path), full_check=True)


class OpenVino(Format):
    """OpenVINO's model: an .xml file, and a .bin file of the same name with the weights in float32."""

    name, suffix, beside = "openvino", ".xml", (".bin",)
    packages = ("openvino", *Onnx.packages)
    takes_int8 = True

    def write(self, network: Exported, path: Path) -> None:
        """From ONNX, so that both have the same free dimensions."""
        openvino = import_openvino()
        with TemporaryDirectory(dir=path.parent) as folder:
            Onnx().write(network, Path(folder) / "network.onnx")
            model = openvino.convert_model(Path(folder) / "network.onnx")
            for key, value in network.description().items():
                model.set_rt_info(value, ["vggnet", key])
            openvino.save_model(model, path, compress_to_fp16=False)


class TorchExport(Format):
    """An exported program of PyTorch: `torch.export.load(path).module()`."""

    name, suffix = "torch-export", ".pt2"
    packages = ()

    def write(self, network: Exported, path: Path) -> None:
        """As the base class says."""
        program = torch.export.export(network.module, (network.example(),), dynamic_shapes=(_dimensions(network),))
        torch.export.save(program, path, extra_files=network.description())

    def read(self, path: Path, network: Exported) -> Run:
        """By PyTorch."""
        module = torch.export.load(path).module()

        def run(images: Tensor) -> Tensor:
            with torch.no_grad():
                result: Tensor = module(images)
            return result

        return run


class Ncnn(Format):
    """ncnn's network: a .param file, and a .bin file of the same name with the weights in float32; one image at a time.

    A .json file of the same name has the description.
    """

    name, suffix, beside = "ncnn", ".param", (".bin", ".json")
    takes_pixels = False
    packages = ("ncnn", "pnnx")

    def write(self, network: Exported, path: Path) -> None:
        """By pnnx, from a traced network."""
        pnnx: Any = require("pnnx", EXTRA)
        example = network.example()[:1]
        with TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing
            command = [pnnx.EXEC_PATH, "network.pt", f"inputshape=[{','.join(map(str, example.shape))}]", "fp16=0"]
            try:
                traced = torch.jit.trace(network.module, example, check_trace=False)  # type: ignore[no-untyped-call]
                traced.save(f"{folder}/network.pt")
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
            except (RuntimeError, TypeError, subprocess.CalledProcessError) as error:
                head = network.model.architecture.head
                raise ConfigError(
                    f"--to ncnn: pnnx cannot convert a network with the head {head} ({one_line(error)}); use --to onnx."
                ) from error
            for suffix in (".param", ".bin"):
                (Path(folder) / f"network.ncnn{suffix}").replace(path.with_suffix(suffix))
        values = ",\n".join(f'  "{name}": {value}' for name, value in network.description().items())
        write_text(path.with_suffix(".json"), f"{{\n{values}\n}}\n")


def _dimensions(network: Exported) -> dict[int, Any]:
    """Those that are free, as torch.export takes them."""
    least = network.least_size
    return {place: Dim(name, min=least) if place else Dim(name) for place, name in network.shape().items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
