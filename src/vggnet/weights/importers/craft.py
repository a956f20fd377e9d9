"""CRAFT, which finds text: state dicts of the authors' code and of EasyOCR."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.models.architecture import Architecture
from vggnet.models.vgg import empty
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.file_format import check_tensors

FC6 = "basenet.slice5.1"  # what only such a network has
CLASSES = ("text", "link")
_SLICES = (12, 19, 29)  # torchvision's numbers of the layers with which slices 2, 3 and 4 begin


def is_craft(state: Mapping[str, Tensor]) -> bool:
    """Whether these are tensors of such a network, by their names without wrappers."""
    return f"{FC6}.weight" in state


def read_craft(path: Path, state: Mapping[str, Tensor]) -> Checkpoint:
    """The network of a state dict, with ImageNet's mean and deviation as in the authors' code.

    Args:
        path: of the file, for messages.
        state: its tensors, by names without wrappers.

    Raises:
        WeightsError: a tensor is missing, does not belong or does not fit.
    """
    model = empty(Architecture(name="vgg16_bn", head="craft", num_classes=len(CLASSES)))
    modules = {
        f"features.{name}": f"basenet.slice{1 + sum(place >= first for first in _SLICES)}.{place}"
        for place, (name, _) in enumerate(model.features.named_children())
    }
    modules |= {"head.fc6": FC6, "head.fc7": "basenet.slice5.2", "head.scores.maps": "conv_cls.8"}
    names = {ours: _their_name(ours, modules) for ours in model.state_dict()}
    expected = {theirs: model.state_dict()[ours] for ours, theirs in names.items()}
    check_tensors(path, state, expected, network="CRAFT")
    return Checkpoint(
        architecture=model.architecture,
        task=model.task,
        classes=CLASSES,
        preprocess=Preprocess.imagenet(),
        provenance={"library": "CRAFT"},
        _read=lambda: {ours: state[theirs] for ours, theirs in names.items()},
    )


def _their_name(ours: str, modules: Mapping[str, str]) -> str:
    """`upconv2.conv.3.weight` of `head.stages.1.3.weight`."""
    module, _, tensor = ours.rpartition(".")
    if module.startswith("head.stages."):
        _, _, stage, layer = module.split(".")
        return f"upconv{int(stage) + 1}.conv.{layer}.{tensor}"
    return f"{modules.get(module, module.replace('head.before_scores', 'conv_cls'))}.{tensor}"
