"""Features of many images in a file: one batch in memory at a time, and an interrupted extraction resumes."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.accel.precision import allowed_precision
from vggnet.data.formats import image_files, left_out
from vggnet.errors import ConfigError, DataError, ImageError, OnError, StorageError, check_at_least
from vggnet.features.extractor import (
    FeatureExtractor,
    Pooling,
    checked_pooling,
    normalized,
    pooled,
    raised,
    read_batches,
)
from vggnet.files import escaped, replacing, write_text
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress
from vggnet.weights.checkpoint import OpenModel, open_model

SUFFIXES = (".safetensors", ".npy", ".parquet")
GROUP_BYTES = 64 << 20  # of features in a row group of parquet


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What was written, and which images could not be read."""

    path: str
    images: int  # rows of each layer
    shapes: dict[str, tuple[int, ...]]  # layer -> shape of a row
    unreadable: tuple[str, ...]  # one line for each image that has no row
    left_out: tuple[str, ...] = ()  # files of the given folders that are not named as images are


def extract_to_file(
    model: VGG | Path | str,
    images: Sequence[Path | str] | Path | str,
    layers: Sequence[str] | str,
    out: Path | str,
    *,
    pooling: Pooling | None = None,
    output_stride: int = TOTAL_STRIDE,
    batch_size: int = 16,
    device: str | None = None,
    on_error: OnError = "return",
    progress: Progress = False,
    metadata: Mapping[str, str] | None = None,
) -> Extraction:
    """Write the outputs of layers for every image, float32, to a file.

    Finished batches are kept in `<out>.partial` until the file is complete: the same call resumes there after an
    interruption. The disk must have room for both.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`. Its own preprocessing
            prepares the images.
        images: image files, and folders of them.
        layers: one name or several, such as "relu4_3".
        out: a file that ends in `.safetensors`, `.npy` or `.parquet`. safetensors: a tensor (N, ...) for each layer,
            and "images", the list of paths, in the metadata. parquet: a column `image` and a flat column for each
            layer, its shape in the metadata of the field. npy: one layer; the paths are beside it in
            `<out>.images.json`.
        pooling: None keeps maps (C, h, w); "mean", "max" or "gem" (cubic root of the mean of cubes) leaves (C,).
        output_stride: see `FeatureExtractor`.
        batch_size: images at a time through the network.
        device: "cpu", "cuda", ...; by default a VGG stays where it is, and a file goes to the GPU if there is one.
        on_error: "return" leaves an unreadable image out and names it in the result; "raise" raises its ImageError.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total), first with what an
            interrupted extraction has done.
        metadata: more texts for the metadata of a safetensors or parquet file.

    Raises:
        ConfigError: an option is impossible, or `<out>.partial` belongs to another extraction.
        DataError: there are no images, or none can be read.
        WeightsError: there is no such model, or it has no preprocessing.
        StorageError: the disk refuses.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 32)).save(f"{folder}/photo.png")
        ...     done = extract_to_file("vgg8_bn-cifar10-fast", folder, "relu4_1", f"{folder}/f.npy", pooling="mean")
        >>> done.images, done.shapes
        (1, {'relu4_1': (384,)})
    """
    out = Path(out).expanduser()
    check_at_least(1, batch_size=batch_size)
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"{out}: unknown file format; expected a name that ends in {', '.join(SUFFIXES)}.")
    checked_pooling(pooling)
    opened = open_model(model, device=device)
    extractor = FeatureExtractor(opened.network, layers, output_stride=output_stride).eval()
    if out.suffix == ".npy" and len(extractor.channels) > 1:
        raise ConfigError(f"{out}: an .npy file holds one layer, not {len(extractor.channels)}. Use .safetensors.")
    given = [images] if isinstance(images, Path | str) else images
    files = image_files(given)
    if not files:
        raise DataError("no images were given; give image files, or folders of them.")
    store = _Store(out, _job(extractor, opened, files, pooling, output_stride))
    pictures = [(str(file), file) for file in files[store.done :]]
    with report_progress(progress, "features") as report:
        report(store.done, len(files))
        for batch in read_batches(pictures, opened.preprocess, batch_size):
            readable = [raised(p) if on_error == "raise" else p for p in batch]
            found = _extracted(extractor, opened, [p for p in readable if isinstance(p, Tensor)], pooling)
            store.append(found, batch)
            report(store.done, len(files))
    return replace(_finish(store, files, out, dict(metadata or {})), left_out=tuple(left_out(given)))


@torch.no_grad()
def _extracted(
    extractor: FeatureExtractor, opened: OpenModel, pixels: Sequence[Tensor], pooling: str | None
) -> dict[str, NDArray[np.float32]]:
    if not pixels:
        return {}
    maps = extractor(normalized(pixels, opened.preprocess, opened.device))
    found = {name: values if pooling is None else pooled(values, pooling) for name, values in maps.items()}
    return {name: values.float().cpu().contiguous().numpy() for name, values in found.items()}


def _job(extractor: FeatureExtractor, opened: OpenModel, files: Sequence[Path], *options: object) -> str:
    """Hex digits that change with the weights, the options and the images."""
    digest = blake2b(digest_size=16)
    facts = [list(extractor.channels), opened.preprocess.as_dict(), allowed_precision(), options]
    digest.update(json.dumps(facts).encode())
    for name, tensor in extractor.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


