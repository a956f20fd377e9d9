"""Static quantization to 8-bit integers by onnxruntime's quantizer: QDQ format, weights per channel.

Weights take 7 of the 8 bits. Kernels for CPUs with AVX2 or AVX-512 but without VNNI add two products of an unsigned
activation (at most 255) and a weight in 16 bits, which saturate at 32,767; 2 x 255 x 64 = 32,640 does not. So a file is
right on every CPU, and none needs to be refused.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, require
from vggnet.weights.runtimes import EXTRA

CALIBRATION, CHECK = 256, 512  # images of the train split
LEAST = 48  # images of both together
SAME_CLASS = 0.98  # share of the images for which the class must be the float network's
ROUNDS = 7  # batches that are timed
OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "MaxPool"]


@dataclass(frozen=True, kw_only=True)
class Int8:
    """What became of a quantized network.

    Args:
        calibration_images: how many fixed the ranges of the activations.
        batch: images at a time that were timed.
        seconds: median for one batch, in the library that the file is for.
        float_seconds: the same for a file of the float network, measured in turns.
    """

    calibration_images: int
    batch: int
    seconds: float
    float_seconds: float


def read_images(data: str | Path, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """Images for calibration and others to compare on, spread evenly over the train split: uint8 (N, C, crop, crop).

    Raises: ConfigError if there are too few; DataError; ImageError if one cannot be read.
    """
    source = open_source(data, "train")
    if len(source) < LEAST:
        raise ConfigError(f"{data}: its train split has {len(source)} images; --int8 needs at least {LEAST}.")
    number = min(len(source), CALIBRATION + CHECK)
    places = [place * len(source) // number for place in range(number)]
    pixels = torch.stack([preprocess.pixels(source.open(place).decode()) for place in places])
    return pixels[::3], torch.cat([pixels[1::3], pixels[2::3]])


def quantize(path: Path, batches: Sequence[Tensor], name: str) -> None:
    """Replace a float ONNX file by a quantized one.  batches: inputs of the file, `name` by name."""
    quantization: Any = require("onnxruntime.quantization", EXTRA)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        remaining = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.remaining, None)
            return None if batch is None else {name: batch.numpy()}

    quantized = path.with_name(f"quantized-{path.name}")
    with _without_advice():
        quantization.quantize_static(
            path, quantized, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=OPERATORS,
        )  # fmt: skip
    quantized.replace(path)


def in_turns(*ways: Callable[[], object]) -> list[float]:
    """The median seconds of each, measured in turns after a call that is not counted."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS + 1):
        for way, values in zip(ways, seconds, strict=True):
            start = perf_counter()
            way()
            values.append(perf_counter() - start)
    return [median(values[1:]) for values in seconds]


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without what the quantizer says to the root logger, to which it would add a handler."""
    root = logging.getLogger()
    level, handler = root.level, logging.NullHandler()
    root.addHandler(handler)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
