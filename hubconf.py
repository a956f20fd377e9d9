"""The networks for `torch.hub`: `torch.hub.load("PATH/OF/THIS/FOLDER", "vgg16_bn", source="local", num_classes=10)`.

Each entry takes the options of `vggnet.create_model`, such as `weights="vgg16_bn:torchvision"`, and gives its network.
"""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

dependencies = [
    "torch", "torchvision", "numpy", "PIL", "simplejpeg", "safetensors", "numba", "filelock", "pyarrow", "platformdirs",
    "defusedxml", "tqdm",
]  # fmt: skip

_SOURCE = str(_Path(__file__).resolve().parent / "src")
if _SOURCE not in _sys.path:  # the package of this folder, also where it is not installed
    _sys.path.insert(0, _SOURCE)

from vggnet.models.table1 import MODEL_NAMES as _MODEL_NAMES  # noqa: E402


def _entry(name: str) -> _Callable[..., _Any]:
    def create(**options: _Any) -> _Any:
        from vggnet import create_model

        return create_model(name, **options)

    create.__name__ = name
    create.__doc__ = (
        f"Create {name}, with the options and errors of `vggnet.create_model`: weights, num_classes, head, ..."
    )
    return create


globals().update({_name: _entry(_name) for _name in _MODEL_NAMES})
