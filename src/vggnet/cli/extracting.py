"""What commands that describe many pictures have in common: a bar, a stop, and the pictures that could not be read."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from vggnet.cli.bars import counting

if TYPE_CHECKING:
    from vggnet.reuse.extracting import Extraction, Progress


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
