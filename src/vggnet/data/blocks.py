"""Many images in blocks of a fixed order, so that work on them can be divided, and go on after it was interrupted."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from vggnet.data.formats import image_files
from vggnet.data.images import Picture
from vggnet.data.sources.source import Columns

BLOCK = 256  # images
PARQUET = ".parquet"


class PlacedImage(NamedTuple):
    """An image, and where it is."""

    file: str  # of the image, or the parquet file
    row: int | None  # of the parquet file, from 0
    picture: Picture | None  # a path, or the bytes of a file; None where the parquet file has none


@dataclass(frozen=True)
class Block:
    """Images that belong together.

    Args:
        number: its place among the blocks, from 0.
        files: image files, or one parquet file.
        rows: of the parquet file; None for image files.
        column: of the parquet file that has the images.
    """

    number: int
    files: tuple[Path, ...]
    rows: range | None = None
    column: str | None = None

    def __len__(self) -> int:
        return len(self.files if self.rows is None else self.rows)

    def batches(self, size: int) -> Iterator[list[PlacedImage]]:
        """The images, at most `size` of them at a time.  Raises: DataError if the parquet file is damaged."""
        images: Iterator[PlacedImage]
        if self.rows is None:
            images = (PlacedImage(str(file), None, file) for file in self.files)
        else:
            images = _rows(self.files[0], str(self.column), self.rows)
        while batch := list(islice(images, size)):
            yield batch


def divide(images: Sequence[Path | str], *, image_column: str | None = None) -> list[Block]:
    """Divide images into blocks of at most BLOCK of them, in the order given.

    Args:
        images: image files, parquet files with encoded images, or folders of image files.
        image_column: of the parquet files; by default it is found by names and types.

    Raises:
        DataError: a path does not exist, a folder has no images, or a parquet file is damaged or has no image column.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for number in range(300):
        ...         Path(folder, f"{number}.png").touch()
        ...     [len(block) for block in divide([folder])]
        [256, 44]
    """
    paths = [Path(os.path.abspath(Path(image).expanduser())) for image in images]  # noqa: PTH100 (keeps links)
    parts: list[Block] = []
    for is_table, some in groupby(paths, lambda path: path.suffix.lower() == PARQUET and not path.is_dir()):
        if is_table:
            parts += (Block(0, (file,), rows, column) for file in some for column, rows in _rows_of(file, image_column))
        else:
            files = tuple(image_files(some))
            parts += (Block(0, files[at : at + BLOCK]) for at in range(0, len(files), BLOCK))
    return [replace(part, number=number) for number, part in enumerate(parts)]


def _rows_of(file: Path, given: str | None) -> Iterator[tuple[str, range]]:
    """The column of images, and the rows of each block."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    from vggnet.data.sources.columns import image_column
    from vggnet.data.sources.parquet import whole_parquet

    image_files([file])  # names it if it is missing
    with whole_parquet(file), pq.ParquetFile(file) as opened:
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
    column = image_column(schema, str(file), Columns(given))
    return ((column, range(at, min(at + BLOCK, rows))) for at in range(0, rows, BLOCK))


def _rows(file: Path, column: str, rows: range) -> Iterator[PlacedImage]:
    """The images in these rows. Row groups without them are skipped."""
    import pyarrow.parquet as pq

    from vggnet.data.sources.parquet import whole_parquet

    with whole_parquet(file), pq.ParquetFile(file) as opened:
        groups: list[int] = []
        first = at = 0
        for group in range(opened.num_row_groups):
            end = at + opened.metadata.row_group(group).num_rows
            if at < rows.stop and end > rows.start:
                first = first if groups else at
                groups.append(group)
            at = end
        for batch in opened.iter_batches(batch_size=BLOCK, row_groups=groups, columns=[column]):
            wanted = range(max(rows.start, first), min(rows.stop, first + len(batch)))
            if wanted:
                cells = batch.column(0).slice(wanted.start - first, len(wanted)).to_pylist()
                yield from (
                    PlacedImage(str(file), row, _encoded(cell)) for row, cell in zip(wanted, cells, strict=True)
                )
            first += len(batch)
            if first >= rows.stop:
                return


def _encoded(cell: Any) -> bytes | None:
    """Of a column of bytes, or of structs as Hugging Face has them."""
    found: bytes | None = cell["bytes"] if isinstance(cell, dict) else cell
    return found
