"""Where the rows of a training are logged beside history.jsonl: TensorBoard, MLflow or Trackio.

A logger never stops or changes a training: the first one of its calls that fails gives a warning, and is the last.
"""

import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Any, Literal, Self
from uuid import uuid4

from vggnet.errors import one_line, require
from vggnet.training.loop import Row
from vggnet.training.options import LoggerName
from vggnet.training.run import EVENTS, Run

PROJECT = "vggnet"  # MLflow's experiment and Trackio's project
End = Literal["finished", "stopped", "failed"]


class Logger(ABC):
    """One run in another program. Its methods may raise any exception.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def start(self, config: Mapping[str, Any], epoch: int, key: str | None) -> str:
        """Begin a logged run, or continue one.

        Args:
            config: the options of the training by their names, and its data.
            epoch: the next to be logged, from 1.
            key: what an earlier call returned for the logged run to continue; None begins one.

        Returns:
            What finds the logged run again.
        """

    @abstractmethod
    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of one epoch."""

    @abstractmethod
    def finish(self, end: End) -> None:
        """Write what is still in memory."""


class TensorBoardLogger(Logger):
    """Event files in the run folder: scalars by epoch, and the configuration as text."""

    def start(self, config: Mapping[str, Any], epoch: int, key: str | None) -> str:
        """Open the writer; epochs from `epoch` on, of a run that was interrupted, are dropped."""
        require("tensorboard", "report")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder / EVENTS), purge_step=epoch)
        if key is None:
            self.writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config.items()))
        return EVENTS

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """A scalar for each value."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def finish(self, end: End) -> None:
        """Close the file."""
        self.writer.close()


class MLflowLogger(Logger):
    """A run of MLflow in the experiment `vggnet`, or MLFLOW_EXPERIMENT_NAME, where MLFLOW_TRACKING_URI says.

    Without that variable it is `mlflow.db` in the current folder, as MLflow has it. MLflow's usage statistics are
    turned off, and it tries to reach a server for seconds rather than minutes, unless its variables are set.
    """

    def start(self, config: Mapping[str, Any], epoch: int, key: str | None) -> str:
        """Create the run with the configuration as parameters, or reopen it."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self.mlflow = require("mlflow", "mlflow")
        self.client = self.mlflow.MlflowClient()
        if key is not None:
            self.client.update_run(key, status="RUNNING")
            self.key = key
            return key
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        self.key = str(self.client.create_run(experiment, run_name=self.folder.resolve().name).info.run_id)
        parameters = [self.mlflow.entities.Param(name, str(value)) for name, value in config.items()]
        self.client.log_batch(self.key, params=parameters)
        return self.key

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """A metric for each value, with the epoch as its step."""
        now, metric = int(1000 * time()), self.mlflow.entities.Metric
        self.client.log_batch(self.key, metrics=[metric(name, value, now, epoch) for name, value in values.items()])

    def finish(self, end: End) -> None:
        """Set the status of the run."""
        self.client.set_terminated(self.key, {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[end])


class TrackioLogger(Logger):
    """A run of Trackio in the project `vggnet`, in Trackio's own folder (TRACKIO_DIR)."""

    def start(self, config: Mapping[str, Any], epoch: int, key: str | None) -> str:
        """Begin a run of a new name, or continue the one of this name."""
        self.trackio = require("trackio", "trackio")
        name = key or f"{self.folder.resolve().name}-{uuid4().hex[:6]}"  # Trackio finds runs by their names
        with redirect_stdout(sys.stderr):
            self.run = self.trackio.init(
                PROJECT,
                name=name,
                config=dict(config),
                resume="never" if key is None else "allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return name

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """All values, with the epoch as the step."""
        with redirect_stdout(sys.stderr):
            self.run.log(dict(values), step=epoch)

    def finish(self, end: End) -> None:
        """Wait until all is written."""
        with redirect_stdout(sys.stderr):
            self.trackio.finish()


LOGGERS: Mapping[LoggerName, type[Logger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MLflowLogger,
    "trackio": TrackioLogger,
}
_EXTRAS: Mapping[LoggerName, str] = {"tensorboard": "report", "mlflow": "mlflow", "trackio": "trackio"}


def check_installed(names: tuple[LoggerName, ...] | None) -> None:
    """Raises: MissingDependencyError if the package of a logger that is asked for is not there."""
    for name in names or ():
        require(name, _EXTRAS[name])


class Log:
    """The rows of a run, given to its loggers while entered.

    Args:
        run: its configuration names them, and its logged.json has what finds their runs again.
        epoch: the next to come, from 1.
    """

    def __init__(self, run: Run, epoch: int) -> None:
        self.run = run
        self.epoch = epoch
        self.loggers: dict[LoggerName, Logger] = {}

    def __enter__(self) -> Self:
        default: tuple[LoggerName, ...] = ("tensorboard",) if find_spec("tensorboard") else ()
        names = self.run.config.run.log
        for name in default if names is None else names:
            self.loggers[name] = LOGGERS[name](self.run.folder)
        self._each(self._start)
        return self

    def write(self, row: Row, lr: float) -> None:
        """Log the row of one epoch and its last learning rate."""
        values = {name: float(value) for name, value in row.items() if name != "epoch"} | {"lr": lr}
        self._each(lambda name, logger: logger.log(row["epoch"], values))

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._each(lambda name, logger: logger.finish(self._end(kind)))

    def _start(self, name: LoggerName, logger: Logger) -> None:
        description = {key: self.run.description.get(key) for key in ("data", "preset", "init_from")}
        keys = self.run.logged
        key = logger.start(description | self.run.config.as_options(), self.epoch, keys.get(name))
        if keys.get(name) != key:
            self.run.write_logged({**keys, name: key})

    def _end(self, kind: type[BaseException] | None) -> End:
        if kind is not None:
            return "failed"
        return "finished" if self.run.finished else "stopped"

    def _each(self, call: Callable[[LoggerName, Logger], None]) -> None:
        """Call each logger; leave out those that fail."""
        for name, logger in list(self.loggers.items()):
            try:
                call(name, logger)
            except Exception as error:
                del self.loggers[name]
                warnings.warn(
                    f"{name} logs no more of {self.run.folder} ({one_line(error)}); the training goes on, and "
                    "history.jsonl has every epoch.",
                    stacklevel=2,
                )
