"""Predict blocks of images on a Ray cluster, by Ray Data."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vggnet.data.blocks import Block
from vggnet.errors import require
from vggnet.evaluation.predict_table import TableJob
from vggnet.ray_cluster import EXTRA, ray_cluster


def write_on_ray(job: TableJob, blocks: Sequence[Block]) -> Iterator[Block]:
    """Write the part of each block. A worker that is lost costs its block, which another one computes again.

    Args:
        job: what is done. All machines of the cluster need its files under the same paths.
        blocks: at least one.

    Returns:
        The blocks, each once its part is written, in any order.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: the cluster cannot be reached.
        VGGError: as `TableJob.write`.
    """
    with ray_cluster() as ray:
        data: Any = require("ray.data", EXTRA)
        _be_quiet(data)
        resources = ray.cluster_resources()
        # A worker for each GPU, else for each processor: Ray sets its threads by the processors that it reserves.
        on_gpu = resources.get("GPU", 0) > 0 and job.device != "cpu"
        workers = int(resources["GPU" if on_gpu else "CPU"])
        by_number = {block.number: block for block in blocks}
        written = data.from_items(list(map(_to_row, blocks)), override_num_blocks=len(blocks)).map(
            Writer,
            fn_constructor_args=(job,),
            compute=data.ActorPoolStrategy(min_size=1, max_size=min(workers, len(blocks))),
            num_cpus=0 if on_gpu else 1,
            num_gpus=1 if on_gpu else 0,
        )
        for row in written.iter_rows():
            yield by_number[row["number"]]


class Writer:
    """A worker: it opens the network once, and writes parts."""

    def __init__(self, job: TableJob) -> None:
        self._job, self._stack = job, ExitStack()  # which is left open: the process ends with it
        self._opened = self._stack.enter_context(job.opened())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the part of a block."""
        self._job.write(self._opened, _to_block(row))
        return {"number": row["number"]}


def _to_row(block: Block) -> dict[str, Any]:
    """A block in types of Arrow, which Ray hands on as they are."""
    rows = block.rows or range(-1, -1)
    files = list(map(os.fsencode, block.files))  # names of files need not be text
    return {"number": block.number, "files": files, "start": rows.start, "stop": rows.stop, "column": block.column}


def _to_block(row: dict[str, Any]) -> Block:
    rows = None if row["column"] is None else range(row["start"], row["stop"])
    return Block(row["number"], tuple(Path(os.fsdecode(file)) for file in row["files"]), rows, row["column"])


def _be_quiet(data: Any) -> None:
    """Ray's errors are raised; its progress is ours."""
    data.DataContext.get_current().enable_progress_bars = False
    data.DataContext.get_current().print_on_execution_start = False
    for name in ("ray.data", "ray.data.tests"):
        logging.getLogger(name).setLevel(logging.ERROR)
