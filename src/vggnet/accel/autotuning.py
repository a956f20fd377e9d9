"""Autotuning: the fastest algorithm of each pass and shape, measured once on this machine and cached on disk."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TypedDict

import torch
from llvmlite.binding import get_host_cpu_name
from torch import Tensor

from vggnet.accel.threads import num_threads
from vggnet.files import cache_folder

DIRECT = "direct"
VERSION = 3  # of the algorithms; a cache of another version is measured again
REPEATS = 3  # timed runs of each algorithm, after one warm-up run; the fastest counts

OLD_NAMES = {"dense": "matmul", "unfold": "im2col", "halves": "float16"}  # of algorithms, in version 0.1
OLD_PASS, PASS = "answer ", "inference "  # how keys of inference began in version 0.1, and begin now

Candidate = Callable[[], Tensor]


class Choice(TypedDict):
    """The chosen algorithm, and the measured milliseconds of each."""

    algorithm: str
    ms: dict[str, float]


Choices = Mapping[str, Choice]


class Autotuner:
    """Runs each pass and shape ("key") by its fastest algorithm.

    An algorithm is measured at the first use of a key, unless a `fixed` block or the cache file names it.

    Args:
        path: the cache file; None keeps measurements in memory only. A damaged file is ignored and replaced; a file
            that cannot be written is not an error.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._measured: dict[str, Choice] = _read(path) if path else {}
        self._chosen: dict[str, Choice] = {}

    def run(self, key: str, algorithms: Mapping[str, Candidate]) -> Tensor:
        """The result of the fastest algorithm, or of the one that $VGGNET_CONV names if it is among them."""
        forced = os.environ.get("VGGNET_CONV")
        if forced:
            return algorithms.get(OLD_NAMES.get(forced, forced), algorithms[DIRECT])()
        if len(algorithms) == 1:
            return algorithms[DIRECT]()
        choice = self._chosen.get(key)
        if choice is None or choice["algorithm"] not in algorithms:
            choice = self._chosen[key] = self._cached(key, algorithms)
        return algorithms[choice["algorithm"]]()

    @contextmanager
    def fixed(self, choices: Choices) -> Iterator[None]:
        """Within the block, use these choices instead of measured ones, so that a resumed run is exact.

        They apply to the whole process and are never written to the cache; what they lack is measured and cached as
        usual.
        """
        outer, self._chosen = self._chosen, _up_to_date(choices)
        try:
            yield
        finally:
            self._chosen = outer

    def chosen(self) -> dict[str, Choice]:
        """The choices that the innermost `fixed` block was given or has used; outside of one, those used so far."""
        return {key: self._chosen[key] for key in sorted(self._chosen)}

    def measured(self) -> dict[str, Choice]:
        """What was measured on this machine, as the cache file has it."""
        return dict(self._measured)

    def _cached(self, key: str, algorithms: Mapping[str, Candidate]) -> Choice:
        with self._lock:
            choice = self._measured.get(key)
            if choice is None or choice["algorithm"] not in algorithms:
                choice = self._measured[key] = _measure(algorithms)
                self._write()
        return choice

    def _write(self) -> None:
        if self._path is None:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._measured, indent=1), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:
            self._path = None


@cache
def autotuner() -> Autotuner:
    """The autotuner of this process, with the cache of this machine."""
    return Autotuner(default_path())


def default_path() -> Path:
    """A file for each CPU model, number of threads, and version of PyTorch and of the algorithms."""
    machine = f"{get_host_cpu_name()}-{num_threads()}-threads"
    return cache_folder() / f"conv3x3-{VERSION}-{machine}-torch-{torch.__version__}.json"


def _measure(algorithms: Mapping[str, Candidate]) -> Choice:
    fastest = {}
    for name, algorithm in algorithms.items():
        algorithm()
        fastest[name] = min(_milliseconds(algorithm) for _ in range(REPEATS))
    return {"algorithm": min(fastest, key=lambda name: fastest[name]), "ms": fastest}


def _milliseconds(algorithm: Candidate) -> float:
    start = perf_counter()
    algorithm()
    return 1e3 * (perf_counter() - start)


def _up_to_date(choices: Choices) -> dict[str, Choice]:
    """A copy with today's names of passes and algorithms."""
    return {
        PASS + key.removeprefix(OLD_PASS) if key.startswith(OLD_PASS) else key: {
            "algorithm": OLD_NAMES.get(choice["algorithm"], choice["algorithm"]),
            "ms": {OLD_NAMES.get(name, name): ms for name, ms in choice["ms"].items()},
        }
        for key, choice in choices.items()
    }


def _read(path: Path) -> dict[str, Choice]:
    try:
        return _up_to_date(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
