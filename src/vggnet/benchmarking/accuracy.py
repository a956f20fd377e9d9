"""In which precision a way computes, and how far its results are from exact ones."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from vggnet.accel.autotuning import autotuner
from vggnet.progress import Progress, report_progress

BFLOAT16, INT8 = ", bfloat16", ", int8"  # after the name of a way; the others are float32


def precision_of(way: str) -> str:
    """In which a way's products are computed.

    >>> precision_of("PyTorch, NCHW"), precision_of("vggnet, bfloat16")
    ('float32', 'bfloat16')
    """
    return next((kind.removeprefix(", ") for kind in (BFLOAT16, INT8) if way.endswith(kind)), "float32")


def errors_of(
    ways: Mapping[str, Callable[[], Any]], exact: Callable[[], Any], progress: Progress = False
) -> dict[str, float]:
    """Way -> the error of its result. Our convolutions are measured at their first use, as while ways are timed.

    Args:
        ways: functions that return what `relative_error` takes.
        exact: returns the result in float64.
        progress: see `vggnet.progress.Progress`.
    """
    errors = {}
    with report_progress(progress, "comparing with float64", unit="way") as report, autotuner().fixed({}):
        wanted = exact()
        for name, way in ways.items():
            errors[name] = relative_error(way(), wanted)
            report(len(errors), len(ways))
    return errors


def relative_error(result: Any, exact: Any) -> float:
    """The largest difference between two results, relative to the largest value of the exact one.

    Args:
        result: a tensor, or several in a sequence or mapping, which count together.
        exact: the same in float64; where it has fewer rows, other rows of the result do not count.

    >>> import torch
    >>> relative_error(torch.tensor([3.0, 1.0, 7.0]), torch.tensor([4.0, 1.0], dtype=torch.float64))
    0.25
    """
    wanted = list(_tensors(exact))
    found = [values[: len(other)].double() for values, other in zip(_tensors(result), wanted, strict=True)]
    difference = max((values - other).abs().max().item() for values, other in zip(found, wanted, strict=True))
    return difference / max(values.abs().max().item() for values in wanted)


def _tensors(result: Any) -> Iterable[Tensor]:
    if isinstance(result, Tensor):
        return [result.detach()]
    return [tensor.detach() for tensor in (result.values() if isinstance(result, Mapping) else result)]
