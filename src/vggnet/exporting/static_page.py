"""A page that runs the network in the visitor's browser, by ONNX Runtime Web. Any host of static files serves it."""

import json
from pathlib import Path
from shutil import copyfile

import torch

from vggnet.errors import ConfigError
from vggnet.exporting.format import Exported, Format
from vggnet.exporting.graphs import Onnx
from vggnet.files import write_text
from vggnet.report import PHOTOS
from vggnet.tasks import get_task
from vggnet.weights.checkpoint import OpenModel
from vggnet.weights.runtimes import Run, run_exported

PAGE = Path(__file__).parent / "page"
NETWORK, DESCRIPTION = "model.onnx", "model.json"
# Files of the npm package, in its folder dist, and their names here: hosts know the type of .js better than of .mjs.
RUNTIME = {
    "ort.wasm.bundle.min.mjs": "onnxruntime-web.js",
    "ort-wasm-simd-threaded.wasm": "onnxruntime-web.wasm",
}
HOW = "run `npm install onnxruntime-web` and give --runtime node_modules/onnxruntime-web."


class StaticPage(Format):
    """A folder: the page, the network as ONNX from pixels, its class names, and ONNX Runtime Web."""

    name, suffix = "web", ""
    packages = Onnx.packages
    only_pixels = takes_int8 = takes_runtime = True

    def check(self, network: Exported) -> None:
        """As the base class says; the library must be there."""
        super().check(network)
        if not network.model.architecture.num_classes or not get_task(network.model.task).ranks_classes:
            raise ConfigError(
                f"--to web: the page shows classes, and this network (head {network.model.architecture.head}, task "
                f"{network.model.task}) gives none; export a classifier, or use --to onnx."
            )
        _runtime_files(network.runtime)

    def write(self, network: Exported, path: Path) -> None:
        """As the base class says."""
        path.mkdir(exist_ok=True)
        Onnx().write(network, path / NETWORK)
        write_text(path / DESCRIPTION, json.dumps(_described(network, path / NETWORK), indent=2) + "\n")
        for file in (*PHOTOS.iterdir(), *PAGE.iterdir()):
            copyfile(file, path / file.name)
        for file, name in _runtime_files(network.runtime).items():
            copyfile(file, path / name)

    def read(self, path: Path, network: Exported) -> Run:
        """The network by onnxruntime; that the browser gives the same is tested, not checked here."""
        return run_exported(path / NETWORK)


def _described(network: Exported, file: Path) -> dict[str, object]:
    """What the page needs to know."""
    opened, preprocess = OpenModel(network.model, torch.device("cpu")), network.preprocess
    return {
        "name": network.model.architecture.name,
        "bytes": file.stat().st_size,
        "classes": [opened.class_name(index) for index in range(opened.num_classes)],
        "preprocess": {
            "resize": preprocess.resize,
            "crop": preprocess.crop,
            "stretch": preprocess.stretch,
            "interpolation": preprocess.interpolation,
            "channels": preprocess.in_channels,
        },
    }


def _runtime_files(folder: Path | None) -> dict[Path, str]:
    """The files to copy, and their names beside the page.  Raises: ConfigError."""
    if folder is None:
        raise ConfigError(f"--to web: the page runs the network by ONNX Runtime Web, which vggnet does not have; {HOW}")
    for place in (folder / "dist", folder):
        if all((place / name).is_file() for name in RUNTIME):
            return {place / name: shown for name, shown in RUNTIME.items()}
    raise ConfigError(f"--runtime {folder}: has no {' and '.join(RUNTIME)}, also not in a folder dist; {HOW}")
