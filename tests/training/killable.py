"""A training in a process that can be killed: at a file operation in its folder, or by its parent at a step.

The processes are forked from one that has imported everything, which spares each of them seconds.
"""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from trainings import train

import vggnet
from vggnet.models import heads
from vggnet.training import loop as fitting

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "killable",
        "vggnet.training.train",
        "vggnet.data.sources.digits",
        "vggnet.data.sources.shards",
        "vggnet.accel.kernels.batch_norm_kernels",
    ]
)


class Training:
    """`train` on digits, if `fields` name no other data, or `resume` if the folder has a run. Steps: "epoch:step"."""

    def __init__(self, folder: Path, fields: dict[str, Any], kill_at: int = 0, pause_at: str = "") -> None:
        self.steps: list[str] = []
        self.result: dict[str, Any] = {}  # how many file operations there were, and whether the run is finished
        self._connection, theirs = FORKS.Pipe()
        self.process = FORKS.Process(target=_train, args=(str(folder), fields, kill_at, pause_at, theirs))
        self.process.start()
        theirs.close()

    def wait_for(self, step: str) -> None:
        """Until this step is done."""
        while not self.steps or self.steps[-1] != step:
            self.steps.append(self._connection.recv())

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def finish(self) -> int:
        """End the pause, wait for the end; returns the exit code, negative for a signal."""
        try:
            self._connection.send("go on")
            while not self.result:
                message = self._connection.recv()
                if isinstance(message, dict):
                    self.result = message
                else:
                    self.steps.append(message)
        except (EOFError, ConnectionError):  # it was killed
            pass
        self.process.join()
        self._connection.close()
        return self.process.exitcode


def _train(folder: str, fields: dict[str, Any], kill_at: int, pause_at: str, parent: Connection) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of its own workers, as in a process that a user starts
    torch.set_num_threads(1)
    heads.FC_WIDTH = 64  # the layers with dropout; those of the paper would take most of the time
    calls = 0

    def killing(function):
        def wrapper(file, *arguments, **options):
            nonlocal calls
            path = str(Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else file)
            if path.startswith(folder):  # not those of caches, which the first of several runs fills
                calls += 1
                if calls == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(file, *arguments, **options)

        return wrapper

    os.replace, os.fsync, Path.unlink = killing(os.replace), killing(os.fsync), killing(Path.unlink)
    count = fitting.Position.count

    def marking(self, *arguments):
        count(self, *arguments)
        step = f"{self.epoch}:{self.step}"
        parent.send(step)
        if step == pause_at:
            parent.recv()

    fitting.Position.count = marking
    begun = (Path(folder) / "config.json").exists()
    run = vggnet.resume(folder) if begun else train(**{"data": "digits", **fields}, out=folder)
    parent.send({"calls": calls, "finished": run.finished})
