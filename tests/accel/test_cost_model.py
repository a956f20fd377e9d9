"""Predicted times of algorithms."""

import pytest

from vggnet.accel.algorithm import Amounts, Shape
from vggnet.accel.algorithms.all import ALGORITHMS
from vggnet.accel.cost_model import CONVOLUTION, SHIPPED, WEIGHT_GRADIENT, fastest, predicted_ms
from vggnet.accel.kernels.llvm import ROWS

BY_NAME = {algorithm.name: algorithm for algorithm in ALGORITHMS}


@pytest.mark.parametrize(("name", "shape", "expected"), [
    ("direct", Shape(2, 4, 5, 3, 64), Amounts(9 * 40 * 16 * 64, 40 * 67, 9 * 3 * 64)),
    ("matmul", Shape(8, 2, 2, 16, 32), Amounts(8 * 16 * 512, 0, 16 * 512)),
    ("im2col", Shape(1, 32, 32, 3, 64), Amounts(9 * 1024 * 192, 0, 0)),
    ("winograd4", Shape(1, 4 * ROWS, 8, 16, 32), Amounts(2 * ROWS * 36 * 512, 2 * ROWS * 36 * 48, 36 * 512)),
    ("winograd2", Shape(1, 2 * ROWS, 2, 16, 32), Amounts(ROWS * 16 * 512, ROWS * 16 * 48, 16 * 512)),
])  # fmt: skip
def test_amounts(name, shape, expected):
    """Oracle: by hand."""
    assert BY_NAME[name].amounts("forward", shape) == expected


def test_a_time(monkeypatch):
    """Oracle: by hand: 0.04 + 0.0036 * 36.864 + 0.62 * 0.131072 + 0.44 * 0.036864."""
    found = predicted_ms(BY_NAME["direct"], "inference", Shape(1, 32, 32, 64, 64))
    assert found == pytest.approx(0.04 + 0.0036 * 37.748736 + 0.62 * 0.131072 + 0.44 * 0.036864)


def test_every_algorithm_has_rates():
    """Oracle: the list of algorithms; one that is not known is never predicted to be the fastest."""
    assert set(CONVOLUTION) == set(BY_NAME)
    assert set(WEIGHT_GRADIENT) == set(BY_NAME) - {"bfloat16x3"}  # which has no such pass


@pytest.mark.parametrize(("shape", "expected"), [
    (Shape(1, 224, 224, 64, 64), {"winograd4", "winograd2"}), (Shape(4, 56, 56, 256, 256), {"winograd4", "winograd2"}),
    (Shape(1, 224, 224, 3, 64), {"im2col"}), (Shape(1, 8, 8, 16, 16), {"direct", "winograd2", "winograd4"}),
    (Shape(128, 2, 2, 512, 512), {"matmul", "winograd2"}),
])  # fmt: skip
def test_choices(shape, expected):
    """Oracle: what was measured on Zen 3 and on a Xeon, see experiments/benchmarks."""
    algorithms = [a for a in ALGORITHMS if a.precision == "float32" and a.supports("inference", shape)]
    assert fastest(algorithms, "inference", shape) in expected


# Shape -> milliseconds of one core of a Xeon with AMX for the weight's gradient.
MEASURED = {
    Shape(4, 72, 72, 256, 256): {"direct": 246, "winograd4": 108, "winograd2": 148, "bfloat16": 80},
    Shape(4, 36, 36, 512, 512): {"direct": 290, "winograd4": 116, "winograd2": 200, "bfloat16": 76},
    Shape(16, 28, 28, 256, 256): {"direct": 134, "winograd4": 76, "winograd2": 104, "bfloat16": 50},
    Shape(128, 4, 4, 512, 512): {"direct": 140, "winograd4": 44, "winograd2": 76, "bfloat16": 50},
    Shape(1, 224, 224, 64, 64): {"direct": 32, "winograd4": 20, "winograd2": 28, "bfloat16": 8},
    Shape(4, 112, 112, 16, 32): {"direct": 6, "winograd4": 30, "winograd2": 46},
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", MEASURED)
def test_the_gradient_of_large_layers(shape, precision):
    """Oracle: times that were measured. Without a rate for products, stock convolutions seemed to be the fastest."""
    usable = [BY_NAME[name] for name in MEASURED[shape] if precision in ("bfloat16", BY_NAME[name].precision)]
    times = {algorithm.name: MEASURED[shape][algorithm.name] for algorithm in usable}
    assert times[fastest(usable, "grad_weight", shape, SHIPPED)] <= 1.7 * min(times.values())
