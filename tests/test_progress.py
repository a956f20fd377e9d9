"""Progress of long work: nothing, a callable, or lines without a terminal."""

import re
import threading

from vggnet.progress import Lines, report_progress


def test_off_is_silent(capsys):
    """Oracle: no output at all."""
    with report_progress(False, "work") as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_callable_gets_every_step():
    """Oracle: the calls, by hand."""
    calls = []
    with report_progress(lambda done, total: calls.append((done, total)), "work") as report:
        for done in (1, 2, 3):
            report(done, 3)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_lines_without_a_terminal(monkeypatch):
    """Oracle: the form that a log needs: done, all, and the time left, printed while the work goes on."""
    printed = threading.Event()
    texts = []

    def record(text, **options):
        texts.append(text)
        printed.set()

    monkeypatch.setattr("builtins.print", record)
    with Lines("reading", "image", seconds=0.001) as lines:
        lines.update(5, 10)
        lines.update(6, 10)
        printed.clear()
        assert printed.wait(30)
    assert re.fullmatch(r"reading: 6/10 images, \d+ s left", texts[-1])


def test_time_left_is_proportional(monkeypatch):
    """Oracle: 2 of 10 steps after the first took 4 s, so the 7 that remain take 14 s."""
    lines = Lines("reading", "image")
    monkeypatch.setattr("vggnet.progress.monotonic", lambda: 100.0)
    lines.update(1, 10)
    lines.update(3, 10)
    monkeypatch.setattr("vggnet.progress.monotonic", lambda: 104.0)
    assert lines.line() == "reading: 3/10 images, 14 s left"
