"""Export a network, run what was written, and keep it only if it gives what the network gives."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from vggnet.data.decoding import decode_image
from vggnet.data.formats import image_files
from vggnet.data.sources.digits import open_digits
from vggnet.errors import ConfigError, StorageError, WeightsError, one_line, require
from vggnet.exporting.format import Exported, Format
from vggnet.exporting.graphs import Ncnn, Onnx, OpenVino, TorchExport
from vggnet.exporting.int8 import SAME_CLASS, Int8, in_turns, read_images
from vggnet.exporting.state_dicts import Timm, TorchVision
from vggnet.exporting.static_page import StaticPage
from vggnet.models.table1 import MAP_HEADS
from vggnet.models.vgg import VGG
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.runtimes import EXTRA, Run

FormatName = Literal["onnx", "openvino", "ncnn", "torch-export", "torchvision", "timm", "web"]
FORMATS: dict[str, Format] = {
    kind.name: kind for kind in (Onnx(), OpenVino(), Ncnn(), TorchExport(), TorchVision(), Timm(), StaticPage())
}
TOLERANCE = 1e-4  # of the largest output: what other orders of float32 sums may change
MOST_IMAGES = 64  # that are compared
DIGITS = 9  # of the package, compared where no images are given
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written, and how near its outputs are.

    Args:
        format: its name after --to.
        path: the file, or the folder.
        bytes: of all files that were written.
        input: type and shape of what it takes; dimensions with a name are free.
        images: how many were compared.
        difference: the largest one between its outputs and the network's, by the largest output.
        same_class: for how many images the largest output is the same one.
        int8: calibration and speed, if the file is in 8-bit integers.
    """

    format: str
    path: Path
    bytes: int
    input: str
    images: int
    difference: float
    same_class: int
    int8: Int8 | None = None


