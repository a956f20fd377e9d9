"""The rows of an experiment: one JSON object a line for each finished run. What has a row is not run again."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from vggnet.errors import ConfigError, RunError
from vggnet.files import write_text
from vggnet.training.config import TrainConfig

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, none if there is no file.  Raises: RunError for a line that is not a JSON object."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def append_row(path: Path, row: Row) -> None:
    """Add a row, or leave the file as it was.  Raises: StorageError if the disk refuses."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    write_text(path, "\n".join([*lines, json.dumps(row)]) + "\n")


def find_row(rows: Sequence[Row], name: str, value: str, config: TrainConfig, fingerprint: str | None) -> Row | None:
    """The row of a run with exactly this configuration on these images, and with this value under `name`.

    Args:
        rows: to search in.
        name: a key of the rows.
        value: what must be under that key.
        config: of the run.
        fingerprint: of the training images; None for what needs no images.
    """
    wanted = (value, fingerprint)
    same = (row for row in rows if (row.get(name), row.get("fingerprint")) == wanted and config_of(row) == config)
    return next(same, None)


def budget_of(row: Row) -> tuple[TrainConfig | None, str | None]:
    """What must be the same for two runs to be compared: the configuration without model and seed, and the images."""
    config = config_of(row)
    return None if config is None else config.override(model="vgg16", seed=0), row.get("fingerprint")


def config_of(row: Row) -> TrainConfig | None:
    """Options that are newer than the row have their defaults; None if it has an option that no longer exists."""
    try:
        return TrainConfig.from_dict(row["config"])
    except ConfigError:
        return None


def spread(percents: Sequence[float]) -> str:
    """Mean and standard deviation, with two decimals; "-" for no value."""
    if not percents:
        return "-"
    return f"{mean(percents):.2f}" + (f" ± {stdev(percents):.2f}" if len(percents) > 1 else "")


def percents(rows: Sequence[Row], name: str) -> list[float]:
    """The values under `name`, those that are not None, in percent."""
    return [100 * row[name] for row in rows if row[name] is not None]


def _parsed(path: Path, number: int, line: bytes) -> Row:
    with suppress(ValueError):
        if isinstance(row := json.loads(line), dict):
            return row
    raise RunError(
        f"{path}, line {number}: not a row; expected one JSON object, and this line may have been cut. Remove the "
        "line, and its run is repeated; or name another file."
    )
