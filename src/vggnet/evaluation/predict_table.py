"""Predict the classes of many images into a parquet file, in blocks that a killed run has not to compute again."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from vggnet.accel.autotuning import autotuner
from vggnet.accel.precision import allowed_precision, products_in
from vggnet.accel.startup import startup
from vggnet.data.blocks import BLOCK, PARQUET, Block, divide
from vggnet.errors import ConfigError, DataError, StorageError, check_at_least
from vggnet.evaluation.predict import open_with_head
from vggnet.files import escaped, locked, replacing, write_text
from vggnet.progress import Progress, report_progress
from vggnet.tasks import get_task
from vggnet.tasks.class_prediction import TOP
from vggnet.tasks.results import Prediction
from vggnet.tasks.task import PredictionJob
from vggnet.weights.checkpoint import Checkpoint, OpenModel
from vggnet.weights.file_format import sha256
from vggnet.weights.registry import locate

Engine = Literal["local", "ray"]
PARTS = ".parts"  # added to the name of the table: the folder of what is computed until all of it is
JOB, LOCK = "job.json", "lock"


@dataclass(frozen=True, kw_only=True)
class TableJob:
    """What is done with each block, wherever it is done.

    Args:
        model: see `predict_table`.
        top, batch_size, device: the same.
        precision: of convolutions on a CPU, "float32" or "bfloat16".
        folder: where the parts are written.
    """

    model: str
    top: int
    batch_size: int
    device: str | None
    precision: Any
    folder: Path

    @contextmanager
    def opened(self) -> Iterator[OpenModel]:
        """The network. Inside the block, results depend neither on the process nor on what it has computed before."""
        startup().start()
        with autotuner().without_measuring(), products_in(self.precision):
            yield open_with_head(self.model, self.device)

    def part(self, block: Block) -> Path:
        """The file of a block."""
        return self.folder / f"{block.number:06d}{PARQUET}"

    def write(self, opened: OpenModel, block: Block) -> None:
        """Predict the images of a block, and write its part. It appears once it is whole.

        Raises: DataError, NonFiniteError, StorageError.
        """
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        rows: list[tuple[Any, ...]] = []
        for batch in block.batches(self.batch_size):
            found = self._predict(opened, [image.picture for image in batch])
            rows += [
                (escaped(image.file), image.row, list(one.classes), list(one.probabilities), one.error)
                for image, one in zip(batch, found, strict=True)
            ]
        columns = [
            pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema(), strict=True)
        ]
        with replacing(self.part(block)) as temporary:
            pq.write_table(pa.Table.from_arrays(columns, schema=schema()), temporary)

    def _predict(self, opened: OpenModel, pictures: Sequence[Any]) -> Sequence[Prediction]:
        job = PredictionJob(
            model=self.model,
            top=self.top,
            classifier=None,
            batch_size=self.batch_size,
            progress=False,
            on_error="return",
        )
        return get_task(opened.task).predict(opened, pictures, job)


@dataclass(frozen=True, kw_only=True)
class PredictedTable:
    """What `predict_table` has written."""

    path: Path
    images: int
    unreadable: int  # whose row has an error instead of classes


def predict_table(
    model: Path | str,
    images: Sequence[Path | str],
    out: Path | str,
    *,
    engine: Engine = "local",
    top: int | None = None,
    image_column: str | None = None,
    batch_size: int = 32,
    device: str | None = None,
    progress: Progress = False,
) -> PredictedTable:
    """Predict the classes of many images, and write a table with a row for each, in their order.

    Blocks of images are computed one by one, or on a Ray cluster, each into a file beside the table. A run that was
    killed computes those that are missing when it is started again; the table is written once there are all.

    Args:
        model: a run folder, a `.safetensors` file, a name of `vgg weights list`, or a file of `vgg export`.
        images: image files, parquet files with encoded images, or folders of image files.
        out: a file name that ends in .parquet. Columns: `image`, the path of the image or of the parquet file; `row`
            of the latter, from 0; `classes` and `probabilities`, the most probable first; `error`, why an image
            cannot be read.
        engine: "ray" works on the cluster that $RAY_ADDRESS names, or on all processors of this machine. All machines
            of a cluster need the model, the images and the folder of `out` under the same paths.
        top: classes of a row, by default 5.
        image_column: of the parquet files; by default it is found by names and types.
        batch_size: images for each forward pass, at least 1.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        progress: True for a bar or lines on stderr, or a function of (images done, images to do).

    Raises:
        ConfigError: an option cannot work, the model has another task than classes, another process writes the table,
            or what an earlier run has left is of other options or files.
        DataError: there are no images, or a parquet file is damaged.
        WeightsError: the file is damaged, or the model has no preprocessing.
        StorageError: the table cannot be written.
        MissingDependencyError: Ray is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (32, 32), "white").save(f"{folder}/white.png")
        ...     table = predict_table("vgg8_bn-cifar10-fast", [folder], f"{folder}/out.parquet")
        ...     table.images, table.unreadable
        (1, 0)
    """
    check_at_least(1, top=1 if top is None else top, batch_size=batch_size)
    out = Path(out).expanduser().absolute()
    _check(model, out)
    job = TableJob(
        model=_absolute(model),
        top=TOP if top is None else top,
        batch_size=batch_size,
        device=device,
        precision=allowed_precision(),
        folder=out.with_name(out.name + PARTS),
    )
    blocks = divide(images, image_column=image_column)
    total = sum(map(len, blocks))
    if total == 0:
        raise DataError(f"no images were given: {', '.join(map(str, images)) or 'nothing'}.")
    busy = ConfigError(f"{job.folder}: another process writes this table. Wait for it, or stop it.")
    advice = "Make it writable, then try again."
    with locked(job.folder / LOCK, busy=busy, advice=advice), report_progress(progress, "predicting") as report:
        _check_same_job(job, blocks)
        todo = [block for block in blocks if not job.part(block).exists()]
        done = total - sum(map(len, todo))
        for block in _compute(job, todo, engine):
            done += len(block)
            report(done, total)
        unreadable = _join(job, blocks, out)
    shutil.rmtree(job.folder, ignore_errors=True)
    return PredictedTable(path=out, images=total, unreadable=unreadable)


def schema() -> Any:
    """The columns of the table."""
    import pyarrow as pa

    texts, numbers = pa.list_(pa.string()), pa.list_(pa.float64())
    return pa.schema(
        {"image": pa.string(), "row": pa.int64(), "classes": texts, "probabilities": numbers, "error": pa.string()}
    )


def _compute(job: TableJob, blocks: Sequence[Block], engine: Engine) -> Iterator[Block]:
    """Write the parts of blocks; each one once it is written."""
    if not blocks:
        return
    if engine == "ray":
        from vggnet.evaluation.ray_blocks import write_on_ray

        yield from write_on_ray(job, blocks)
        return
    with job.opened() as opened:
        for block in blocks:
            job.write(opened, block)
            yield block


def _check(model: Path | str, out: Path) -> None:
    if out.suffix.lower() != PARQUET:
        raise ConfigError(f"{out}: predictions of many images are a table; give a name that ends in {PARQUET}.")
    task = Checkpoint.open(model).task
    if not get_task(task).ranks_classes:
        raise ConfigError(f"{model} has no classes ({task}); a table of predictions needs a classifier.")


def _absolute(model: Path | str) -> str:
    """The name as it is where it is one; a path as other processes find it."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else str(model)


