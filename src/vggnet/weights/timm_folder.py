"""The folder form of timm and transformers: config.json and model.safetensors, with labels and preprocessing."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, VGGError, WeightsError, one_line
from vggnet.files import write_text
from vggnet.models.architecture import Architecture
from vggnet.models.table1 import POOLED_SIZE, TOTAL_STRIDE
from vggnet.models.vgg import VGG, from_dense, to_dense
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.importers import pytorch
from vggnet.weights.importers.pytorch import NAMES, TIMM_HEAD, their_names
from vggnet.weights.registry import TIMM_CONFIG, TIMM_FILE

NATIVE = POOLED_SIZE * TOTAL_STRIDE  # pixels at which pooling to 7x7 changes nothing


def check_plain(name: str, architecture: Architecture) -> None:
    """Raises: ConfigError if a library, which is called `name`, has no such network."""
    theirs = Architecture(
        name=architecture.name, num_classes=architecture.num_classes, head=architecture.head,
        in_channels=architecture.in_channels, dropout=architecture.dropout,
    )  # fmt: skip
    if architecture.name not in NAMES or architecture.head not in ("paper", "dense") or architecture != theirs:
        given = ", ".join(f"{field} {value}" for field, value in architecture.as_dict().items())
        raise ConfigError(
            f"{name} has no such network ({given}); it has {', '.join(NAMES)} of width 1 with the paper's "
            "head. onnx, openvino and torch-export take every network."
        )


def check_timm(architecture: Architecture, preprocess: Preprocess) -> None:
    """Raises: ConfigError if timm has no such network: it averages the scores of larger images, and takes no BGR."""
    check_plain("timm", architecture)
    preprocess.as_timm()
    if preprocess.crop > NATIVE and architecture.head == "paper":
        raise ConfigError(
            f"timm's VGG is another function for images of more than {NATIVE} pixels, and this network takes "
            f"{preprocess.crop}."
        )


def write_folder(model: VGG, folder: Path) -> None:
    """Write both files into a folder.  model: one that passes `check_timm`."""
    tensors = renamed(model if model.architecture.head == "dense" else to_dense(model), TIMM_HEAD)
    tensors["head.fc.weight"] = tensors["head.fc.weight"].flatten(1).contiguous()
    save_file(tensors, folder / TIMM_FILE, {"format": "pt"})
    write_text(folder / TIMM_CONFIG, json.dumps(_config(model), indent=2, ensure_ascii=False) + "\n")


def renamed(model: VGG, head: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors by the names of torchvision or timm.  head: our layer -> theirs."""
    names = their_names(model.architecture.name, model.architecture.head, tuple(head.items()))
    return {names[ours]: tensor.detach().contiguous() for ours, tensor in model.state_dict().items()}


def read_folder(path: Path) -> Checkpoint:
    """The network of a folder, whose head is our `paper` one where images have 224 pixels or less, else `dense`.

    path: its model.safetensors, beside which config.json lies.
    Raises: WeightsError if config.json is damaged, or describes another network.
    """
    config_path = path.with_name(TIMM_CONFIG)
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        name, cfg = config["architecture"], config["pretrained_cfg"]
        if name not in NAMES:
            raise ValueError(f"architecture is {name!r}; expected {', '.join(NAMES)}")
        preprocess = Preprocess.from_timm(cfg)
        architecture = Architecture(
            name=name,
            num_classes=config["num_classes"],
            head="paper" if preprocess.crop <= NATIVE else "dense",
            in_channels=preprocess.in_channels,
        )
        classes = _classes(config, architecture.num_classes)
    except (KeyError, TypeError, AttributeError, ValueError, OSError, VGGError) as error:
        raise WeightsError(
            f"{config_path}: not a VGG of timm ({one_line(error)}); expected a folder of `vgg export --to timm`, or "
            "one of timm's."
        ) from error
    return Checkpoint(
        architecture=architecture,
        classes=classes,
        preprocess=preprocess,
        provenance={"library": "timm"},
        path=path,
        _read=lambda: _tensors(path, architecture),
    )


def _tensors(path: Path, architecture: Architecture) -> Mapping[str, Tensor]:
    dense = pytorch.read(path)
    if replace(dense.architecture, head=architecture.head) != architecture:
        raise WeightsError(f"{path}: holds {dense.architecture}, but {TIMM_CONFIG} beside it says {architecture}.")
    return dense.tensors() if architecture.head == "dense" else from_dense(dense.build()).state_dict()


def _classes(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...] | None:
    """The labels; timm leaves out those of ImageNet."""
    labels = config.get("label_names")
    if labels is None and num_classes == 1000 and "in1k" in str(config["pretrained_cfg"].get("tag")):
        from vggnet.weights.fetching import imagenet_classes

        return imagenet_classes()
    if labels is not None and (not isinstance(labels, list) or len(labels) != num_classes):
        raise ValueError(f"label_names do not name the {num_classes} classes")
    return tuple(map(str, labels)) if labels else None


def _config(model: VGG) -> dict[str, Any]:
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
            **Preprocess.of(model).as_timm(),
        },
    }
