"""How long a pass takes by each algorithm, predicted from its shape: a shape that is used once is not worth measuring.

time = start + product * products + value * values + weight * weights, in milliseconds; the amounts are millions, as
`Algorithm.amounts` counts them. The rates of convolutions were fitted to 1,201 measured shapes on two cores of a Xeon
with AVX-512. On half of these shapes, which the fit did not see, the predicted choices take 1.3 times as long in all as
the best ones; PyTorch's convolution takes 1.7 times as long. The rates of the weight's gradient were fitted to 50
shapes on one core of a Xeon with AMX, of up to 12 billion products: 1.05 and 2.2 times in float32, 1.02 and 3.5 times
with bfloat16, on shapes that the fit did not see. What counts is the order of the algorithms, which most CPUs share;
`calibration` measures the rates of this machine.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Literal, NamedTuple

from vggnet.accel.algorithm import Algorithm, Pass, Shape
from vggnet.accel.autotuning import machine_key
from vggnet.files import cache_folder


class Rates(NamedTuple):
    """Milliseconds on two threads."""

    start: float
    product: float  # a million multiplications, each with an addition
    value: float  # a million values that are read, transformed or written
    weight: float  # a million weights


CONVOLUTION: Mapping[str, Rates] = {  # forward, the gradient of the input, and inference
    "direct": Rates(0.04, 0.0036, 0.62, 0.44),
    "direct_nchw": Rates(0.04, 0.0066, 1.0, 0.49),
    "matmul": Rates(0.04, 0.0194, 0.0, 0.043),
    "im2col": Rates(0.04, 0.0126, 0.0, 0.0),
    "winograd4": Rates(0.053, 0.0078, 0.34, 0.052),
    "winograd2": Rates(0.054, 0.0082, 0.19, 0.045),
    "bfloat16": Rates(0.03, 0.0018, 0.3, 0.05),
    "bfloat16x3": Rates(0.06, 0.0054, 0.4, 0.1),
}
WEIGHT_GRADIENT: Mapping[str, Rates] = {
    "direct": Rates(0.0089, 0.0062, 0.0, 1.5),
    "direct_nchw": Rates(0.029, 0.0087, 0.85, 0.91),
    "matmul": Rates(0.12, 0.0026, 0.0, 0.62),
    "im2col": Rates(0.021, 0.013, 0.0, 0.0),
    "winograd4": Rates(0.026, 0.009, 0.51, 0.21),
    "winograd2": Rates(0.029, 0.01, 0.32, 0.23),
    "bfloat16": Rates(0.027, 0.0017, 0.12, 0.46),
}


Group = Literal["convolution", "grad_weight"]  # of passes that share rates
Table = Mapping[Group, Mapping[str, Rates]]  # group -> algorithm -> its rates
SHIPPED: Table = {"convolution": CONVOLUTION, "grad_weight": WEIGHT_GRADIENT}


def group_of(work: Pass) -> Group:
    """The passes that share rates."""
    return "grad_weight" if work == "grad_weight" else "convolution"


def predicted_ms(algorithm: Algorithm, work: Pass, shape: Shape, table: Table | None = None) -> float:
    """Milliseconds that a pass takes; infinite for an algorithm without rates. table: by default that of `rates`."""
    found = (table or rates())[group_of(work)].get(algorithm.name)
    if found is None:
        return float("inf")
    products, values, weights = algorithm.amounts(work, shape)
    return found.start + 1e-6 * (found.product * products + found.value * values + found.weight * weights)


def fastest(algorithms: Iterable[Algorithm], work: Pass, shape: Shape, table: Table | None = None) -> str:
    """The name of the algorithm that is predicted to be the fastest; the first of equal ones."""
    return min(algorithms, key=lambda algorithm: predicted_ms(algorithm, work, shape, table)).name


@cache
def rates() -> Table:
    """Those of this machine where it was calibrated, else those that are shipped."""
    return {group: {**SHIPPED[group], **found} for group, found in _read(rates_path()).items()}


def rates_path() -> Path:
    """The file with the rates of this machine, beside the autotuner's."""
    return cache_folder() / f"rates-{machine_key()}.json"


def _read(path: Path) -> Table:
    """What the file holds; nothing of a damaged one."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found: Table = {
            group: {str(name): Rates(*map(float, values)) for name, values in stored[group].items()}
            for group in SHIPPED
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {group: {} for group in SHIPPED}
    sound = all(isfinite(rate) and rate >= 0 for one in found.values() for each in one.values() for rate in each)
    return found if sound else {group: {} for group in SHIPPED}