def export(
    source: VGG | Path | str,
    out: Path | str,
    *,
    to: FormatName,
    with_preprocessing: bool = False,
    images: Sequence[Path | str] = (),
    int8: bool = False,
    data: Path | str | None = None,
    runtime: Path | str | None = None,
) -> Export:
    """Write a trained network for another library.

    The file is run by that library on real images. Where an output differs by more than 1e-4 of the largest one,
    nothing is left on the disk, and what was there before stays. A file in 8-bit integers is kept if at least 98 % of
    the images get the class that the network gives.

    Args:
        source: a network, a run folder, a `.safetensors` file or a name of `vgg weights list`.
        out: the file to write, or the folder for timm and web. A suffix that the format does not have is an error.
        to: "onnx", "openvino", "ncnn", "torch-export", "torchvision", "timm" or "web", a page that runs the network in
            the browser.
        with_preprocessing: whether the file takes uint8 pixels (N, H, W, C) of images that are resized and cropped, and
            normalizes them itself; so do those of a page in any case.
        images: files and folders to compare outputs for, the first 64; by default digits that come with the package.
        int8: whether weights and activations are 8-bit integers (`to` onnx, openvino or web): static quantization by
            onnxruntime, weights per channel, calibrated on 256 images of `data` and compared on 512 others.
        data: for `int8`: "digits", "cifar10", a folder or a Hugging Face id, as for `vggnet.evaluate`; its train split.
        runtime: for `to` web, where it must be given: the npm package onnxruntime-web (node_modules/onnxruntime-web),
            whose files are copied beside the page.

    Raises:
        ConfigError: an option cannot work, or the format cannot represent the network.
        WeightsError: the source is damaged, has no preprocessing, or the outputs differ.
        ImageError: an image cannot be read.
        MissingDependencyError: the format needs `pip install 'vggnet[export]'`.
        StorageError: the disk refuses.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = export("vgg8_bn-cifar10-fast", f"{folder}/network.pt2", to="torch-export")
        >>> done.input, done.same_class == done.images
        ('float32, normalized (batch, 3, 32, 32)', True)
    """
    if to not in FORMATS:
        raise ConfigError(f"--to {to}: unknown format. The formats are {', '.join(FORMATS)}.")
    kind, path = FORMATS[to], Path(out).expanduser()
    if path.suffix.lower() != kind.suffix and (kind.suffix or path.suffix):
        raise ConfigError(f"{path}: expected {f'a name that ends with {kind.suffix}' if kind.suffix else 'a folder'}.")
    for other in FORMATS.values():
        if other is not kind and {*other.beside} & {*kind.beside} and path.with_suffix(other.suffix).exists():
            raise ConfigError(
                f"{path.with_suffix(other.suffix)} has its weights in a file that this export would replace; choose "
                "another name."
            )
    if int8 != (data is not None) or (int8 and images):
        raise ConfigError(
            "--int8 takes its images from --data, which must be given, and is only for it; leave out --images."
        )
    checkpoint = Checkpoint.of(source) if isinstance(source, VGG) else Checkpoint.open(source)
    model = checkpoint.build()
    network = Exported(
        model,
        from_pixels=with_preprocessing or kind.only_pixels,
        calibration=torch.empty(0) if int8 else None,
        runtime=None if runtime is None else Path(runtime).expanduser(),
    )
    kind.check(network)
    if int8 and (model.architecture.boxes or model.architecture.head in ("none", *MAP_HEADS)):
        raise ConfigError("--int8 is for networks that give classes, by which the file is checked.")
    for package in kind.packages:
        require(package, EXTRA)
    if data is None:
        batches = _batches(network, images)
    else:
        calibration, compared = read_images(data, network.preprocess)
        network, batches = replace(network, calibration=calibration), list(torch.split(compared, BATCH))
    with _in_place(path, is_folder=not kind.suffix) as temporary:
        try:
            kind.write(network, temporary)
            outputs = kind.read(temporary, network)
            found = torch.cat([outputs(network.inputs(batch)).reshape(len(batch), -1) for batch in batches])
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({one_line(error)}).") from error
        with torch.no_grad():
            expected = torch.cat([model(network.preprocess.normalize(batch)).flatten(1) for batch in batches])
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        same = int((found.argmax(1) == expected.argmax(1)).sum())
        if int8 and not (same >= SAME_CLASS * len(found) and found.isfinite().all()):
            raise WeightsError(
                f"{path}: not kept, as {same} of {len(found)} images get the network's class in 8-bit integers; at "
                f"least {SAME_CLASS:.0%} are expected. Leave out --int8, or give images like those of the training."
            )
        if not int8 and not difference <= TOLERANCE:
            raise WeightsError(
                f"{path}: not kept, as its outputs differ from the network's by {difference:.1e} of the largest one; "
                f"at most {TOLERANCE:.0e} is expected. Please report this with the versions of torch and of {to}."
            )
        written = (temporary.parent if kind.suffix else temporary).iterdir()
        size = sum(file.stat().st_size for file in written)
        timed = _timed(kind, network, outputs, batches[0], temporary) if int8 else None
    return Export(
        format=to,
        path=path,
        bytes=size,
        input=network.input_text(),
        images=len(found),
        difference=difference,
        same_class=same,
        int8=timed,
    )


def _timed(kind: Format, network: Exported, run: Run, pixels: Tensor, beside: Path) -> Int8:
    """The speed of a quantized file, against one of the float network, which is written for this."""
    assert network.calibration is not None  # it was quantized
    inputs = network.inputs(pixels)
    with TemporaryDirectory(dir=beside.parent) as folder:
        path = Path(folder) / beside.name
        kind.write(replace(network, calibration=None), path)
        float_run = kind.read(path, network)
        seconds, float_seconds = in_turns(lambda: run(inputs), lambda: float_run(inputs))
    return Int8(
        calibration_images=len(network.calibration), batch=len(pixels), seconds=seconds, float_seconds=float_seconds
    )


def _batches(network: Exported, images: Sequence[Path | str]) -> list[Tensor]:
    """uint8 (N, C, crop, crop) each; N of the last one may differ, as a free dimension must bear."""
    pictures: list[Image.Image]
    if images:
        pictures = [decode_image(file) for file in image_files(images)[:MOST_IMAGES]]
    else:
        digits = open_digits("test")
        pictures = [digits.open(i).decode() for i in range(DIGITS)]
    pixels = [network.preprocess.pixels(picture) for picture in pictures]
    return [torch.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]


@contextmanager
def _in_place(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield a place beside `path`; what was written there takes the place of `path` when the block ends well."""
    try:
        if is_folder:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(dir=path if is_folder else path.parent, prefix=".export-")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({one_line(error)}); choose another place.") from error
    with folder as name:
        yield Path(name) if is_folder else Path(name) / path.name
        for file in Path(name).iterdir():
            file.replace((path if is_folder else path.parent) / file.name)
