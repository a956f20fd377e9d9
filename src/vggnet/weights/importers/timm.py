"""timm's VGGs: torchvision's features, and the fully connected layers as convolutions (`pre_logits`)."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.weights.foreign import Foreign
from vggnet.weights.importers.state_dicts import recognize

HEAD = {"head.fc6": "pre_logits.fc1", "head.fc7": "pre_logits.fc2", "head.fc8": "head.fc"}


def read(path: Path, state: Mapping[str, Tensor]) -> Foreign:
    """The state dict of a file of timm's.

    The head is our `dense` one, the same function from 224 pixels on; for smaller images see `vggnet.from_dense`.
    Preprocessing is timm's for these weights: 256 (crop fraction 0.875), 224, ImageNet's mean and deviation.
    Raises: WeightsError if the tensors are of another network.
    """
    last = state.get("head.fc.weight")
    if last is not None and last.ndim == 2:  # the one linear layer, behind the average over space
        state = {**state, "head.fc.weight": last[:, :, None, None]}
    architecture, renamed = recognize(path, state, HEAD, "dense")
    return Foreign("timm", architecture, renamed, Preprocess.imagenet() if architecture.in_channels == 3 else None)
