"""State dicts of torchvision, timm and others that number the layers alike, with their classifier or without it.

Files are read without running code in them: what is neither tensors nor plain data is left out. The layers are
recognized by their numbers, which timm has kept. A state dict may lie inside a training checkpoint, and its names may
have the prefixes of wrappers (`foreign.plain_names`).
"""

import pickle
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.errors import WeightsError, one_line
from vggnet.models.architecture import Architecture
from vggnet.models.vgg import empty
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.importers.craft import is_craft, read_craft
from vggnet.weights.importers.foreign import check_features_apart, plain_names, unwrapped
from vggnet.weights.importers.repvgg import is_repvgg, read_repvgg
from vggnet.weights.importers.torchvision_ssd import is_ssd
from vggnet.weights.importers.torchvision_ssd import read as read_ssd

# Beside weights, training checkpoints hold accuracies and options: data that PyTorch leaves out of its own list.
_HARMLESS: list[Any] = [np.float64(0).__reduce__()[0], np.dtype, *map(type, map(np.dtype, "fdil")), Namespace]

# our layer -> theirs
TORCHVISION_HEAD = {"head.fc6": "classifier.0", "head.fc7": "classifier.3", "head.fc8": "classifier.6"}
TIMM_HEAD = {"head.fc6": "pre_logits.fc1", "head.fc7": "pre_logits.fc2", "head.fc8": "head.fc"}
_KUANGLIU = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # pytorch-cifar, main.py
NAMES = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))


def read(path: Path, *, features_only: bool = False) -> Checkpoint:
    """The network of a file of torchvision's or timm's, or with one linear layer behind the features; SSD300, CRAFT.

    That layer is our head "gap", the same function from 32 pixels on; such a file states no preprocessing, but 10
    classes of 512 features are those of kuangliu's CIFAR-10 networks. `features_only` leaves any head out.

    timm's fully connected layers are convolutions (`pre_logits`): the head is our `dense` one, the same function from
    224 pixels on; for smaller images see `vggnet.models.vgg.from_dense`. Preprocessing is that of both libraries for
    these weights: 256, 224 (timm's crop fraction 0.875), ImageNet's mean and deviation. For timm's RepVGG see
    `read_repvgg`.
    Raises: WeightsError if the file is damaged, or the tensors are of another network.
    """
    state = plain_names(path, read_state(path))
    if is_repvgg(state):
        return read_repvgg(path, state, features_only=features_only)
    if is_ssd(state) and not features_only:
        return read_ssd(path, state)
    if is_craft(state):
        return read_craft(path, state)
    if features_only:
        state = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    linear = _single_linear(state)
    if linear is not None:
        architecture, tensors = recognize(path, state, {"head.fc": linear}, "gap")
        is_cifar = architecture.num_classes == 10 and architecture.in_channels == 3
        preprocess = Preprocess(resize=32, crop=32, mean=_KUANGLIU[0], std=_KUANGLIU[1]) if is_cifar else None
        return Checkpoint(
            architecture=architecture,
            preprocess=preprocess,
            provenance={"library": "PyTorch"},
            _read=lambda: tensors,
        )
    is_timm = f"{TIMM_HEAD['head.fc6']}.weight" in state
    if is_timm:
        last = state.get("head.fc.weight")
        if last is not None and last.ndim == 2:  # the one linear layer, behind the average over space
            state["head.fc.weight"] = last[:, :, None, None]
        architecture, tensors = recognize(path, state, TIMM_HEAD, "dense")
    else:
        architecture, tensors = recognize(path, state, TORCHVISION_HEAD, "paper")
    return Checkpoint(
        architecture=architecture,
        preprocess=Preprocess.imagenet() if architecture.in_channels == 3 else None,
        provenance={"library": "timm" if is_timm else "torchvision"},
        _read=lambda: tensors,
    )


