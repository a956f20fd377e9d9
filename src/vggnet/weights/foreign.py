"""What every importer makes of another library's file, and what several of them share."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.errors import WeightsError
from vggnet.models.table1 import COLUMN_OF_NAME, layers
from vggnet.models.vgg import Architecture


class Foreign(NamedTuple):
    """A network as an importer has read it."""

    library: str
    architecture: Architecture
    state: dict[str, Tensor]  # by our names, in our layout
    preprocess: Preprocess | None


def network_of(path: Path, kernels: Sequence[int]) -> str:
    """The model name for the kernel sizes of all convolutions in order; there is no batch norm.

    Raises: WeightsError if no column of Table 1 has them.
    """
    for name, column in COLUMN_OF_NAME.items():
        if [layer.kernel for layer in layers(column) if layer.kind == "conv"] == list(kernels):
            return name
    raise WeightsError(
        f"{path}: no network of Table 1 has its {len(kernels)} convolutions (of sizes {', '.join(map(str, kernels))})."
    )


def caffe_input(conv1_1: Tensor, keep_bgr: bool) -> tuple[Tensor, Preprocess | None]:
    """The first kernel, (64, 3, 3, 3), of a network for BGR in 0..255 less the mean pixel, and its preprocessing.

    With `keep_bgr` the kernel stays as it is. Otherwise order and scale are folded into it: for RGB images that are
    divided by ImageNet's deviation s it is W[:, ::-1] * 255 s, the same answer at every pixel. The mean stays in the
    preprocessing: the layer pads with zeros, which stand for the mean color, so that a bias could replace it only
    inside the image. A first layer of other than three channels is left alone, without preprocessing.
    """
    if conv1_1.ndim != 4 or conv1_1.shape[1] != 3:
        return conv1_1, None
    theirs, ours = Preprocess.caffe(), Preprocess.caffe(bgr=False)
    return (conv1_1, theirs) if keep_bgr else (theirs.convert_kernel(conv1_1, ours), ours)
