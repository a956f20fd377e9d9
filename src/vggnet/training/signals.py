"""Ctrl-C as a wish to stop after the current step, not in the middle of it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Set by the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def stop_on_signal(*, repeated: bool = False) -> Iterator[StopRequest]:
    """Within the block the first SIGINT or SIGTERM sets the request; a second one acts as it did before.

    repeated: a second one changes nothing. torchrun sends on what it gets, also to processes that have got it already.
    Outside the main thread, where Python allows no signal handlers, the request is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.requested = True
        if not repeated:
            restore()

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        restore()
