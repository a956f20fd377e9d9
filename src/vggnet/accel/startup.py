"""When compiled kernels pay: importing numba takes a second, and compiling them for the first time three to ten.

Until a process has spent a while in PyTorch's own convolutions, these go on: work that is too short for compiled
kernels never waits for them.
"""

import os
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from torch import Tensor

from vggnet.devices import cpu_kind
from vggnet.files import cache_folder

TO_IMPORT = 0.5  # seconds of PyTorch's convolutions after which numba is imported
TO_COMPILE = 1.0  # and if there is nothing compiled yet: compiling takes three times as long, but once on a machine


class Startup:
    """Whether kernels are in use in this process."""

    def __init__(self) -> None:
        self._seconds = 0.0  # in PyTorch's convolutions so far
        self._started = False

    def pays(self) -> bool:
        """Whether kernels should be used now; once they are, always."""
        if not self._started:
            self._started = self._seconds >= (TO_IMPORT if _marker().exists() else TO_COMPILE)
        return self._started

    def start(self) -> None:
        """Kernels are used from now on."""
        self._started = True

    def run(self, convolution: Callable[[], Tensor]) -> Tensor:
        """Run PyTorch's convolution, and count its time."""
        begun = perf_counter()
        result = convolution()
        self._seconds += perf_counter() - begun
        return result


@cache
def startup() -> Startup:
    """That of this process."""
    return Startup()


def note_compiled() -> None:
    """Remember that kernels were compiled for this CPU and kept on the disk."""
    try:
        _marker().parent.mkdir(parents=True, exist_ok=True)
        _marker().touch()
    except OSError:  # the next process will wait as long as this one did
        return


@cache
def _marker() -> Path:
    """A file that is there once kernels of these sources were compiled for this CPU, by this numba, into its cache."""
    digest = blake2b(digest_size=8)
    digest.update(f"{version('numba')} {cpu_kind()} {os.environ.get('NUMBA_CACHE_DIR')}".encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        status = file.stat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape"))
    return cache_folder() / f"kernels-{digest.hexdigest()}"
