"""Training with branches: both forms are kept, the folded one is the run's weights."""

import pytest
import torch
from safetensors.torch import load_file
from trainings import train

import vggnet
from vggnet.cli.main import main
from vggnet.errors import ConfigError
from vggnet.models.branches import BranchedConv
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.learner import build_model, make_learner
from vggnet.training.loop import Position

SMALL = {"preset": "digits", "width": 0.05, "epochs": 1, "batch_size": 256}


def test_a_run_keeps_both_forms(tmp_path):
    """Oracle: the kept branches, folded, are the kept weights bit by bit, which open as any others."""
    run = train("digits", out=tmp_path / "run", **SMALL, branches="acb", ema=0.9)
    weights, kept = load_file(run.weights), load_file(run.folder / "branches.safetensors")
    assert {"features.conv1_1.weight", "features.conv1_1.bias"} < weights.keys()
    assert not any("bn" in name for name in weights)
    model = build_model(run.config, 10)
    assert not any(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items() if tensor.ndim == 4)
    model.load_state_dict(kept)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.folded().state_dict().items())

    assert vggnet.load(run.folder).architecture.name == "vgg11"
    assert vggnet.evaluate(run.folder, "digits").images == 360


def test_validation_sees_the_folded_network():
    """Oracle: the float64 outputs of the network with branches in eval mode, of weights that learned three steps."""
    config = vggnet.preset("digits").override(width=0.05, branches="acb", ema=0.5)
    learner = make_learner(config, build_model(config, 10))
    learner.train()
    for _ in range(3):
        learner.train_step(torch.randn(32, 3, 32, 32), torch.arange(32) % 10)
    assert any(isinstance(module, BranchedConv) for module in learner.learned.modules())
    assert learner.kept.architecture.name == "vgg11"
    x = torch.randn(2, 3, 32, 32)
    found, expected = learner.kept(x), vggnet.restore(learner.learned).double().eval()(x.double())
    assert (found.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_checkpoint_restores_every_branch(tmp_path):
    """Oracle: the learner that went on, bit by bit: branches, their statistics, the average, and the folded weights."""
    config = vggnet.preset("digits").override(width=0.05, branches="repvgg", ema=0.5, optimizer="muon")
    torch.manual_seed(0)
    batches = [(torch.randn(32, 3, 32, 32), torch.arange(32) % 10) for _ in range(3)]
    learner, other = (make_learner(config, build_model(config.override(seed=seed), 10)) for seed in (0, 1))
    learner.train()
    for batch in batches[:2]:
        learner.train_step(*batch)
    Checkpoints(tmp_path).save(learner, Position(step=2, sums=[1.0, 1.0], images=64))
    Checkpoints(tmp_path).restore(other)
    other.train()
    for each in (learner, other):
        each.train_step(*batches[2])
    for found, expected in (
        (other.model, learner.model), (other.learned, learner.learned), (other.kept, learner.kept)
    ):  # fmt: skip
        for name, tensor in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor), name


def test_what_cannot_act_is_refused(tmp_path, capsys):
    """Oracle: the error names the option, and no folder is left."""
    with pytest.raises(ConfigError, match="branches is acb.*batch norm"):
        train("digits", out=tmp_path / "run", **SMALL, model="vgg11", branches="acb")
    with pytest.raises(ConfigError, match="branches is acb.*init_from"):
        train("digits", out=tmp_path / "run", init_from="vgg8_bn-cifar10-fast", branches="acb")
    with pytest.raises(ConfigError, match="freeze is 1.*random"):
        train("digits", out=tmp_path / "run", **SMALL, branches="acb", freeze=1)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--resume", str(tmp_path / "run"), "--branches", "acb"])
    assert "--branches cannot be changed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
