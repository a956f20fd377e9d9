"""Training on a GPU: one step, bfloat16, torch.compile, and resuming. Skipped where PyTorch finds no CUDA device."""

import pytest
import torch
from safetensors.torch import load_file

import vggnet
from vggnet.training.learner import build_model, make_learner
from vggnet.training.loop import Position
from vggnet.training.presets import preset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and PyTorch finds none"),
]
TINY = preset("digits").override(width=0.1, epochs=2, batch_size=256, compile=False, precision="float32")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


def batch():
    torch.manual_seed(3)
    return torch.randn(32, 3, 32, 32), torch.arange(32) % 10


def stepped(config):
    """The sums of two steps on one batch, and the weights after them, on the CPU."""
    learner = make_learner(config, build_model(config, 10))
    images, labels = (tensor.to(learner.device) for tensor in batch())
    learner.train()
    sums = [learner.train_step(images.to(memory_format=torch.channels_last), labels)[0] for _ in range(2)]
    return sums, {name: tensor.cpu() for name, tensor in learner.model.state_dict().items()}


def test_a_step_is_that_of_the_cpu():
    """Oracle: the same steps on the CPU, without TF32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    found, weights = stepped(TINY.override(device="cuda"))
    expected, theirs = stepped(TINY.override(device="cpu"))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    torch.testing.assert_close(weights["head.fc.weight"], theirs["head.fc.weight"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"compile": True}], ids=["bfloat16", "compiled"])
def test_other_ways_to_compute_are_near(options):
    """Oracle: the loss of the first step in float32, which bfloat16 has to about 1 %."""
    found, weights = stepped(TINY.override(device="cuda", **options))
    expected, _ = stepped(TINY.override(device="cuda"))
    assert found[0][0] == pytest.approx(expected[0][0], rel=2e-2)
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights.values())


def test_a_resumed_run_goes_on(tmp_path, monkeypatch):
    """Oracle: the uninterrupted run: epochs, and losses within the rounding of atomic additions."""
    config = TINY.override(device="cuda", checkpoint_minutes=0.0)
    whole = vggnet.train("digits", config, out=tmp_path / "whole")
    count = Position.count

    def interrupt(self, *arguments):
        count(self, *arguments)
        if (self.epoch, self.step) == (1, 2):
            raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Position, "count", interrupt)
        with pytest.raises(ZeroDivisionError):
            vggnet.train("digits", config, out=tmp_path / "run")
    resumed = vggnet.resume(tmp_path / "run")
    assert [row["epoch"] for row in resumed.history] == [1, 2]
    assert resumed.history[1]["train_loss"] == pytest.approx(whole.history[1]["train_loss"], rel=1e-2)
    assert load_file(resumed.weights).keys() == load_file(whole.weights).keys()
