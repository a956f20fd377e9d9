"""Signals as a wish to stop; each is really sent to this process."""

import os
import signal

import pytest

from vggnet.training.signals import stop_on_signal

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_a_wish(number):
    """Oracle: the handlers of before, which are there again after it, and after the block."""
    before = [signal.getsignal(other) for other in NUMBERS]
    with stop_on_signal() as request:
        assert not request.requested
        os.kill(os.getpid(), number)
        assert request.requested
        assert [signal.getsignal(other) for other in NUMBERS] == before
    assert [signal.getsignal(other) for other in NUMBERS] == before


@pytest.mark.parametrize("number", NUMBERS)
def test_an_ignored_signal_stays_ignored(number):
    """Oracle: as nohup leaves SIGHUP, and a shell SIGINT in the background of a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signal() as request:
            os.kill(os.getpid(), number)
            assert not request.requested
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
