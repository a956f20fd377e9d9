"""In which precision float32 convolutions on a CPU may be computed: as PyTorch's own switches say."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vggnet.accel.algorithm import Precision


def allowed_precision() -> Precision:
    """The lowest precision of the factors of a convolution's products; its sums are float32.

    "bfloat16" after `torch.backends.mkldnn.conv.fp32_precision = "bf16"` or
    `torch.set_float32_matmul_precision("medium")`. By default PyTorch allows float32 alone.

    >>> allowed_precision()
    'float32'
    """
    switches: Any = torch.backends.mkldnn
    return "bfloat16" if "bf16" in (switches.conv.fp32_precision, switches.matmul.fp32_precision) else "float32"


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Set PyTorch's switch for float32 convolutions on CPUs within the block; it is that of the whole process.

    >>> with products_in("bfloat16"):
    ...     allowed_precision()
    'bfloat16'
    """
    switches: Any = torch.backends.mkldnn
    before = switches.conv.fp32_precision
    switches.conv.fp32_precision = "bf16" if precision == "bfloat16" else "ieee"
    try:
        yield
    finally:
        switches.conv.fp32_precision = before
