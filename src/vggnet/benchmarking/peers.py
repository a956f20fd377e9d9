"""Other inference libraries, where they are installed: the same network on the CPU."""

import os
import subprocess
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from vggnet.benchmarking.accuracy import INT8
from vggnet.errors import ConfigError
from vggnet.weights.exported_files import ExportedFile
from vggnet.weights.runtimes import ExportedNetwork, has_runtime, import_openvino

Answer = Callable[[], Tensor]


def installed_peers(network: nn.Module, images: Tensor, threads: int, *, bfloat16: bool = False) -> dict[str, Answer]:
    """Each library's name and version -> a function that infers with `threads` threads.

    Each library runs with the settings that make it fastest without leaving float32. With `bfloat16`, openvino, which
    can compute in it, runs in that precision as well. A library is left out if it, or a package that converts networks
    for it, is not installed. Conversion prints nothing, needs twice the size of the weights in the folder for temporary
    files, and leaves one copy of them in memory for each library.
    network: a VGG in eval mode on the CPU; unchanged.
    Shapes: images (N, C, H, W), float32 on the CPU -> logits (N, num_classes).
    """
    packages: dict[Callable[..., Answer], tuple[str, ...]] = {
        _onnxruntime: ("onnxruntime", "onnx", "onnxscript"),
        _openvino: ("openvino",),
        _ncnn: ("ncnn", "pnnx"),
    }
    if bfloat16:
        packages[_openvino_bfloat16] = ("openvino",)
    peers = {}
    for convert, (library, *others) in packages.items():
        if all(find_spec(package) for package in (library, *others)):
            with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of tracing: the checks of the input's size become constants
                answer = convert(network, images.contiguous(), threads, Path(folder))
            version = import_module(library).__version__.partition("-")[0]
            peers[f"{library} {version}{', bfloat16' if convert is _openvino_bfloat16 else ''}"] = answer
    return peers


def exported_files(files: Sequence[Path | str], network: Any, images: Tensor) -> dict[str, Answer]:
    """The name of each exported file, and its precision unless that is float32 -> a function that infers.

    network: the VGG that they were exported from.
    Shapes: images (N, C, H, W), normalized -> logits (N, num_classes).
    Raises: ConfigError if a file is of another network, or has no library of its own; WeightsError.
    """
    ways: dict[str, Answer] = {}
    for path in map(Path, files):
        if not has_runtime(path):
            raise ConfigError(f"{path}: no library runs it as it is; give .onnx, .xml or .param files of `vgg export`.")
        file = ExportedFile.open(path)
        theirs, ours = file.checkpoint.architecture, network.architecture
        if replace(theirs, head=ours.head) != ours:
            raise ConfigError(f"{path} is of another network ({theirs}); expected {ours}.")
        exported = ExportedNetwork(file)
        ways[str(path) + (INT8 if file.precision == "int8" else "")] = partial(exported.run, exported.inputs(images))
    return ways


def _onnxruntime(network: nn.Module, images: Tensor, threads: int, folder: Path) -> Answer:
    # float32 is its fastest precision here: 1.32 has no convolution in bfloat16 on CPUs ("could not find an
    # implementation for Conv"), and 8-bit integers would be another network.
    import onnxruntime

    torch.onnx.export(network, (images,), folder / "network.onnx", dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Else its threads spin for a while after an answer and slow down whatever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def _openvino_bfloat16(network: nn.Module, images: Tensor, threads: int, folder: Path) -> Answer:
    return _openvino(network, images, threads, folder, precision="bf16")


def _openvino(network: nn.Module, images: Tensor, threads: int, folder: Path, *, precision: str = "f32") -> Answer:
    openvino = import_openvino()
    model = openvino.convert_model(network, example_input=images, input=[tuple(images.shape)])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.compile_model(model, "CPU", settings)
    inputs = images.numpy()
    return lambda: torch.from_numpy(compiled(inputs)[0])


def _ncnn(network: nn.Module, images: Tensor, threads: int, folder: Path) -> Answer:
    import ncnn
    import numpy as np
    import pnnx

    torch.jit.trace(network, images[:1], check_trace=False).save(folder / "network.pt")  # type: ignore[no-untyped-call]
    shape = ",".join(map(str, images[:1].shape))
    unwanted = [f"{kind}={os.devnull}" for kind in ("pnnxbin", "pnnxonnx")]  # copies of the weights
    command = [pnnx.EXEC_PATH, "network.pt", f"inputshape=[{shape}]", "fp16=0", *unwanted]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    net = ncnn.Net()
    net.opt.num_threads = threads
    # By default it would round weights and activations to 16 bits.
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = False
    errors = net.load_param(str(folder / "network.ncnn.param")), net.load_model(str(folder / "network.ncnn.bin"))
    assert errors == (0, 0)
    # A network takes one image at a time. A clone is aligned, and no layer may overwrite it.
    inputs = [ncnn.Mat(image).clone() for image in images.numpy()]
    blobs, workspace = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()

    def answer_one(image: ncnn.Mat) -> Tensor:
        extractor = net.create_extractor()
        extractor.set_blob_allocator(blobs)
        extractor.set_workspace_allocator(workspace)
        extractor.input("in0", image)
        error, logits = extractor.extract("out0")
        assert error == 0
        return torch.from_numpy(np.array(logits)).flatten()

    return lambda: torch.stack([answer_one(image) for image in inputs])
