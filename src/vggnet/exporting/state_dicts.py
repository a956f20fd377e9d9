"""Weights under the names of torchvision and timm, for their own networks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from vggnet.errors import ConfigError, require
from vggnet.exporting.format import Exported, Format
from vggnet.files import write_text
from vggnet.models.table1 import POOLED_SIZE, TOTAL_STRIDE
from vggnet.models.vgg import VGG, Architecture, from_dense, to_dense
from vggnet.weights.importers.pytorch import NAMES, TIMM_HEAD, TORCHVISION_HEAD, their_names
from vggnet.weights.runtimes import Run

NATIVE = POOLED_SIZE * TOTAL_STRIDE  # pixels at which pooling to 7x7 changes nothing


class _StateDict(Format):
    """Weights without a graph, for a network that the library has itself."""

    takes_pixels = False

    def check(self, network: Exported) -> None:
        """As the base class says."""
        super().check(network)
        architecture = network.model.architecture
        theirs = Architecture(
            name=architecture.name, num_classes=architecture.num_classes, head=architecture.head,
            in_channels=architecture.in_channels, dropout=architecture.dropout,
        )  # fmt: skip
        if architecture.name not in NAMES or architecture.head not in ("paper", "dense") or architecture != theirs:
            given = ", ".join(f"{name} {value}" for name, value in architecture.as_dict().items())
            raise ConfigError(
                f"{self.name} has no such network ({given}); it has {', '.join(NAMES)} of width 1 with the paper's "
                "head. onnx, openvino and torch-export take every network."
            )


class TorchVision(_StateDict):
    """A state dict for `torchvision.models.vgg16` and its like, written by torch.save."""

    name, suffix = "torchvision", ".pth"
    packages = ()

    def write(self, network: Exported, path: Path) -> None:
        """As the base class says."""
        torch.save(_renamed(_with_paper_head(network.model), TORCHVISION_HEAD), path)

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
        if network.preprocess.crop > NATIVE and network.model.architecture.head == "paper":
            raise ConfigError(
                f"timm's VGG is another function for images of more than {NATIVE} pixels, and this network takes "
                f"{network.preprocess.crop}."
            )

    def write(self, network: Exported, path: Path) -> None:
        """As the base class says."""
        model = network.model
        tensors = _renamed(model if model.architecture.head == "dense" else to_dense(model), TIMM_HEAD)
        tensors["head.fc.weight"] = tensors["head.fc.weight"].flatten(1).contiguous()
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        write_text(path / "config.json", json.dumps(_timm_config(network), indent=2, ensure_ascii=False) + "\n")

    def read(self, path: Path, network: Exported) -> Run:
        """By timm's own network, made of the configuration in the folder."""
        timm: Any = require("timm", "export")
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        options = {"num_classes": config["num_classes"], "in_chans": config["pretrained_cfg"]["input_size"][0]}
        theirs = timm.create_model(config["architecture"], pretrained=False, **options)
        theirs.load_state_dict(load_file(path / "model.safetensors"))
        return _without_gradients(theirs)


def _timm_config(network: Exported) -> dict[str, Any]:
    model = network.model
    architecture = model.architecture
    labels = model.classes or tuple(map(str, range(architecture.num_classes)))
    return {
        "architecture": architecture.name,
        "num_classes": architecture.num_classes,
        "num_features": 4096,
        "label_names": list(labels),
        "model_args": {"in_chans": architecture.in_channels},
        "pretrained_cfg": {
            "num_classes": architecture.num_classes,
            "pool_size": [POOLED_SIZE, POOLED_SIZE],
            "first_conv": "features.0",
            "classifier": "head.fc",
            **network.preprocess.as_timm(),
        },
    }


def _with_paper_head(model: VGG) -> VGG:
    return from_dense(model) if model.architecture.head == "dense" else model


def _renamed(model: VGG, head: Mapping[str, str]) -> dict[str, Tensor]:
    names = their_names(model.architecture.name, model.architecture.head, tuple(head.items()))
    return {names[ours]: tensor.detach().contiguous() for ours, tensor in model.state_dict().items()}


def _without_gradients(network: torch.nn.Module) -> Run:
    network.eval()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = network(images)
        return result

    return run
