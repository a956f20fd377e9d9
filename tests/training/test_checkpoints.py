"""What a checkpoint restores, and what it leaves alone."""

import json

import pytest

import vggnet
from vggnet.accel.autotuning import autotuner
from vggnet.training.distributed import Ranks
from vggnet.training.loop import Position


def test_resume_keeps_another_machines_choices_out_of_the_cache(tmp_path, own_cache, monkeypatch):
    """Oracle: the cache file, read by hand: what this machine measured is in it, what the checkpoint names is not."""
    foreign = {"forward n<=1 1x1 16->16": {"algorithm": "winograd2", "ms": {"winograd2": 0.0}}}
    count, calls = Position.count, []

    def interrupt(self, *arguments):
        count(self, *arguments)
        calls.append(arguments)
        if len(calls) == 2:
            raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Ranks, "texts", lambda self, text: [json.dumps(foreign)])
        patch.setattr(Position, "count", interrupt)
        with pytest.raises(ZeroDivisionError):
            vggnet.train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512, checkpoint_minutes=0.0)
    for file in (tmp_path / "cache").glob("conv3x3-*"):
        file.unlink()
    autotuner.cache_clear()
    vggnet.resume(tmp_path / "run")
    (file,) = (tmp_path / "cache").glob("conv3x3-*")
    written = json.loads(file.read_text())
    assert len(written) > 0
    assert foreign.keys().isdisjoint(written)
