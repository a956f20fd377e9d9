"""Autotuning: the fastest algorithm of each pass and shape, predicted at first, and measured where that pays.

A shape is measured once on a machine, when it has been used often, or at its first use in a `fixed` block, such as a
training. Measurements are cached on disk.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from math import inf
from pathlib import Path
from time import perf_counter
from typing import TypedDict

import torch
from torch import Tensor

from vggnet.accel.threads import num_threads
from vggnet.devices import cpu_kind
from vggnet.files import cache_folder

DIRECT = "direct"
VERSION = 13  # of the algorithms; a cache of another version is measured again
MEASURE_AFTER = 500  # uses of a shape by predicted choices: then measuring, 40 uses at most, costs less than a tenth
REPEATS = 3  # timed runs of each algorithm at most, after one warm-up run; the fastest counts
ENOUGH = 500.0  # milliseconds of timed runs, after which there are no more
FAR_BEHIND = 2.0  # times the fastest so far; such an algorithm is not run again

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

    Args:
        path: the cache file, a line of JSON for each measurement; None keeps them in memory only. Damaged lines are
            ignored; a file that cannot be written is not an error.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._measured: dict[str, Choice] = _read(path) if path else {}
        self._chosen: dict[str, Choice] = {}
        self._measures = False  # whether a key is measured at its first use
        self._predicts = False  # whether a key keeps its predicted choice
        self._uses: Counter[str] = Counter()  # of keys that are not measured

    def knows(self, key: str) -> bool:
        """Whether the choice of `run` is final: measured before or now, kept as predicted, or that of $VGGNET_CONV."""
        known = key in self._chosen or key in self._measured or self._measures or self._predicts
        return known or bool(os.environ.get("VGGNET_CONV"))

    @property
    def choices(self) -> Choices:
        """What `settled` is taken from: another object wherever other choices hold."""
        return self._chosen

    def settled(self, key: str, names: Collection[str]) -> str | None:
        """The name of the algorithm that `run` will use from now on; None if it may still change."""
        forced = os.environ.get("VGGNET_CONV")
        if forced:
            name = OLD_NAMES.get(forced, forced)
            return name if name in names else DIRECT
        if len(names) == 1:
            return DIRECT
        choice = self._chosen.get(key)
        return choice["algorithm"] if choice and choice["algorithm"] in names else None

    def predicts(self, key: str) -> bool:
        """Whether `run` would take the predicted choice, and measure nothing."""
        return self._uses[key] < MEASURE_AFTER and not self.knows(key)

    def note_use(self, key: str) -> None:
        """Count a use of the predicted choice without `run`."""
        self._uses[key] += 1

    def run(self, key: str, algorithms: Mapping[str, Candidate], predict: Callable[[], str] = lambda: DIRECT) -> Tensor:
        """The result of the fastest algorithm, or of the one that $VGGNET_CONV names if it is among them.

        Args:
            key: names the pass and the shape.
            algorithms: all that can be used for it, by their names.
            predict: gives the name of one of them as long as the key is not measured.
        """
        name = self.settled(key, algorithms)
        if name is not None:
            return algorithms[name]()
        if self._predicts and key not in self._measured:
            choice = self._chosen[key] = {"algorithm": predict(), "ms": {}}
        elif self._is_worth_measuring(key):
            likely_first = dict.fromkeys((predict(), *algorithms))
            choice = self._chosen[key] = self._cached(key, {name: algorithms[name] for name in likely_first})
        else:
            return algorithms[predict()]()
        return algorithms[choice["algorithm"]]()

    @contextmanager
    def fixed(self, choices: Choices) -> Iterator[None]:
        """Within the block, use these choices instead of measured ones, so that a resumed run is exact.

        They apply to the whole process and are never written to the cache; what they lack is measured at its first use,
        and cached.
        """
        outer = self._chosen, self._measures
        self._chosen, self._measures = _up_to_date(choices), True
        try:
            yield
        finally:
            self._chosen, self._measures = outer

    @contextmanager
    def without_measuring(self) -> Iterator[None]:
        """Within the block, a key that is not in the cache keeps its predicted choice, as a server needs it.

        No call then takes many times as long as the others, and results do not change with the number of calls. It
        applies to the whole process.
        """
        outer = self._chosen, self._predicts
        self._chosen, self._predicts = {}, True
        try:
            yield
        finally:
            self._chosen, self._predicts = outer

    def chosen(self) -> dict[str, Choice]:
        """The choices that the innermost `fixed` block was given or has used; outside of one, those used so far."""
        return {key: self._chosen[key] for key in sorted(self._chosen)}

    def measured(self) -> dict[str, Choice]:
        """What was measured on this machine, as the cache file has it."""
        return dict(self._measured)

    def _is_worth_measuring(self, key: str) -> bool:
        """Whether the key is measured already, or has been used so often that measuring pays; counts its uses."""
        self._uses[key] += 1
        return self._measures or key in self._measured or self._uses[key] > MEASURE_AFTER

    def _cached(self, key: str, algorithms: Mapping[str, Candidate]) -> Choice:
        with self._lock:
            choice = self._measured.get(key)
            if choice is None or choice["algorithm"] not in algorithms:
                choice = self._measured[key] = measure(algorithms)
                self._write(key, choice)
        return choice

    def _write(self, key: str, choice: Choice) -> None:
        """Add a line; in one piece, as other processes may write to the same file."""
        if self._path is None:
            return
        line = "\n" + json.dumps({"key": key, **choice}) + "\n"  # also after a line that was cut off
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(line.encode())
        except OSError:
            self._path = None


@cache
def autotuner() -> Autotuner:
    """The autotuner of this process, with the cache of this machine."""
    return Autotuner(default_path())


def default_path() -> Path:
    """A file for each machine, as `machine_key` tells them apart."""
    return cache_folder() / f"conv3x3-{machine_key()}.jsonl"


def machine_key() -> str:
    """The version of the algorithms, the CPU model, the number of threads, and PyTorch's version."""
    return f"{VERSION}-{cpu_kind()}-{num_threads()}-threads-torch-{torch.__version__}"


def measure(algorithms: Mapping[str, Candidate]) -> Choice:
    """Time each algorithm; the fastest of a few runs counts. Likely algorithms should be first."""
    fastest: dict[str, float] = {}
    for name, algorithm in algorithms.items():
        algorithm()
        runs = [_milliseconds(algorithm)]
        limit = FAR_BEHIND * min(fastest.values(), default=inf)
        while len(runs) < REPEATS and sum(runs) < ENOUGH and min(runs) < limit:
            runs.append(_milliseconds(algorithm))
        fastest[name] = min(runs)
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
    """The last measurement of each key."""
    found: dict[str, Choice] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            found[entry["key"]] = {"algorithm": entry["algorithm"], "ms": dict(entry["ms"])}
    return found
