"""In which precision float32 convolutions on a CPU may be computed: as PyTorch's own switches say."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from vggnet.accel.algorithm import Precision
from vggnet.accel.compilation import problem

PrecisionChoice = Precision | Literal["auto"]  # "auto": see `best_precision`


def allowed_precision() -> Precision:
    """The lowest precision of the factors of a convolution's products; its sums are float32.

    "bfloat16" after `torch.backends.mkldnn.conv.fp32_precision = "bf16"` or
    `torch.set_float32_matmul_precision("medium")`. By default PyTorch allows float32 alone.

    >>> allowed_precision()
    'float32'
    """
    switches: Any = torch.backends.mkldnn
    return "bfloat16" if "bf16" in (switches.conv.fp32_precision, switches.matmul.fp32_precision) else "float32"


def best_precision() -> Precision:
    """What "auto" means on this CPU: bfloat16 if it has a matrix unit for it (AMX), which is about twice as fast."""
    if problem():
        return "float32"
    from vggnet.accel.kernels.tiles import has_tiles  # imports numba, which takes a part of a second

    return "bfloat16" if has_tiles() else "float32"


def uses_matrix_unit() -> bool:
    """Whether products may be in bfloat16, and this CPU has a matrix unit for them."""
    return allowed_precision() == best_precision() == "bfloat16"


@contextmanager
def products_in(precision: PrecisionChoice) -> Iterator[None]:
    """Set PyTorch's switch for float32 convolutions on CPUs within the block; it is that of the whole process.

    precision: "auto" is that of `best_precision`.

    >>> with products_in("bfloat16"):
    ...     allowed_precision()
    'bfloat16'
    """
    switches: Any = torch.backends.mkldnn
    with _switched(switches.conv, best_precision() if precision == "auto" else precision):
        yield


@contextmanager
def matrices_like_convolutions() -> Iterator[None]:
    """Within the block PyTorch computes products of float32 matrices on CPUs in the precision of convolutions."""
    switches: Any = torch.backends.mkldnn
    with _switched(switches.matmul, allowed_precision()):
        yield


@contextmanager
def _switched(switch: Any, precision: Precision) -> Iterator[None]:
    before = switch.fp32_precision
    switch.fp32_precision = "bf16" if precision == "bfloat16" else "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before
