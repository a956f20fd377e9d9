"""What a terminal of 80 columns shows while a network trains."""

import fcntl
import os
import re
import select
import struct
import termios
from contextlib import contextmanager

import pytest

from vggnet.training.console import Progress
from vggnet.training.loop import Position


@contextmanager
def terminal(monkeypatch):
    """stderr is a terminal of 80 columns; yields a function that returns what it was sent, as frames of its line."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def sent():
        received = b""
        while select.select([ours], [], [], 0)[0]:
            received += os.read(ours, 4096)
        return re.split(r"[\r\n]+", received.decode())

    with os.fdopen(theirs, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        yield sent
    os.close(ours)


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)
        monkeypatch.setattr("vggnet.training.console.perf_counter", lambda: self.now)

    def move(self, seconds):
        self.now += seconds


def stepped(shown, position, steps):
    for _ in range(steps):
        position.count(sums=[1.494 * 128, 68], images=128, seconds=0.1)
        shown.step(position)


def test_the_bar_fits_into_80_columns(monkeypatch):
    """Oracle: 80, and the numbers of a run on CIFAR-10: epoch 12 of 40, 371 steps, 68 of 128 right are 53.1 %."""
    clock, shown = Clock(monkeypatch), Progress(40, 371, visible=True)
    position = Position(epoch=11, step=320, sums=[320 * 1.494 * 128, 320 * 68], images=320 * 128)
    with terminal(monkeypatch) as sent:
        shown.begin(position)
        frames = sent()
        for _ in range(14):
            clock.move(0.12)
            stepped(shown, position, 1)
            frames += sent()  # at each step: a terminal holds little that is not read
        shown.close()
    bars = [frame for frame in frames if "|" in frame]  # the others are notes, which may be longer
    assert len(bars) > 14
    assert max(map(len, bars)) <= 80
    seen = re.search(r"^epoch 12/40 \|(.*)\| 334/371, 00:\d\d left, .*step/s, loss 1.494, 53.1 %$", bars[-1])
    assert seen
    assert len(seen[1]) >= 10


def test_the_bar_is_there_before_the_first_step_and_its_rate_is_true(monkeypatch):
    """Oracle: by hand: one step in a fifth of a second is 5 a second."""
    clock, shown = Clock(monkeypatch), Progress(2, 21, visible=True)
    position = Position()
    with terminal(monkeypatch) as sent:
        shown.begin(position)
        assert sent()[-1].startswith("epoch 1/2 |")
        clock.move(0.2)
        stepped(shown, position, 1)
        rates = re.findall(r"([\d.]+)step/s", sent()[-1])
        shown.close()
    assert [float(rate) for rate in rates] == [5]


@pytest.mark.parametrize(("epochs", "said"), [(2, False), (10_000, True)])
def test_an_estimate_is_said_if_it_is_worth_it(capsys, monkeypatch, epochs, said):
    """Oracle: by hand: steps of 10 ms, 2 x 20 or 10,000 x 20 of them, are 0.4 s or more than half an hour."""
    clock = Clock(monkeypatch)
    shown, position = Progress(epochs, 20, visible=True), Position()
    shown.begin(position)
    for _ in range(12):
        clock.move(0.01)
        stepped(shown, position, 1)
    shown.close()
    assert ("to go" in capsys.readouterr().err) == said
