"""What a checkpoint restores, and what it leaves alone."""

import copy
import json

import pytest
import torch
from trainings import train

import vggnet
from vggnet.accel.autotuning import autotuner
from vggnet.errors import NonFiniteError, RunError, StorageError
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.distributed import Ranks
from vggnet.training.learner import build_model, make_learner
from vggnet.training.loop import Position
from vggnet.training.presets import preset

DIGITS = preset("digits")
TINY = DIGITS.override(model="vgg11", width=0.05, batch_size=16, init="he", lr=0.05)


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
            train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512, checkpoint_minutes=0.0)
    for file in (tmp_path / "cache").glob("conv3x3-*"):
        file.unlink()
    autotuner.cache_clear()
    vggnet.resume(tmp_path / "run")
    (file,) = (tmp_path / "cache").glob("conv3x3-*")
    written = {json.loads(line)["key"] for line in file.read_text().splitlines() if line}
    assert written
    assert foreign.keys().isdisjoint(written)


def batch(count=16):
    torch.manual_seed(3)
    return torch.randn(count, 3, 32, 32), torch.arange(count) % 3


def test_checkpoints_refuse_non_finite_buffers(tmp_path):
    """Oracle: a batch-norm buffer poisoned by hand; the older checkpoint stays."""
    learner = make_learner(DIGITS, build_model(DIGITS.override(width=0.05), 3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(learner, Position(step=1))
    learner.model.features.bn2_1.running_var[0] = torch.inf
    with pytest.raises(NonFiniteError, match="bn2_1.running_var"):
        checkpoints.save(learner, Position(step=2))
    assert Checkpoints(tmp_path).newest_position().step == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path, damage):
    """Oracle: the older checkpoint's weights."""
    learner = make_learner(TINY, build_model(TINY, 3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(learner, Position(step=1))
    older = copy.deepcopy(learner.model.state_dict())
    learner.train_step(*batch())
    checkpoints.save(learner, Position(step=2))
    newest = tmp_path / "epoch-0000-step-000002.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: newest.write_bytes(content),
        "truncate": lambda: newest.write_bytes(content[:-1]),
        "remove": newest.unlink,
    }[damage]()
    again = make_learner(TINY, build_model(TINY, 3))
    position, notes = Checkpoints(tmp_path).restore(again)
    assert position.step == 1
    assert len(notes) == 1
    assert newest.name in notes[0]
    assert all(torch.equal(older[name], tensor) for name, tensor in again.model.state_dict().items())
    Checkpoints(tmp_path).save(again, Position(step=2))
    assert Checkpoints(tmp_path).restore(again)[0].step == 2


def test_when_every_checkpoint_is_damaged_the_run_stops(tmp_path):
    """Oracle: the only checkpoint, emptied."""
    learner = make_learner(TINY, build_model(TINY, 3))
    Checkpoints(tmp_path).save(learner, Position(step=1))
    (tmp_path / "epoch-0000-step-000001.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="epoch-0000-step-000001"):
        Checkpoints(tmp_path).restore(learner)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """Oracle: the older checkpoint, found whole by a fresh reader; the disk fails while the tensors are written."""
    learner = make_learner(TINY, build_model(TINY, 3))
    Checkpoints(tmp_path).save(learner, Position(step=1))

    def full(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vggnet.training.checkpoints.save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        Checkpoints(tmp_path).save(learner, Position(step=2))
    monkeypatch.undo()
    assert Checkpoints(tmp_path).restore(learner)[0].step == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checkpoints.json",
        "epoch-0000-step-000001.safetensors",
    ]
