"""Weights under the names of torchvision and timm, for their own networks."""

import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor

from vggnet.errors import require
from vggnet.exporting.format import Exported, Format
from vggnet.models.vgg import VGG, from_dense
from vggnet.weights.importers.pytorch import TORCHVISION_HEAD
from vggnet.weights.runtimes import Run
from vggnet.weights.timm_folder import check_plain, check_timm, renamed, write_folder


class _StateDict(Format):
    """Weights without a graph, for a network that the library has itself."""

    takes_pixels = False

    def check(self, network: Exported) -> None:
        """As the base class says."""
        super().check(network)
        check_plain(self.name, network.model.architecture)


class TorchVision(_StateDict):
    """A state dict for `torchvision.models.vgg16` and its like, written by torch.save."""

    name, suffix = "torchvision", ".pth"
    packages = ()

    def write(self, network: Exported, path: Path) -> None:
        """As the base class says."""
        torch.save(renamed(_with_paper_head(network.model), TORCHVISION_HEAD), path)

    def read(self, path: Path, network: Exported) -> Run:
        """By torchvision's own network."""
        architecture = network.model.architecture
        build: Any = getattr(torchvision.models, architecture.name)
        theirs = build(weights=None, num_classes=architecture.num_classes, init_weights=False)
        if architecture.in_channels != 3:
            first = theirs.features[0]
            theirs.features[0] = torch.nn.Conv2d(architecture.in_channels, first.out_channels, 3, padding=1)
        theirs.load_state_dict(torch.load(path, weights_only=True))
        return _without_gradients(theirs)


class Timm(_StateDict):
    """A folder that timm and transformers load: config.json and model.safetensors, with labels and preprocessing.

    `timm.create_model("local-dir:FOLDER", pretrained=True)`, or "hf-hub:USER/NAME" once it is on the hub, and
    transformers' `pipeline("image-classification", FOLDER)`.
    """

    name, suffix = "timm", ""
    packages = ("timm",)

    def check(self, network: Exported) -> None:
        """As the base class says; timm averages the scores of larger images instead of pooling the map."""
        super().check(network)
        check_timm(network.model.architecture, network.preprocess)

    def write(self, network: Exported, path: Path) -> None:
        """As the base class says."""
        write_folder(network.model, path)

    def read(self, path: Path, network: Exported) -> Run:
        """By timm's own network, made of the configuration in the folder."""
        timm: Any = require("timm", "export")
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        options = {"num_classes": config["num_classes"], "in_chans": config["pretrained_cfg"]["input_size"][0]}
        theirs = timm.create_model(config["architecture"], pretrained=False, **options)
        theirs.load_state_dict(load_file(path / "model.safetensors"))
        return _without_gradients(theirs)


def _with_paper_head(model: VGG) -> VGG:
    return from_dense(model) if model.architecture.head == "dense" else model


def _without_gradients(network: torch.nn.Module) -> Run:
    network.eval()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = network(images)
        return result

    return run