class _Store:
    """Unfinished extraction: one file of float32 rows for each layer, and how many rows are valid.

    Rows are valid once `state.json` says so, which is written after the rows are on the disk.
    """

    def __init__(self, out: Path, job: str) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self.state = self.folder / "state.json"
        self.job = job
        self.done = 0  # images, readable or not
        self.unreadable: dict[int, str] = {}  # position -> why
        self.shapes: dict[str, tuple[int, ...]] = {}
        if self.state.exists():
            self._resume(out)

    @property
    def rows(self) -> int:
        """Number of rows of each layer."""
        return self.done - len(self.unreadable)

    def file(self, layer: str) -> Path:
        """The file with the rows of a layer."""
        return self.folder / f"{layer}.f32"

    def append(self, found: Mapping[str, NDArray[np.float32]], batch: Sequence[Tensor | ImageError]) -> None:
        """Add a batch's rows, and remember its images as done.  Raises: StorageError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for layer, values in found.items():
                self.shapes[layer] = values.shape[1:]
                with self.file(layer).open("ab") as rows:
                    rows.write(values.tobytes())
                    rows.flush()
                    os.fsync(rows.fileno())
        except OSError as error:
            raise StorageError(
                f"{self.folder}: cannot be written ({error}). What is done so far is kept; make room, then run "
                "the same command again."
            ) from error
        for position, pixels in enumerate(batch, start=self.done):
            if isinstance(pixels, ImageError):
                self.unreadable[position] = str(pixels)
        self.done += len(batch)
        state = {"job": self.job, "done": self.done, "unreadable": self.unreadable, "shapes": self.shapes}
        write_text(self.state, json.dumps(state))

    def blocks(self, layer: str, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """The rows (n, ...) of a layer in order, at most `num_rows` at a time."""
        rows = np.memmap(self.file(layer), dtype=np.float32, mode="r", shape=(self.rows, *self.shapes[layer]))
        for start in range(0, self.rows, num_rows):
            yield np.asarray(rows[start : start + num_rows])

    def row_bytes(self, layer: str) -> int:
        """Bytes of one image."""
        return 4 * math.prod(self.shapes[layer])

    def _resume(self, out: Path) -> None:
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            job, self.done = state["job"], int(state["done"])
            self.unreadable = {int(position): str(text) for position, text in state["unreadable"].items()}
            self.shapes = {layer: tuple(shape) for layer, shape in state["shapes"].items()}
            sizes = {self.file(layer): self.rows * self.row_bytes(layer) for layer in self.shapes}
            complete = all(file.stat().st_size >= size for file, size in sizes.items())
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            job, complete = None, False
        if job != self.job or not complete:
            raise ConfigError(
                f"{self.folder} holds an unfinished extraction of other images, layers or weights, or a damaged one. "
                f"Finish it as it was begun, or remove it; or write to another file than {out}."
            )
        for file, size in sizes.items():
            os.truncate(file, size)  # what a kill left half-written


def _finish(store: _Store, files: Sequence[Path], out: Path, facts: dict[str, str]) -> Extraction:
    """Write the rows to `out` in one piece, and remove the store."""
    if not store.rows:
        shutil.rmtree(store.folder)
        raise DataError(f"none of the {len(files)} images can be read; the first: {store.unreadable[0]}")
    images = [str(file) for position, file in enumerate(files) if position not in store.unreadable]
    writers = {".safetensors": _write_safetensors, ".npy": _write_npy, ".parquet": _write_parquet}
    if out.suffix == ".npy":
        write_text(out.with_name(f"{out.name}.images.json"), json.dumps(images, ensure_ascii=False))
    whole = store.folder / out.name  # there, whatever a kill leaves of it goes away with the store
    with replacing(whole) as temporary:
        writers[out.suffix](store, images, temporary, facts)
    whole.replace(out)
    shutil.rmtree(store.folder)
    unreadable = tuple(text for _, text in sorted(store.unreadable.items()))
    return Extraction(path=str(out), images=store.rows, shapes=store.shapes, unreadable=unreadable)


def _write_safetensors(store: _Store, images: Sequence[str], path: Path, facts: dict[str, str]) -> None:
    """Write the format by hand (length, header, data), because its library wants all tensors in memory."""
    header: dict[str, Any] = {"__metadata__": {**facts, "images": json.dumps(images)}}
    end = 0
    for layer, shape in store.shapes.items():
        start, end = end, end + store.rows * store.row_bytes(layer)
        header[layer] = {"dtype": "F32", "shape": [store.rows, *shape], "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for layer in store.shapes:
            _copy_rows(store, layer, file)


def _write_npy(store: _Store, images: Sequence[str], path: Path, facts: dict[str, str]) -> None:
    ((layer, shape),) = store.shapes.items()
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (store.rows, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        _copy_rows(store, layer, file)


def _copy_rows(store: _Store, layer: str, file: BinaryIO) -> None:
    with store.file(layer).open("rb") as rows:
        shutil.copyfileobj(rows, file, 1 << 20)


def _write_parquet(store: _Store, images: Sequence[str], path: Path, facts: dict[str, str]) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    kinds = {layer: pa.list_(pa.float32(), math.prod(shape)) for layer, shape in store.shapes.items()}
    fields = [pa.field("image", pa.string())]
    fields += [pa.field(n, kinds[n], metadata={"shape": json.dumps(shape)}) for n, shape in store.shapes.items()]
    num_rows = max(1, GROUP_BYTES // sum(map(store.row_bytes, store.shapes)))
    blocks = [store.blocks(layer, num_rows) for layer in store.shapes]
    with pq.ParquetWriter(path, pa.schema(fields, metadata=facts)) as writer:
        for start in range(0, store.rows, num_rows):
            columns = [pa.array(map(escaped, images[start : start + num_rows]))]
            for kind, block in zip(kinds.values(), blocks, strict=True):
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(next(block).ravel()), type=kind))
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema))
