"""torchvision's VGGs (`vgg11` to `vgg19_bn`), with their classifier or without it."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.weights.foreign import Foreign
from vggnet.weights.importers.state_dicts import recognize

HEAD = {"head.fc6": "classifier.0", "head.fc7": "classifier.3", "head.fc8": "classifier.6"}


def read(path: Path, state: Mapping[str, Tensor]) -> Foreign:
    """The state dict of a file, whose layers torchvision has numbered.

    Preprocessing is torchvision's for its own weights: 256, 224, ImageNet's mean and deviation.
    Raises: WeightsError if the tensors are of another network.
    """
    architecture, state = recognize(path, state, HEAD, "paper")
    return Foreign("torchvision", architecture, state, Preprocess.imagenet() if architecture.in_channels == 3 else None)
