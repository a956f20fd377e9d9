"""What a training shows on a terminal of 80 columns, elsewhere, and to a function."""

import fcntl
import os
import re
import select
import struct
import termios
from contextlib import contextmanager

import pytest

from vggnet.tasks.classify import Classify
from vggnet.training.console import Console
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
    clock = Clock(monkeypatch)
    position = Position(epoch=11, step=320, sums=[320 * 1.494 * 128, 320 * 68], images=320 * 128)
    with terminal(monkeypatch) as sent, Console(Classify(), 40, 371, progress=True) as shown:
        shown.begin(position)
        frames = sent()
        for _ in range(14):
            clock.move(0.12)
            stepped(shown, position, 1)
            frames += sent()  # at each step: a terminal holds little that is not read
    bars = [frame for frame in frames if "|" in frame]  # the others are notes, which may be longer
    assert len(bars) > 14
    assert max(map(len, bars)) <= 80
    seen = re.search(r"^epoch 12/40 \|(.*)\| 334/371, 00:\d\d left, .*step/s, loss 1.494, 53.1 %$", bars[-1])
    assert seen
    assert len(seen[1]) >= 10


def test_the_bar_is_there_before_the_first_step_and_its_rate_is_true(monkeypatch):
    """Oracle: by hand: one step in a fifth of a second is 5 a second."""
    clock, position = Clock(monkeypatch), Position()
    with terminal(monkeypatch) as sent, Console(Classify(), 2, 21, progress=True) as shown:
        shown.begin(position)
        assert sent()[-1].startswith("epoch 1/2 |")
        clock.move(0.2)
        stepped(shown, position, 1)
        rates = re.findall(r"([\d.]+)step/s", sent()[-1])
    assert [float(rate) for rate in rates] == [5]


@pytest.mark.parametrize(("epochs", "said"), [(2, False), (10_000, True)])
def test_an_estimate_is_said_if_it_is_worth_it(capsys, monkeypatch, epochs, said):
    """Oracle: by hand: steps of 10 ms, 2 x 20 or 10,000 x 20 of them, are 0.4 s or more than half an hour."""
    clock, position = Clock(monkeypatch), Position()
    with Console(Classify(), epochs, 20, progress=True) as shown:
        shown.begin(position)
        for _ in range(12):
            clock.move(0.01)
            stepped(shown, position, 1)
    assert ("to go" in capsys.readouterr().err) == said


def test_without_a_terminal_lines_say_how_far_it_is(capsys, monkeypatch):
    """Oracle: by hand: 11 of 40 steps; a line comes although no step ends in between."""
    monkeypatch.setattr("vggnet.progress.LINE_SECONDS", 0.01)
    said, position = "", Position()
    with Console(Classify(), 2, 20, progress=True) as shown:
        stepped(shown, position, 11)
        while "training: 11/40 steps" not in said:
            said += capsys.readouterr().err
    assert re.search("training: 11/40 steps, .* left", said)


def test_nothing_is_shown_unless_it_is_asked_for(capsys, monkeypatch):
    """Oracle: an empty stream, and a function that hears of each step of the whole run."""
    monkeypatch.setattr("vggnet.progress.LINE_SECONDS", 0.0)
    heard = []
    for progress in (False, lambda done, total: heard.append((done, total))):
        position = Position(epoch=1)
        with Console(Classify(), 2, 20, progress=progress) as shown:
            shown.begin(position)
            stepped(shown, position, 3)
            shown.epoch({"epoch": 1, "train_loss": 1.0, "seconds": 1.0}, {})
            shown.note("a note")
    assert capsys.readouterr() == ("", "")
    assert heard == [(21, 40), (22, 40), (23, 40)]


def test_the_line_of_an_epoch(capsys):
    """Oracle: the row, typed by hand."""
    row = {
        "epoch": 3,
        "train_loss": 0.5,
        "train_accuracy": 0.75,
        "val_loss": 1.25,
        "val_accuracy": 0.5,
        "seconds": 9.04,
    }
    with Console(Classify(), 10, 20, progress=True) as shown:
        shown.epoch(row, {"epoch": 2, "val_accuracy": 0.625})
        shown.epoch({"epoch": 4, "train_loss": 0.5, "train_accuracy": 0.75, "seconds": 2.0}, row)
    first, second = capsys.readouterr().err.splitlines()
    train = "train loss 0.5000, accuracy 75.00 %"
    assert first == f"epoch 3/10 | 9.0 s | {train} | val loss 1.2500, accuracy 50.00 % | best 62.50 % (epoch 2)"
    assert second == f"epoch 4/10 | 2.0 s | {train}"
