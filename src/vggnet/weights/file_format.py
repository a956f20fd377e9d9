"""Safetensors files of vggnet: reading, checking and hashing them."""

import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from time import time
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggnet.errors import WeightsError
from vggnet.files import check_readable

FORMAT = "vggnet 3"
# "vggnet 1" has no checksum; 1 and 2 have no task, and call the provenance notes
OLD_FORMATS = ("vggnet 1", "vggnet 2")
STEP = ".step"  # behind the name of an int8 weight: the name of its steps, one for each output
CHECKSUM = "crc32"  # of metadata and tensors, within the metadata

_SETTLED = 2.0  # seconds after which another change of a file is sure to have another time
_SHOWN = 8  # differences that an error lists


def open_file(path: Path) -> tuple[Any, dict[str, str]]:
    """The open safetensors file and its metadata.  Raises: WeightsError if it is damaged, StorageError."""
    check_readable(path)
    try:
        file: Any = safe_open(path, framework="pt")
        return file, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a sound safetensors file ({error}). It may be truncated; fetch or train it again."
        ) from error


def check_format(path: Path, metadata: Mapping[str, str]) -> None:
    """Raises: WeightsError if the file is not one of vggnet's."""
    if metadata.get("format") not in (FORMAT, *OLD_FORMATS):
        raise WeightsError(
            f'{path}: a safetensors file, but not one of vggnet\'s (its "format" is {metadata.get("format")!r}, '
            f"expected {FORMAT!r}). Convert files of torchvision or timm by `vgg weights convert`."
        )


def read_tensors(
    path: Path, file: Any, metadata: Mapping[str, str], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """All tensors of an open file.  Raises: WeightsError if they do not fit `expected`, or the checksum is wrong."""
    stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    tensors = dequantized(stored)
    check_tensors(path, tensors, expected)
    if metadata["format"] != OLD_FORMATS[0]:
        found = _digest(path, CHECKSUM, lambda: checksum(metadata, stored))
        if metadata.get(CHECKSUM) != found:
            raise WeightsError(f"{path}: damaged: its checksum does not fit its content. Fetch or train it again.")
    return tensors


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight as int8 (K, ...), -127 to 127, and the step of each of its K outputs, float32 (K,).

    Example:
        >>> values, steps = quantized(torch.tensor([[0.5, -1.27]]))
        >>> values.tolist(), [round(step, 6) for step in steps.tolist()]
        ([[50, -127]], [0.01])
    """
    steps = weight.flatten(1).abs().amax(1).clamp(min=1e-30) / 127
    return (weight / _beside(steps, weight)).round().clamp(-127, 127).to(torch.int8), steps


def dequantized(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, each int8 weight that has steps beside it (NAME.step) multiplied by them."""
    found = {}
    for name, tensor in stored.items():
        steps = stored.get(f"{name}{STEP}")
        if tensor.dtype == torch.int8 and steps is not None and steps.shape == tensor.shape[:1]:
            found[name] = tensor * _beside(steps, tensor)
        elif stored.get(name.removesuffix(STEP), tensor).dtype != torch.int8:
            found[name] = tensor
    return found


def _beside(steps: Tensor, weight: Tensor) -> Tensor:
    return steps.view(-1, *[1] * (weight.ndim - 1))


def check_tensors(
    path: Path,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    network: str = "the network that the file describes",
) -> None:
    """Compare names, shapes and types, and look for NaN and infinity unless the tensors are on the meta device.

    Raises: WeightsError with the first differences.
    """
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


def checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of metadata and tensors in eight hexadecimal digits; safetensors itself notices no damaged number."""
    crc = 0
    for key in sorted(metadata.keys() - {CHECKSUM}):
        crc = zlib.crc32(f"{key}={metadata[key]}".encode(), crc)
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return _digest(path, "sha256", compute)


_digests: dict[tuple[Path, str], tuple[int, int, str]] = {}  # file, kind -> size, time of change, digest


def _digest(path: Path, kind: str, compute: Callable[[], str]) -> str:
    """`compute()`, or the digest that it gave before for a file with the same size and time of change."""
    status, key = path.stat(), (path.resolve(), kind)
    size, changed, digest = _digests.get(key, (-1, -1, ""))
    if (size, changed) == (status.st_size, status.st_mtime_ns):
        return digest
    digest = compute()
    if time() - status.st_mtime > _SETTLED:
        _digests[key] = (status.st_size, status.st_mtime_ns, digest)
    return digest
