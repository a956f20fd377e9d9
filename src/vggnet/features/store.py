"""Features of many pictures into a file: a batch in memory at a time, and a killed run goes on where it was."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.decoding import image_files
from vggnet.errors import ConfigError, DataError, ImageError, StorageError
from vggnet.features.extractor import FeatureExtractor, on_device, prepared
from vggnet.features.pooling import POOLS, pool
from vggnet.features.pretrained import Source, answering
from vggnet.files import replacing, write_text
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG

SUFFIXES = (".safetensors", ".npy", ".parquet")
GROUP_BYTES = 64 << 20  # of features in a row group of parquet

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What was written, and what could not be read."""

    path: str
    images: int  # rows of each layer
    shapes: dict[str, tuple[int, ...]]  # layer -> shape of a row
    unreadable: tuple[str, ...]  # one line a picture, which has no row

    def as_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def as_table(self) -> str:
        """One line a layer."""
        layers = [f"  {name}  {' x '.join(map(str, shape))}" for name, shape in self.shapes.items()]
        return "\n".join([f"{self.path}: float32 features of {self.images:,} images", *layers])


def extract(
    network: Source,
    images: Sequence[Path] | Path,
    layers: Sequence[str] | str,
    out: Path,
    *,
    pooling: str | None = None,
    output_stride: int = TOTAL_STRIDE,
    batch_size: int = 16,
    device: str | None = None,
    facts: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Write the outputs of `layers` for every picture, float32, to a `.safetensors`, `.npy` or `.parquet` file.

    network, layers, output_stride: as in FeatureExtractor. Pictures are prepared by the network's own preprocessing.
    images: files, and folders of them. One that cannot be read is reported and has no row.
    pooling: None keeps maps (C, h, w); else one of `vggnet.features.pooling.POOLS`, which leaves (C,).
    out: safetensors has a tensor (N, ...) for each layer, and "images", the list of paths, in its metadata (with
        `facts`); parquet has a column `image` and one for each layer, flat, its shape in the field's metadata; npy has
        one layer, and the paths lie beside it in `<out>.images.json`.
    progress: called with the pictures done and to do, first with what an earlier run has done.
    What is done lies in `<out>.partial` until all is: the same call then goes on there. The disk must hold both.
    Raises: ConfigError for options that cannot work, or if another extraction to `out` is unfinished; DataError if
        there are no pictures, or none can be read; WeightsError; StorageError if the disk refuses.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"{out}: unknown kind of file; expected one that ends in {', '.join(SUFFIXES)}.")
    if pooling is not None and pooling not in POOLS:
        raise ConfigError(f"unknown pooling {pooling!r}; expected one of {', '.join(POOLS)}.")
    network = answering(network, device)
    extractor = FeatureExtractor(network, layers, output_stride=output_stride).eval()
    if out.suffix == ".npy" and len(extractor.channels) > 1:
        raise ConfigError(f"{out}: an .npy file holds one layer, not {len(extractor.channels)}. Take .safetensors.")
    files = image_files([images] if isinstance(images, Path) else images)
    if not files:
        raise DataError("no pictures were given; give image files, or folders of them.")
    store = _Store(out, _job(extractor, network, files, pooling, output_stride))
    if progress:
        progress(store.done, len(files))
    pictures = [(str(file), file) for file in files[store.done :]]
    for batch in prepared(network, pictures, batch_size):
        readable = [pixels for pixels in batch if isinstance(pixels, Tensor)]
        found = _extracted(extractor, network, readable, pooling) if readable else {}
        store.append(found, batch)
        if progress:
            progress(store.done, len(files))
    return _finish(store, files, out, dict(facts or {}))


@torch.no_grad()
def _extracted(
    extractor: FeatureExtractor, network: VGG, pixels: Sequence[Tensor], pooling: str | None
) -> dict[str, NDArray[np.float32]]:
    taps = extractor(on_device(network, pixels))
    return {
        name: (values if pooling is None else pool(values, pooling)).float().cpu().contiguous().numpy()
        for name, values in taps.items()
    }


def _job(extractor: FeatureExtractor, network: VGG, files: Sequence[Path], *options: object) -> str:
    """Hex digits that change with the weights, what is made of them, and the pictures."""
    digest = blake2b(digest_size=16)
    preprocess = network.preprocess.as_dict() if network.preprocess else None
    digest.update(json.dumps([list(extractor.channels), preprocess, options]).encode())
    for name, tensor in extractor.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


class _Store:
    """Rows of float32 for each layer in a file of its own, and how many of them count.

    A row counts once `state.json` says so, which is written after the rows are on the disk.
    """

    def __init__(self, out: Path, job: str) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self.state = self.folder / "state.json"
        self.job = job
        self.done = 0  # pictures, readable or not
        self.unreadable: dict[int, str] = {}  # position -> why
        self.shapes: dict[str, tuple[int, ...]] = {}
        if self.state.exists():
            self._resume(out)

    @property
    def rows(self) -> int:
        """Of each layer."""
        return self.done - len(self.unreadable)

    def file(self, layer: str) -> Path:
        """Where its rows lie."""
        return self.folder / f"{layer}.f32"

    def append(self, found: Mapping[str, NDArray[np.float32]], batch: Sequence[Tensor | ImageError]) -> None:
        """Add a batch's rows, and remember its pictures as done.  Raises: StorageError."""
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
        """Of one picture."""
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
                f"{self.folder} holds an unfinished extraction of other pictures, layers or weights, or a damaged one. "
                f"Finish it as it was begun, or remove it; or write to another file than {out}."
            )
        for file, size in sizes.items():
            os.truncate(file, size)  # what a kill left half-written


def _finish(store: _Store, files: Sequence[Path], out: Path, facts: dict[str, str]) -> Extraction:
    """Write the rows to `out` in one piece, and remove the store."""
    if not store.rows:
        shutil.rmtree(store.folder)
        raise DataError(f"none of the {len(files)} pictures can be read; the first: {store.unreadable[0]}")
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
    """The format by hand, as its library wants all tensors in memory: length, header, and then the data."""
    header: dict[str, Any] = {"__metadata__": {**facts, "images": json.dumps(images, ensure_ascii=False)}}
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
            columns = [pa.array(images[start : start + num_rows])]
            for kind, block in zip(kinds.values(), blocks, strict=True):
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(next(block).ravel()), type=kind))
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema))
