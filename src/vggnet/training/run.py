"""The run folder: everything of one training, in files that any program can read."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import STREAM
from vggnet.data.splits import Rule
from vggnet.data.trained_on import TRAINED_ON
from vggnet.errors import RunError
from vggnet.files import locked, write_text
from vggnet.tasks import DEFAULT, get_task
from vggnet.tasks.task import Task
from vggnet.training.config import TrainConfig, modernized
from vggnet.training.loop import Row
from vggnet.training.schedules import has_ended
from vggnet.weights.registry import FILE_NAME

CONFIG, HISTORY, CURVES = "config.json", "history.jsonl", "results.png"
CHOICES = "choices.json"
BRANCHES = "branches.safetensors"
SKIPPED = "skipped.json"
LOGGED = "logged.json"
STATE, EVENTS, LOCK = "state", "tensorboard", ".lock"


@dataclass(frozen=True)
class Run:
    """A run folder: config, history, choices of convolutions, weights, curves, state/.

    Args:
        folder: as `Run.open` checks it.

    Example:
        >>> Run(Path("runs/mine")).weights.name
        'weights.safetensors'
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path, description: dict[str, Any]) -> "Run":
        """Make the folder and write config.json.  Raises: RunError if it exists and is not empty; StorageError."""
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} is not empty. Choose another --out, or continue it with --resume {folder}.")
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; a run needs a folder. Choose another --out.")
        write_text(folder / CONFIG, json.dumps(description, indent=1))
        return cls(folder)

    @classmethod
    def open(cls, folder: Path | str) -> "Run":
        """An existing run folder.

        Args:
            folder: a path; "~" is the home folder.

        Raises:
            RunError: it is not the folder of a run.
        """
        folder = Path(folder).expanduser()
        if not (folder / CONFIG).is_file():
            found = "has no config.json" if folder.is_dir() else "does not exist"
            raise RunError(f"{folder} is not a run folder: it {found}. Give a folder that `vgg train` made.")
        return cls(folder)

    @cached_property
    def description(self) -> dict[str, Any]:
        """config.json: config, data, classes, preprocess, fingerprint, versions and hardware."""
        path = self.folder / CONFIG
        try:
            description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}). Restore it, or train again into another folder.") from error
        wanted = {"config", "data", "preprocess", "classes", "images", "fingerprint"}
        missing = wanted - description.keys() if isinstance(description, dict) else wanted
        if missing:
            raise RunError(f"{path} lacks {', '.join(sorted(missing))}; it is not the config.json of a run.")
        return description

    def with_config(self, config: TrainConfig) -> "Run":
        """The run with another configuration, which config.json keeps.  Raises: StorageError."""
        write_text(self.folder / CONFIG, json.dumps(self.description | {"config": config.as_dict()}, indent=1))
        return Run(self.folder)

    @property
    def config(self) -> TrainConfig:
        """The configuration that the run was started with."""
        return TrainConfig.from_dict(self.description["config"])

    @property
    def task(self) -> Task:
        """What the network is trained for, also where other options are not known here.  Raises: ConfigError."""
        values = modernized({"task": self.description["config"].get("task", DEFAULT)})["task"]
        return get_task(values["name"] if isinstance(values, dict) else values)

    @property
    def data(self) -> str:
        """What the run was trained on, as given to --data."""
        return str(self.description["data"])

    @property
    def split_rule(self) -> Rule:
        """How the images were divided; runs of earlier versions have stratified splits."""
        return "content" if self.description.get("split_rule") == "content" else "stratified"

    @property
    def val_split(self) -> str | None:
        """The split of the data that chose the best epoch; None if it was carved from the images to train on."""
        split: str | None = self.description.get("val_split")
        return split

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of its images."""
        return Preprocess.from_dict(self.description["preprocess"])

    @property
    def weights(self) -> Path:
        """The weights to use: of the best epoch on the validation split, or of the last without one."""
        return self.folder / FILE_NAME

    @property
    def history(self) -> list[Row]:
        """One row for each finished epoch."""
        path = self.folder / HISTORY
        if not path.is_file():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}). Remove it; --resume writes it anew.") from error

    @property
    def skipped(self) -> dict[str, str]:
        """The images that could not be read and were left out: the index of each -> why.  Raises: RunError."""
        path = self.folder / SKIPPED
        if not path.is_file():
            return {}
        try:
            skipped: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
            return skipped
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}). Remove it; --resume writes it anew.") from error

    @property
    def finished(self) -> bool:
        """Whether the training came to its end, or stopped early as it was told to."""
        return has_ended(self.config, self.history)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any((self.folder / STATE).glob("*.safetensors"))

    def remove_files(self) -> None:
        """Remove what is there before the first epoch has ended, as far as the disk allows."""
        for folder in (STATE, EVENTS):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        for file in (CONFIG, LOCK, LOGGED, TRAINED_ON):
            with suppress(OSError):
                (self.folder / file).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder.  Raises: RunError if one does already; StorageError."""
        busy = RunError(f"{self.folder}: another process trains in this folder. Wait for it, or stop it.")
        with locked(self.folder / LOCK, busy=busy, advice="Make it writable, then go on."):
            yield

    def write_history(self, rows: list[Row]) -> None:
        """Replace history.jsonl."""
        write_text(self.folder / HISTORY, "".join(json.dumps(row) + "\n" for row in rows))

    def write_skipped(self, skipped: dict[str, str]) -> None:
        """Replace skipped.json, if there is anything to say."""
        if skipped:
            write_text(self.folder / SKIPPED, json.dumps(skipped, indent=1, ensure_ascii=False))

    @property
    def logged(self) -> dict[str, str]:
        """Logger -> what finds its run again; see `vggnet.training.loggers`.  Raises: RunError."""
        path = self.folder / LOGGED
        try:
            keys: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            return {str(name): str(key) for name, key in keys.items()}
        except (ValueError, AttributeError) as error:
            raise RunError(f"{path} is damaged ({error}). Remove it; --resume begins new logged runs.") from error

    def write_logged(self, keys: dict[str, str]) -> None:
        """Replace logged.json."""
        write_text(self.folder / LOGGED, json.dumps(keys, indent=1))

    def write_choices(self, choices: dict[str, Any]) -> None:
        """Replace choices.json: the algorithm that each convolution took on a CPU, with what was measured of it."""
        write_text(self.folder / CHOICES, json.dumps(choices, indent=1))


def best_row(task: Task, rows: Sequence[Row]) -> Row:
    """The row with the best validation, of equals the last; the last row if nothing was validated."""
    return max(reversed(rows), key=task.score)


def default_folder(data: str, model: str) -> Path:
    """runs/DATA-MODEL-DATE-TIME."""
    place = Path(data.removeprefix(STREAM))
    name = place.name or place.resolve().name  # of "."
    return Path("runs") / f"{name}-{model}-{datetime.now():%Y%m%d-%H%M%S}"


def require_room(folder: Path, num_bytes: int) -> None:
    """Raises: RunError if the disk of `folder` has less room than `num_bytes`, before any work is done."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise RunError(
            f"{folder}: the disk has {free / 1e6:.0f} MB free, but this run needs about {num_bytes / 1e6:.0f} MB. "
            "Make room or choose another --out."
        )
