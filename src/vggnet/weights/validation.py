"""Whether tensors are those of a network: names, shapes, types, and no NaN."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vggnet.errors import WeightsError

_SHOWN = 8  # differences that an error lists


def check(
    path: Path,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    network: str = "the network that the file describes",
) -> None:
    """Raises: WeightsError with the list of differences. Values are looked at where there are some (not on "meta")."""
    differences = [f"{name} is missing" for name in expected if name not in found]
    differences += [f"{name} does not belong" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        if found[name].shape != expected[name].shape:
            differences.append(f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}")
        elif found[name].is_floating_point() != expected[name].is_floating_point():
            differences.append(f"{name} has type {found[name].dtype}, expected {expected[name].dtype}")
        elif found[name].is_floating_point() and not found[name].is_meta and not torch.isfinite(found[name]).all():
            differences.append(f"{name} holds NaN or infinity")
    if differences:
        shown = "; ".join(sorted(differences)[:_SHOWN])
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise WeightsError(f"{path}: the tensors do not fit {network}: {shown}{more}.")
