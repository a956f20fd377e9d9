"""A progress bar of commands that read many images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting(what: str, unit: str = "image") -> Iterator[Callable[[int, int], None]]:
    """A function to be called with what is done and to do; what was done before the first call is not timed."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.total, bar.initial, bar.n = total, done, done
            bar.update(done - bar.n)

        yield show
