"""What every export format offers. They are listed in `exporting.export`."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError
from vggnet.models.table1 import POOLED_SIZE, TOTAL_STRIDE
from vggnet.models.vgg import VGG, fold_repeated_pool, repeats_one_cell
from vggnet.weights.runtimes import Run, run_exported

# Heads that other libraries can have at every size, from the least one on: a map of one pixel would fix the size.
ANY_SIZE = {"gap": 2 * TOTAL_STRIDE, "none": 2 * TOTAL_STRIDE, "dense": POOLED_SIZE * TOTAL_STRIDE}
INPUT, OUTPUT = "images", "outputs"  # names in the files


@dataclass(frozen=True)
class Exported:
    """A network as an exported file has it.

    Args:
        model: the network, in eval mode, on the CPU, in float32.
        from_pixels: whether the inputs are uint8 pixels (N, H, W, C), which are normalized in the file, instead of
            normalized float32 images (N, C, H, W).
        calibration: uint8 pixels (N, C, H, W) for a file in 8-bit integers; None for one in float32.
        runtime: folder of the library that a page runs the network by; None if nothing but the network is written.
    """

    model: VGG
    from_pixels: bool = False
    calibration: Tensor | None = None
    runtime: Path | None = None

    @property
    def preprocess(self) -> Preprocess:
        """That of the model."""
        return Preprocess.of(self.model)

    @property
    def least_size(self) -> int | None:
        """The least height and width of images where these are free; None where they are fixed."""
        least = ANY_SIZE.get(self.model.architecture.head)
        return least if least and least <= self.preprocess.crop else None

    @cached_property
    def written(self) -> VGG:
        """The network in the file: without what does nothing at the native size."""
        if repeats_one_cell(self.model, self.preprocess.crop):
            return fold_repeated_pool(self.model)  # else the one cell would be repeated 49 times
        return self.model

    @property
    def module(self) -> nn.Module:
        """From inputs to outputs, without checks of the input."""
        layers = _Unchecked(self.written)
        return (nn.Sequential(_Normalize(self.preprocess), layers) if self.from_pixels else layers).eval()

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the file takes, from uint8 pixels (N, C, H, W)."""
        return pixels.permute(0, 2, 3, 1).contiguous() if self.from_pixels else self.preprocess.normalize(pixels)

    def example(self) -> Tensor:
        """Two inputs."""
        side = self.preprocess.crop
        return self.inputs(torch.zeros(2, self.preprocess.in_channels, side, side, dtype=torch.uint8))

    def shape(self) -> dict[int, str]:
        """The names of the dimensions whose length is free, by their places."""
        first = 1 if self.from_pixels else 2
        sides = {first: "height", first + 1: "width"} if self.least_size else {}
        return {0: "batch", **sides}

    def input_text(self) -> str:
        """The type and the shape of the inputs, for people."""
        sizes = [str(size) for size in self.example().shape]
        for place, name in self.shape().items():
            sizes[place] = name
        kind = "uint8 pixels" if self.from_pixels else "float32, normalized"
        least = f", height and width at least {self.least_size}" if self.least_size else ""
        return f"{kind} ({', '.join(sizes)}){least}"

    def description(self) -> dict[str, str]:
        """What a file says about itself, each as JSON; `weights.exported_files` reads it."""
        values: dict[str, Any] = {
            "architecture": self.written.architecture.as_dict(),
            "task": self.model.task,
            "classes": self.model.classes,
            "preprocess": self.preprocess.as_dict(),
            "from_pixels": self.from_pixels,
            "precision": "float32" if self.calibration is None else "int8",
        }
        return {name: json.dumps(value) for name, value in values.items()}


class Format(ABC):
    """One kind of file."""

    name: str  # after --to
    suffix: str  # of the file; empty for a folder
    beside: tuple[str, ...] = ()  # of other files that belong to it, of the same name
    takes_pixels = True  # whether the preprocessing can be part of the file
    only_pixels = False  # whether it always is
    takes_int8 = False  # whether the file can be one in 8-bit integers
    takes_runtime = False  # whether files of the library that runs the network are written too
    packages: tuple[str, ...]  # imported for writing and running it, from the extra `export`

    def check(self, network: Exported) -> None:
        """Nothing.  Raises: ConfigError if the format cannot represent the network."""
        if network.from_pixels and not self.takes_pixels:
            raise ConfigError(f"--with-preprocessing: a file for {self.name} holds the network's own layers alone.")
        if network.calibration is not None and not self.takes_int8:
            raise ConfigError(
                f"--int8: a file for {self.name} is in float32; onnx, openvino and web have 8-bit integers."
            )
        if network.runtime is not None and not self.takes_runtime:
            raise ConfigError(f"--runtime: a file for {self.name} is the network alone; leave it out, or use --to web.")

    @abstractmethod
    def write(self, network: Exported, path: Path) -> None:
        """Write the file, or the files of a folder that exists and is empty."""

    def read(self, path: Path, network: Exported) -> Run:
        """The written file in its own library: inputs -> outputs. It uses nothing of the network but its shapes."""
        return run_exported(path)


class _Unchecked(nn.Module):
    def __init__(self, model: VGG) -> None:
        super().__init__()
        self._model = model

    def forward(self, images: Tensor) -> Tensor:
        """As the model."""
        return self._model.compute(images)


class _Normalize(nn.Module):
    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self._preprocess = preprocess

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> float32 (N, C, H, W)."""
        return self._preprocess.normalize(pixels.permute(0, 3, 1, 2).contiguous())
