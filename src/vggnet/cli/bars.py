"""What commands that go through many pictures share: a progress bar, a stop, and the pictures that are unreadable."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vggnet.features.store import Extraction, Progress


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


def extract_by(what: str, extract: "Callable[[Progress], Extraction]", text: "Callable[[Extraction], str]") -> int:
    """Extract, under a bar that says `what`, and print the text; returns the exit code."""
    try:
        with counting(what) as progress:
            extraction = extract(progress)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    print(text(extraction))
    for message in extraction.unreadable:
        print(f"vgg: {message}", file=sys.stderr)
    return 2 if extraction.unreadable else 0
