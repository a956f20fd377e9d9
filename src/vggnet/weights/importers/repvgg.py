"""timm's RepVGG, with its branches or folded by timm, as the plain network of 3x3 convolutions.

The branches are folded by `vggnet.models.branches`, in float64 from the running statistics. Source: RepVGG (Ding et
al., CVPR 2021, arXiv:2101.03697).
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.models.architecture import Architecture
from vggnet.models.branches import BranchedVGG, add_branches
from vggnet.models.table1 import COLUMN_OF_NAME, STRIDED
from vggnet.models.vgg import VGG, empty
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.file_format import check_tensors

NAMES = tuple(name for name, column in COLUMN_OF_NAME.items() if column in STRIDED)
FIRST = {"stem.conv_kxk.conv.weight": True, "stem.reparam_conv.weight": False}  # the first kernel: of a branch or not
_BRANCHES = {"3x3": "conv_kxk", "1x1": "conv_1x1", "identity": "identity"}


def is_repvgg(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors have the names of timm's RepVGG."""
    return any(name in state for name in FIRST)


def read_repvgg(path: Path, state: Mapping[str, Tensor], *, features_only: bool = False) -> Checkpoint:
    """The folded network of timm's tensors, with timm's preprocessing for ImageNet.

    Raises: WeightsError if they are of another network, such as one of the grouped or larger variants.
    """
    state = {name: tensor for name, tensor in state.items() if not (features_only and name.startswith("head."))}
    first = next(name for name in FIRST if name in state)
    has_branches, in_channels = FIRST[first], state[first].shape[1]
    candidates = [_empty(name, state, in_channels, has_branches) for name in NAMES]
    model = min(candidates, key=lambda model: len(_shapes(_expected(model)) ^ _shapes(state)))
    expected = _expected(model)
    check_tensors(path, state, expected, network=f"{model.architecture.name.removesuffix('_bn')}, the nearest one")
    model.load_state_dict(dict(zip(model.state_dict(), (state[name] for name in expected), strict=True)))
    plain = model.folded() if isinstance(model, BranchedVGG) else model
    plain.preprocess = Preprocess.imagenet() if in_channels == 3 else None
    return Checkpoint.of(plain, provenance={"library": "timm"})


def _empty(name: str, state: Mapping[str, Tensor], in_channels: int, has_branches: bool) -> VGG:
    """A network without weights that has the head of these tensors."""
    head, classes = ("gap", len(state["head.fc.weight"])) if "head.fc.weight" in state else ("none", 0)
    full_name = f"{name}_bn" if has_branches else name
    model = empty(Architecture(name=full_name, head=head, num_classes=classes, in_channels=in_channels))
    return add_branches(model, "repvgg") if has_branches else model


def _expected(model: VGG) -> dict[str, Tensor]:
    """The tensors of our network by timm's names, in our order."""
    return {_their_name(name): tensor for name, tensor in model.state_dict().items()}


def _their_name(ours: str) -> str:
    """`stages.0.1.conv_1x1.bn.bias` of `features.conv2_2.1x1.bn.bias`."""
    part, layer, *rest = ours.split(".")
    if part == "head":
        return ours
    block, number = map(int, layer.removeprefix("conv").split("_"))
    place = "stem" if block == 1 else f"stages.{block - 2}.{number - 1}"
    branch = ["reparam_conv", *rest] if len(rest) == 1 else [_BRANCHES[rest[0]], *rest[1:]]
    return ".".join([place, *branch])


def _shapes(state: Mapping[str, Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(tensor.shape)) for name, tensor in state.items()}
