"""The SSD300 of torchvision on VGG-16 (`ssd300_vgg16`)."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.models.architecture import Architecture
from vggnet.models.detection_heads import DESIGNS
from vggnet.models.vgg import empty
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.file_format import check_tensors

NORM = "scale_weight"  # what only such a network has
_SCORES, _BOXES = "head.classification_head.module_list", "head.regression_head.module_list"
# Of all pixels, as `ssd300_vgg16` has them: the mean pixel of VGG, and colors in 0..255.
_MEAN, _STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3


def is_ssd(state: Mapping[str, Tensor]) -> bool:
    """Whether these are tensors of such a network, by their names without the owner `backbone`."""
    return NORM in state and any(name.startswith(_SCORES) for name in state)


def read(path: Path, state: Mapping[str, Tensor]) -> Checkpoint:
    """The network of a state dict; its images are stretched to 300x300 pixels, colors in 0..255 without the mean.

    A network of COCO's 90 classes, numbered from 1 and some of them without a name, gets their names.

    Args:
        path: of the file, for messages.
        state: its tensors, by names without `backbone`.

    Raises:
        WeightsError: a tensor is missing, does not belong or does not fit.
    """
    from torchvision.models.detection.ssd import SSD300_VGG16_Weights  # takes a second

    first = state.get(f"{_SCORES}.0.weight")
    boxes = DESIGNS["ssd300"].boxes_per_cell[0]
    num_classes = max(1, len(first) // boxes - 1) if first is not None and first.ndim else 1  # one is the background
    model = empty(Architecture(name="vgg16", head="ssd300", num_classes=num_classes))
    names = _their_names([name for name, _ in model.features.named_children()], model.state_dict())
    expected = {theirs: model.state_dict()[ours] for ours, theirs in names.items()}
    check_tensors(path, state, expected, network="torchvision's ssd300_vgg16")
    _, *coco = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
    return Checkpoint(
        architecture=model.architecture,
        task=model.task,
        classes=tuple(coco) if len(coco) == num_classes else None,
        preprocess=Preprocess(resize=300, crop=300, mean=_MEAN, std=_STD, stretch=True),
        provenance={"library": "torchvision"},
        _read=lambda: {ours: state[theirs] for ours, theirs in names.items()},
    )


def _their_names(layers: list[str], ours: Mapping[str, Tensor]) -> dict[str, str]:
    """Our name of each tensor -> theirs."""
    last = layers.index("pool4")
    modules = {f"features.{name}": f"features.{place}" for place, name in enumerate(layers[:last])}
    modules |= {f"features.{name}": f"extra.0.{place}" for place, name in enumerate(layers[last:])}
    modules |= {"head.fc6": "extra.0.7.1", "head.fc7": "extra.0.7.3"}
    names = ["conv4_3", "fc7"]
    for place in range(1, 1 + len(DESIGNS["ssd300"].extras)):
        name = f"conv{7 + place}"
        modules |= {f"head.{name}_1": f"extra.{place}.0", f"head.{name}_2": f"extra.{place}.2"}
        names.append(f"{name}_2")
    for place, name in enumerate(names):
        modules |= {f"head.scores.{name}": f"{_SCORES}.{place}", f"head.boxes.{name}": f"{_BOXES}.{place}"}
    theirs = {"head.norm4_3.weight": NORM}
    for name in ours:
        module, _, tensor = name.rpartition(".")
        theirs.setdefault(name, f"{modules.get(module)}.{tensor}")
    return theirs
