"""The rows of a study, one JSON object a line for each finished run: a killed study goes on where it was."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from vggnet.errors import ConfigError
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
    """The rows that are there already."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def append_row(path: Path, row: Row) -> None:
    """Add a finished run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def find_row(rows: Sequence[Row], name: str, value: str, config: TrainConfig) -> Row | None:
    """The row of a run with exactly this configuration, and with this value under `name`."""
    return next((row for row in rows if row[name] == value and config_of(row) == config), None)


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
