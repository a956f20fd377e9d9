"""Blocks of images, by tables and folders whose content is known."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vggnet.data import blocks
from vggnet.data.blocks import divide
from vggnet.errors import DataError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 4)


def table(path, cells, group, name="image"):
    pq.write_table(pa.table({"label": list(range(len(cells))), name: cells}), path, row_group_size=group)
    return path


def all_of(images, size=3, **options):
    found = divide(images, **options)
    assert [block.number for block in found] == list(range(len(found)))
    assert all(1 <= len(block) <= 4 for block in found)
    batches = [batch for block in found for batch in block.batches(size)]
    assert all(len(batch) <= size for batch in batches)
    return [tuple(image) for batch in batches for image in batch]


@pytest.mark.parametrize("group", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("size", [1, 3, 32])
def test_every_row_comes_once_whatever_the_row_groups(tmp_path, group, size):
    """Oracle: the rows as they were written."""
    cells = [f"row {number}".encode() for number in range(18)]
    path = table(tmp_path / "t.parquet", cells, group)
    assert all_of([path], size) == [(str(path), row, cell) for row, cell in enumerate(cells)]


def test_structs_and_folders_and_files_in_the_order_given(tmp_path):
    """Oracle: the list, by hand; a struct as Hugging Face has it, and one without bytes."""
    first = table(tmp_path / "b.parquet", [{"bytes": b"x", "path": "p"}, {"bytes": None, "path": "q"}, None], 2)
    second = table(tmp_path / "a.parquet", [b"1", b"2"], 2, name="other")
    folder = tmp_path / "folder"
    for number in range(6):
        (folder / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 2}" / f"{number}.png").touch()
    alone = tmp_path / "alone.jpg"
    alone.touch()
    files = [folder / "0" / f"{number}.png" for number in (0, 2, 4)]
    files += [folder / "1" / f"{number}.png" for number in (1, 3, 5)]
    assert all_of([first, alone, folder, second]) == [
        (str(first), 0, b"x"),
        (str(first), 1, None),
        (str(first), 2, None),
        *((str(file), None, file) for file in (alone, *files)),
        (str(second), 0, b"1"),
        (str(second), 1, b"2"),
    ]
    assert all_of([second], image_column="other")[0][2] == b"1"


def test_mistakes(tmp_path):
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    for path, words in (
        (tmp_path / "none.parquet", "does not exist"),
        (damaged, "not a whole parquet file"),
        (table(tmp_path / "t.parquet", [1, 2], 2), "no image column"),
    ):
        with pytest.raises(DataError, match=words):
            divide([path])
    with pytest.raises(DataError, match="no column 'x' \\(--image-column\\)"):
        divide([tmp_path / "t.parquet"], image_column="x")
