"""Where other people put a state dict, what they call its layers, and which heads a VGG of theirs may have."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from vggnet.errors import WeightsError
from vggnet.weights.file_format import check_tensors

CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
WRAPPERS = ("module", "_orig_mod")  # of DataParallel and torch.compile, anywhere in a name
OWNERS = ("model", "net", "network", "backbone", "encoder", "vgg")  # attributes of the module that was saved
_SHOWN = 8  # layers that an error lists


def unwrapped(content: object) -> object:
    """The state dict inside what was saved: itself, or below one of `CONTAINERS` beside epochs and optimizers."""
    while isinstance(content, Mapping):
        inner = next((content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def plain_names(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names of a bare network: without wrappers and owners, and with "features." before a number.

    Beside an owner, modules that have only vectors are left out: weights of classes in a loss, states of metrics.

    Raises: WeightsError if two would have one name.
    """
    parts = {name: [part for part in name.split(".") if part not in WRAPPERS] for name in state}
    while owner := _owner(parts.values()):
        layers = {found[0] for name, found in parts.items() if state[name].ndim > 1}  # a loss has no matrices
        parts = {name: found for name, found in parts.items() if found[0] in layers}
        parts = {name: found[1:] if found[0] == owner else found for name, found in parts.items()}
    if parts and all(len(found) == 2 and found[0].isdecimal() for found in parts.values()):
        parts = {name: ["features", *found] for name, found in parts.items()}
    named: dict[str, Tensor] = {}
    for name, found in parts.items():
        short = ".".join(found)
        if short in named:
            raise WeightsError(f"{path}: holds two networks: {short} is in it twice. Save one model.state_dict().")
        named[short] = state[name]
    return named


def _owner(names: Iterable[list[str]]) -> str | None:
    """The first part of the names of the features, if it is one of `OWNERS`."""
    owners = {parts[0] for parts in names if len(parts) > 3 and parts[0] in OWNERS and "features" in parts}
    owners |= {parts[0] for parts in names if len(parts) == 3 and parts[0] in OWNERS and parts[1].isdecimal()}
    return owners.pop() if len(owners) == 1 else None


def refuse_head(path: Path, head: Mapping[str, Tensor]) -> WeightsError:
    """The error for a head that no VGG of ours has: what it consists of, and how to take the rest."""
    layers = [f"{name} {tuple(tensor.shape)}" for name, tensor in head.items()]
    shown = ", ".join(layers[:_SHOWN]) + (f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else "")
    return WeightsError(
        f"{path}: its head is {shown}; expected the three layers of VGG, or global average pooling and one linear "
        "layer. --features-only (features_only=True) takes the convolutions without it."
    )


def check_features_apart(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str) -> None:
    """Check a whole network; if its features fit and layers of the head are missing, the error says what it is."""
    is_feature = {name: name.startswith("features.") for name in (*state, *expected)}
    head = {name: tensor for name, tensor in state.items() if not is_feature[name]}
    fits = all(name in state for name in expected if is_feature[name])
    if fits and any(name not in head and name.endswith(".weight") for name in expected if not is_feature[name]):
        raise refuse_head(path, head)
    check_tensors(path, state, expected, network=network)
