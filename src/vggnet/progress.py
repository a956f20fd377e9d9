"""How long work reports its progress: a bar on a terminal, a line every half minute elsewhere, or a callable."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

LINE_SECONDS = 30.0  # between the lines of a process without a terminal

# What functions take as `progress`: False shows nothing, True a bar or lines on stderr, and a callable gets
# (done, total) after each step.
Progress = bool | Callable[[int, int], None]


@contextmanager
def report_progress(progress: Progress, title: str, *, unit: str = "image") -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with (done, total) after each step of a long piece of work.

    Args:
        progress: see `Progress`.
        title: what is done, in front of the bar and of each line.
        unit: what is counted.

    Example:
        >>> seen = []
        >>> with report_progress(lambda done, total: seen.append((done, total)), "reading") as report:
        ...     for done in range(1, 3):
        ...         report(done, 2)
        >>> seen
        [(1, 2), (2, 2)]
    """
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(title, unit) as report:
            yield report
    else:
        with Lines(title, unit) as lines:
            yield lines.update


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from tqdm import tqdm

    with tqdm(desc=title, unit=unit, leave=False) as bar:

        def report(done: int, total: int) -> None:
            if bar.total is None:  # steps that an interrupted run had done already do not count for the speed
                bar.total, bar.initial, bar.n = total, done - 1, done - 1
            bar.update(done - bar.n)

        yield report


class Lines:
    """Prints `title: done/total unit, time left` to stderr every `seconds`, also while a single step takes longer."""

    def __init__(self, title: str, unit: str, *, seconds: float | None = None) -> None:
        self.title, self.unit = title, unit
        self.seconds = LINE_SECONDS if seconds is None else seconds
        self.done, self.total, self.first = 0, 0, 0
        self._started: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._print_until_ended, daemon=True)

    def __enter__(self) -> "Lines":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def update(self, done: int, total: int) -> None:
        """Set what is done."""
        if self._started is None:  # the time that the first step took is not known to be typical
            self._started, self.first = monotonic(), done
        self.done, self.total = done, total

    def line(self) -> str:
        """The line to print now."""
        counts = f"{self.done:,}/{self.total:,}" if self.total else f"{self.done:,}"
        return f"{self.title}: {counts} {self.unit}s, {self._left()}"

    def _left(self) -> str:
        if self._started is None or self.done <= self.first:
            return "time left unknown"
        left = (monotonic() - self._started) / (self.done - self.first) * (self.total - self.done)
        return f"{format_duration(left)} left"

    def _print_until_ended(self) -> None:
        while not self._ended.wait(self.seconds):
            print(self.line(), file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Seconds, minutes or hours, to two digits.

    Example:
        >>> format_duration(45), format_duration(600), format_duration(9000)
        ('45 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
