"""Which algorithm is the fastest for a shape: measured once, remembered on the disk, and open to inspection."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from llvmlite.binding import get_host_cpu_name
from torch import Tensor

from vggnet.accel.threads import num_threads
from vggnet.files import cache_folder

DIRECT = "direct"
VERSION = 3  # of the algorithms: what was measured of others is measured again
REPEATS = 3  # measured runs of each algorithm, after one that warms up; the fastest counts

Algorithm = Callable[[], Tensor]
Algorithms = Mapping[str, Algorithm]


class Choices:
    """The fastest algorithm of each key, with the milliseconds that were measured.

    `path` None keeps them in memory only. A file that cannot be read is measured anew; one that cannot be written is
    done without: a choice is never worth an error.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._found: dict[str, dict[str, Any]] = _read(path) if path else {}
        self._used: set[str] = set()

    def run(self, key: str, algorithms: Algorithms) -> Tensor:
        """The result of the fastest algorithm, or of the one that $VGGNET_CONV names if it is among them."""
        forced = os.environ.get("VGGNET_CONV")
        if forced:
            return algorithms.get(forced, algorithms[DIRECT])()
        if len(algorithms) == 1:
            return algorithms[DIRECT]()
        entry = self._found.get(key)
        if entry is None or entry["algorithm"] not in algorithms:
            with self._lock:
                entry = self._found[key] = _measure(algorithms)
                self._write()
        self._used.add(key)
        return algorithms[entry["algorithm"]]()

    def used(self) -> dict[str, dict[str, Any]]:
        """`as_dict` of what this process has run."""
        return {key: self._found[key] for key in sorted(self._used)}

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Key -> {"algorithm": name, "ms": {name: milliseconds}}."""
        return dict(self._found)

    def as_table(self) -> str:
        """One line a key for people: the algorithm, then the milliseconds of each that was measured."""
        if not self._found:
            return "nothing was measured yet; train, test or predict on a CPU, or run vgg bench train"
        width = max(map(len, self._found))
        lines = [f"{'pass and shape':<{width}}  algorithm  milliseconds"]
        for key, entry in sorted(self._found.items()):
            times = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(entry["ms"].items(), key=lambda item: item[1]))
            lines.append(f"{key:<{width}}  {entry['algorithm']:<9}  {times}")
        return "\n".join(lines)

    def fix(self, choices: Mapping[str, Mapping[str, Any]]) -> None:
        """Take these choices in place of what was measured, so that a run is repeated exactly."""
        self._found.update({key: dict(entry) for key, entry in choices.items()})

    def _write(self) -> None:
        if self._path is None:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._found, indent=1), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:
            self._path = None


@cache
def choices() -> Choices:
    """What was chosen on this machine."""
    return Choices(default_path())


def default_path() -> Path:
    """A file for each CPU, number of threads and version."""
    machine = f"{get_host_cpu_name()}-{num_threads()}-threads"
    return cache_folder() / f"conv3x3-{VERSION}-{machine}-torch-{torch.__version__}.json"


def _measure(algorithms: Algorithms) -> dict[str, Any]:
    fastest = {}
    for name, algorithm in algorithms.items():
        algorithm()
        fastest[name] = min(_milliseconds(algorithm) for _ in range(REPEATS))
    return {"algorithm": min(fastest, key=lambda name: fastest[name]), "ms": fastest}


def _milliseconds(algorithm: Algorithm) -> float:
    start = perf_counter()
    algorithm()
    return 1e3 * (perf_counter() - start)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): {"algorithm": entry["algorithm"], "ms": dict(entry["ms"])} for key, entry in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
