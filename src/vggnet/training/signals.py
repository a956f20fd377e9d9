"""Ctrl-C, SIGTERM and a closed terminal as a wish to stop after the current step, not in the middle of it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP, which a closed terminal or a lost connection sends.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """Set by the first signal of `SIGNALS`."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def stop_on_signal(*, repeated: bool = False) -> Iterator[StopRequest]:
    """Within the block the first signal of `SIGNALS` sets the request; a second one acts as it did before.

    A signal that was ignored before stays so, as SIGHUP under nohup, or SIGINT in the background of a script.

    repeated: a second one changes nothing. torchrun sends on what it gets, also to processes that have got it already.
    Outside the main thread, where Python allows no signal handlers, the request is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

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