def _check_same_job(job: TableJob, blocks: Sequence[Block]) -> None:
    """Note what is computed, or compare it with what an interrupted run has noted.  Raises: ConfigError."""
    files = blake2b(digest_size=16)
    for file in (file for block in blocks for file in dict.fromkeys(block.files)):
        with suppress(OSError):  # it will be named as unreadable
            status = file.stat()
            files.update(f"{escaped(str(file))} {status.st_size} {status.st_mtime_ns}\n".encode())
    facts = {
        "weights": sha256(locate(job.model)),
        "top": job.top,
        "batch_size": job.batch_size,
        "precision": job.precision,
        "images": sum(map(len, blocks)),
        "block": BLOCK,
        "columns": sorted({str(block.column) for block in blocks}),
        "files": files.hexdigest(),
        "version": version("vggnet"),
    }
    path = job.folder / JOB
    if not path.exists():
        write_text(path, json.dumps(facts))
    before = json.loads(path.read_text(encoding="utf-8"))
    if changed := [name for name in facts if before.get(name) != facts[name]]:
        raise ConfigError(
            f"{job.folder} has a part of other predictions ({', '.join(changed)} changed). Remove it to start anew, or "
            "choose another --out."
        )


def _join(job: TableJob, blocks: Sequence[Block], out: Path) -> int:
    """Write the table from all parts; returns how many images cannot be read.  Raises: StorageError."""
    import pyarrow.parquet as pq

    unreadable = 0
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema()) as writer:
        for block in blocks:
            part = pq.read_table(job.part(block))
            if len(part) != len(block):
                raise StorageError(f"{job.part(block)}: {len(part)} rows; expected {len(block)}. Remove it, try again.")
            unreadable += len(part) - part["error"].null_count
            writer.write_table(part)
    return unreadable
