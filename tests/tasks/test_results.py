"""The files of an evaluation."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vggnet.errors import DataError
from vggnet.metrics import PerImage
from vggnet.tasks.results import read_per_image, write_per_image

COLUMNS = {"true": [0, 1], "predicted": [1, 1], "confidence": [0.5, 0.75], "loss": [1.0, 0.25]}


def test_the_file_of_version_0_1_is_read(tmp_path):
    """Oracle: the columns, written by pyarrow under the old name."""
    assert read_per_image(tmp_path) is None
    pq.write_table(pa.table(COLUMNS), tmp_path / "answers.parquet")
    assert [column.tolist() for column in read_per_image(tmp_path)] == list(COLUMNS.values())


def test_an_old_file_does_not_outlive_a_new_evaluation(tmp_path):
    """Oracle: the folder."""
    pq.write_table(pa.table(COLUMNS), tmp_path / "answers.parquet")
    classes, numbers = torch.tensor([2]), torch.tensor([0.5], dtype=torch.float64)
    write_per_image(tmp_path, PerImage(classes, classes, numbers, numbers))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]
    assert read_per_image(tmp_path).labels.tolist() == [2]


@pytest.mark.parametrize("name", ["predictions.parquet", "answers.parquet"])
def test_damaged_files_are_named(tmp_path, name):
    """Oracle: the contract."""
    (tmp_path / name).write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=rf"{name} is damaged"):
        read_per_image(tmp_path)
    pq.write_table(pa.table({"true": [1]}), tmp_path / name)
    with pytest.raises(DataError, match="predicted"):
        read_per_image(tmp_path)