class _NotRead:
    """Stands for an object of a class that is not loaded: it takes what the object was made of, and keeps nothing."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors that `torch.save(model.state_dict(), path)` has written, or those of a safetensors file.

    Raises: WeightsError if the file is damaged, or holds anything but named tensors; code in it is not run.
    """
    try:
        content = load_file(path) if path.suffix.lower() == ".safetensors" else _unpickled(path)
        state = unwrapped(content)
        if _is_not_read(state) or (isinstance(state, Mapping) and any(map(_is_not_read, state.values()))):
            raise pickle.UnpicklingError
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: damaged, or it holds more than tensors, which is never run here. Fetch it again, or write it by "
            "torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:  # whatever reading a damaged archive runs into
        raise WeightsError(
            f"{path}: cannot be read ({one_line(error)}). It may be cut short; fetch it again."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise WeightsError(f"{path}: holds a {type(state).__name__}, expected tensors by name (a state dict).")
    odd = [name for name, tensor in state.items() if not _is_plain(tensor)]
    if odd:
        raise WeightsError(
            f"{path}: {', '.join(odd[:8])}: no plain tensor; expected those of model.state_dict() alone."
        )
    return {name: tensor.detach() for name, tensor in state.items()}


def recognize(
    path: Path, state: Mapping[str, Tensor], head: Mapping[str, str], head_name: str
) -> tuple[Architecture, dict[str, Tensor]]:
    """The network whose layers are numbered like these, and its tensors by our names.

    The numbers are torchvision's, which timm has kept: those of our `features` in order. head: our layer -> theirs, of
    a network with the head `head_name`; without any of these layers the network has none.
    Raises: WeightsError with what is missing, does not belong or does not fit, by the names in the file.
    """
    has_head = any(name.startswith(f"{theirs}.") for theirs in head.values() for name in state)
    sizes: dict[str, Any] = {
        "head": head_name if has_head else "none",
        "num_classes": _size(state, f"{[*head.values()][-1]}.weight", 0, 1000),
        "in_channels": _size(state, "features.0.weight", 1, 3),
    }
    layouts = {name: their_names(name, sizes["head"], tuple(head.items())) for name in NAMES}
    name = min(layouts, key=lambda name: len(state.keys() ^ set(layouts[name].values())))
    names, model = layouts[name], empty(Architecture(name=name, **sizes))
    counters = {theirs: torch.tensor(0) for theirs in names.values() if theirs.endswith(".num_batches_tracked")}
    found = {**counters, **state}  # files from before PyTorch 0.4.1 do not count batches
    expected = {theirs: model.state_dict()[ours] for ours, theirs in names.items()}
    check_features_apart(path, found, expected, f"{name}, the nearest one")
    return model.architecture, {ours: found[theirs] for ours, theirs in names.items()}


@cache
def their_names(name: str, head_name: str, head: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Our name of each tensor -> theirs."""
    model = empty(Architecture(name=name, head=head_name))
    numbers = {f"features.{place}": f"features.{i}" for i, (place, _) in enumerate(model.features.named_children())}
    return {ours: _renamed(ours, {**numbers, **dict(head)}) for ours in model.state_dict()}


def _unpickled(path: Path) -> object:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # PyTorch does not compare the checksums
        if damaged is not None:
            raise WeightsError(f"the checksum of {damaged} is wrong")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what kinds of tensors are in it, which are refused
        with torch.serialization.safe_globals(_HARMLESS):
            others = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        with torch.serialization.safe_globals([*_HARMLESS, *((_NotRead, name) for name in others)]):
            return torch.load(path, map_location="cpu", weights_only=True)


def _single_linear(state: Mapping[str, Tensor]) -> str | None:
    """The name of the only layer behind the features, if it is linear and has as many inputs as they have channels."""
    behind = {name.rpartition(".")[0] for name in state if not name.startswith("features.")}
    channels = {len(tensor) for name, tensor in state.items() if name.startswith("features.") and tensor.ndim == 4}
    if len(behind) != 1 or not channels:
        return None
    (layer,) = behind
    weight = state.get(f"{layer}.weight")
    is_linear = weight is not None and weight.ndim == 2 and weight.shape[1] == max(channels)
    return layer if is_linear else None


def _is_not_read(content: object) -> bool:
    return content is _NotRead or isinstance(content, _NotRead)


def _is_plain(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and not (tensor.is_quantized or tensor.is_complex() or tensor.is_meta)
    )


def _size(state: Mapping[str, Tensor], name: str, dimension: int, default: int) -> int:
    return state[name].shape[dimension] if name in state and state[name].ndim > dimension else default


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    module, _, tensor = name.rpartition(".")
    return f"{modules[module]}.{tensor}"
