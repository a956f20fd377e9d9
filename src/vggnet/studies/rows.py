"""The rows of a study, one JSON object a line for each finished run: a killed study goes on where it was."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from vggnet.errors import ConfigError, RunError
from vggnet.files import write_text
from vggnet.training.config import TrainConfig
from vggnet.training.run import Run
from vggnet.training.train import resume, train

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """The rows of what is finished."""

    rows: list[Row]
    finished: bool  # False if Ctrl-C stopped it; the same command goes on

    def as_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self))

    @abstractmethod
    def as_table(self) -> str:
        """Markdown."""


def read_rows(path: Path) -> list[Row]:
    """The rows that are there already.  Raises: RunError for a line that is none."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def append_row(path: Path, row: Row) -> None:
    """Add a finished run, or leave the file as it was.  Raises: StorageError if the disk refuses."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    write_text(path, "\n".join([*lines, json.dumps(row)]) + "\n")


def find_row(rows: Sequence[Row], name: str, value: str, config: TrainConfig, fingerprint: str | None) -> Row | None:
    """The row of a run with exactly this configuration on these images, and with this value under `name`.

    fingerprint: of train; None for what needs no images.
    """
    wanted = (value, fingerprint)
    same = (row for row in rows if (row.get(name), row.get("fingerprint")) == wanted and config_of(row) == config)
    return next(same, None)


def budget_of(row: Row) -> tuple[TrainConfig | None, str | None]:
    """What has to be the same for two runs to be compared: the configuration but for model and seed; the images."""
    config = config_of(row)
    return None if config is None else replace(config, model=TrainConfig.model, seed=0), row.get("fingerprint")


def _parsed(path: Path, number: int, line: bytes) -> Row:
    with suppress(ValueError):
        if isinstance(row := json.loads(line), dict):
            return row
    raise RunError(
        f"{path}, line {number}: no row of a study; expected one JSON object, and this line may have been cut. Remove "
        "the line, and its run is made again; or name another file."
    )


def train_or_resume(data: str | Path, folder: Path, *, progress: bool, **options: Any) -> Run:
    """Go on with the run in `folder`, or begin it."""
    if (folder / "config.json").is_file():
        return resume(folder, progress=progress)
    return train(data, out=folder, progress=progress, **options)


def spread(percents: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not percents:
        return "-"
    return f"{mean(percents):.2f}" + (f" ± {stdev(percents):.2f}" if len(percents) > 1 else "")


def config_of(row: Row) -> TrainConfig | None:
    """Options that are younger than the row have their defaults; None if it has an option that is no more."""
    try:
        return TrainConfig.from_dict(row["config"])
    except ConfigError:
        return None
