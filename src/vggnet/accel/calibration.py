"""The rates of `cost_model` for this machine, from a few shapes that are measured in seconds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import nn

from vggnet.accel.algorithm import Algorithm, Pass, Shape
from vggnet.accel.autotuning import DIRECT, Candidate, measure
from vggnet.accel.cost_model import SHIPPED, Group, Rates, Table, fastest, group_of, rates, rates_path
from vggnet.accel.weight_cache import FoldedWeights
from vggnet.files import write_text
from vggnet.progress import Progress, report_progress

PASSES: tuple[Pass, ...] = ("inference", "grad_input", "grad_weight")  # the forward pass is between the first two
ROUNDS = 3  # of measurements, the fastest of which counts: other work may slow one of them down
FITTED = tuple(Shape(*sizes) for sizes in (
    (1, 64, 64, 3, 64), (4, 32, 32, 3, 32), (1, 112, 112, 3, 64),
    (16, 2, 2, 64, 64), (64, 2, 2, 128, 128), (8, 2, 2, 512, 512), (128, 2, 2, 64, 256),
    (1, 8, 8, 16, 16), (1, 56, 56, 16, 32), (4, 28, 28, 32, 32), (2, 112, 112, 32, 32),
    (1, 56, 56, 64, 64), (1, 96, 96, 64, 64), (8, 16, 16, 64, 64), (32, 8, 8, 64, 128),
    (1, 28, 28, 128, 128), (4, 14, 14, 128, 256), (1, 7, 7, 256, 512), (1, 14, 14, 512, 512),
    (4, 28, 28, 256, 256), (8, 14, 14, 512, 512),
))  # fmt: skip
HELD_OUT = tuple(Shape(*sizes) for sizes in (
    (2, 48, 48, 3, 64), (32, 2, 2, 256, 256), (1, 20, 20, 32, 64), (2, 40, 40, 64, 64), (1, 80, 60, 64, 64),
    (16, 8, 8, 128, 128), (1, 28, 28, 256, 256), (4, 10, 10, 256, 256),
))  # fmt: skip

Measured = Mapping[tuple[Pass, Shape], Mapping[str, float]]  # -> algorithm -> milliseconds


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Rates of this machine, and how good predicted choices are on shapes that the fit did not see.

    A quality is the time that choices take in all by that of the best choices, in float32: 1 is the best.
    """

    shapes: int  # that were fitted
    held_out: int  # that were not
    rates: Table
    before: float  # quality with the rates that were in use
    after: float  # with these
    stock: float  # of PyTorch's convolution in channels-last memory
    kept: bool  # whether they are better, and stored
    path: str  # the file that holds them, if there is one


def calibrate(*, progress: Progress = False) -> Calibration:
    """Measure a few shapes by all algorithms, fit the rates, and keep them if their choices are at least as good.

    Args:
        progress: see `vggnet.progress.Progress`.

    Raises:
        StorageError: the cache folder cannot be written.
    """
    from vggnet.accel.algorithms.all import ALGORITHMS  # imports numba

    jobs = [(work, shape) for shape in (*FITTED, *HELD_OUT) for work in PASSES]
    measured: dict[tuple[Pass, Shape], dict[str, float]] = {job: {} for job in jobs}
    with report_progress(progress, "measuring", unit="pass") as report:
        for done, job in enumerate(jobs * ROUNDS, start=1):
            supported = [algorithm for algorithm in ALGORITHMS if algorithm.supports(*job)]
            for name, ms in measure(_runs(supported, *job))["ms"].items():
                measured[job][name] = min(ms, measured[job].get(name, ms))
            report(done, len(jobs) * ROUNDS)
    table = fit_all(ALGORITHMS, {key: ms for key, ms in measured.items() if key[1] in FITTED})
    held_out = {key: ms for key, ms in measured.items() if key[1] in HELD_OUT}
    before, after = (quality(ALGORITHMS, held_out, each) for each in (rates(), table))
    best = sum(min(_in_float32(ALGORITHMS, ms).values()) for ms in held_out.values())
    if after <= before:
        write_text(rates_path(), json.dumps(table))
        rates.cache_clear()
    return Calibration(
        shapes=len(FITTED), held_out=len(HELD_OUT), rates=table, before=before, after=after,
        stock=sum(ms[DIRECT] for ms in held_out.values()) / best, kept=after <= before, path=str(rates_path()),
    )  # fmt: skip


def fit_all(algorithms: Sequence[Algorithm], measured: Measured) -> Table:
    """The rates of each algorithm that was measured, in either group of passes."""
    table: dict[Group, dict[str, Rates]] = {group: {} for group in SHIPPED}
    for group, found in table.items():
        for algorithm in algorithms:
            points = [
                (algorithm.amounts(work, shape), ms[algorithm.name])
                for (work, shape), ms in measured.items()
                if group_of(work) == group and algorithm.name in ms
            ]
            if points:
                found[algorithm.name] = fit([amounts for amounts, _ in points], [ms for _, ms in points])
    return table


def fit(amounts: Sequence[Sequence[float]], ms: Sequence[float]) -> Rates:
    """The rates, none below 0, with the least sum of squared relative errors.

    Args:
        amounts: products, values and weights of each pass.
        ms: milliseconds that each took.
    """
    times = np.asarray(ms, dtype=np.float64)
    columns = np.column_stack([np.ones(len(times)), 1e-6 * np.asarray(amounts, dtype=np.float64)]) / times[:, None]
    # With so few rates every choice of those that are not 0 can be tried: the best one is the constrained optimum.
    best, least = np.zeros(4), float(len(times))
    for count in range(1, 5):
        for kept in map(list, combinations(range(4), count)):
            scale = np.abs(columns[:, kept]).max(0)
            if not scale.all():
                continue
            found = np.linalg.lstsq(columns[:, kept] / scale, np.ones(len(times)), rcond=None)[0] / scale
            error = float(np.square(columns[:, kept] @ found - 1).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(4), error
                best[kept] = found
    return Rates(*best.tolist())


def quality(algorithms: Sequence[Algorithm], measured: Measured, table: Table) -> float:
    """The time of the choices that these rates predict by that of the best choices, in float32."""
    chosen = best = 0.0
    for (work, shape), ms in measured.items():
        allowed = _in_float32(algorithms, ms)
        chosen += ms[fastest([one for one in algorithms if one.name in allowed], work, shape, table)]
        best += min(allowed.values())
    return chosen / best


def _in_float32(algorithms: Sequence[Algorithm], ms: Mapping[str, float]) -> dict[str, float]:
    return {one.name: ms[one.name] for one in algorithms if one.name in ms and one.precision == "float32"}


def _runs(algorithms: Sequence[Algorithm], work: Pass, shape: Shape) -> dict[str, Candidate]:
    n, height, width, in_channels, out_channels = shape
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1).to(memory_format=torch.channels_last)
    x, grad = (
        torch.randn(n, channels, height, width).contiguous(memory_format=torch.channels_last)
        for channels in (in_channels, out_channels)
    )
    weight = conv.weight.detach()
    arguments: dict[Pass, tuple[Any, ...]] = {
        "inference": (x, FoldedWeights(conv, None), False, False),
        "grad_input": (grad, weight),
        "grad_weight": (grad, x),
    }
    return {one.name: partial(getattr(one, work), *arguments[work]) for one in algorithms}
