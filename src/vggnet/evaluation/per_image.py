"""The answer to every image of a test, as a file: what pictures of the mistakes and their causes are made from."""

from pathlib import Path

import torch

from vggnet.errors import DataError
from vggnet.files import replacing
from vggnet.metrics import PerImage

ANSWERS = "answers.parquet"
COLUMNS = ("true", "predicted", "confidence", "loss")


def write_per_image(path: Path, answers: PerImage) -> None:
    """As parquet, a row for each image in the order of the data.

    Columns: `true` and `predicted`, classes by their index; `confidence`, 0..1; `loss`, nats.
    Raises: StorageError.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    table = pa.table(dict(zip(COLUMNS, (tensor.numpy() for tensor in answers), strict=True)))
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_per_image(path: Path) -> PerImage:
    """The inverse of `write_per_image`.  Raises: DataError if the file is damaged or has other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(COLUMNS))
        return PerImage(*(torch.tensor(table[column].to_numpy()) for column in COLUMNS))
    except (pa.ArrowException, KeyError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). Remove it, and test again.") from error
