"""A teacher: its loss, the step, what it must have in common with the run, and that it stays the same."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

import vggnet
from vggnet.errors import ConfigError, RunError
from vggnet.tasks import get_task
from vggnet.training.learner import make_learner
from vggnet.training.presets import preset

TINY = preset("digits").override(model="vgg11", width=0.05, batch_size=16, init="he", lr=0.05, weight_decay=0.0)
CLASSES = tuple(map(str, range(10)))


@pytest.fixture
def teacher(tmp_path):
    """The file of an untrained network for the digits, with their statistics."""
    torch.manual_seed(5)
    model = vggnet.create_model("vgg11", num_classes=10, head="cifar", width=0.1)
    path = tmp_path / "teacher.safetensors"
    vggnet.save(model, path, classes=CLASSES, preprocess=vggnet.Preprocess(resize=32, crop=32))
    return path


def test_imitation_is_the_divergence_of_softened_probabilities():
    """Oracle: the sum typed out with SciPy, T^2 sum p (log p - log q)."""
    torch.manual_seed(0)
    outputs, answers = torch.randn(2, 7, 5).double().unbind()
    found = get_task("classify").imitation(outputs, answers, 3.0)
    q, p = (log_softmax(logits.numpy() / 3, axis=1) for logits in (outputs, answers))
    assert found.item() == pytest.approx(9 * (np.exp(p) * (p - q)).sum(), rel=1e-12)


def test_a_network_learns_nothing_from_itself(teacher):
    """Oracle: with the whole loss from an equal network the gradient is zero; with labels in it, it is not."""
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    for share, moves in ((1.0, False), (0.5, True)):
        config = TINY.override(width=0.1, teacher=str(teacher), teacher_share=share, temperature=2.0)
        model = vggnet.load(teacher)
        learner = make_learner(config, model)
        before = copy.deepcopy(model.state_dict())
        (loss, _), _ = learner.train_step(images, labels)
        assert loss > 0  # of the labels alone
        changes = [float((before[name] - tensor).abs().max()) for name, tensor in model.state_dict().items()]
        assert (max(changes) > 1e-4) == moves


def test_a_localization_has_no_teacher():
    """Oracle: one line that says so."""
    with pytest.raises(ConfigError, match="localize has no loss against one"):
        get_task("localize").imitation(torch.zeros(1, 4), torch.zeros(1, 4), 1.0)


def test_a_training_takes_its_teachers_statistics_and_refuses_another_one_on_resuming(teacher, tmp_path):
    """Oracle: the preprocessing in the teacher's file; the error once the file has changed."""
    config = TINY.override(teacher=str(teacher), epochs=1, batch_size=512, width=0.05)
    run = vggnet.train("digits", config, out=tmp_path / "run")
    assert run.preprocess.statistics() == vggnet.Preprocess(resize=32, crop=32).statistics()
    vggnet.resume(run, epochs=2)
    vggnet.save(vggnet.load(teacher), teacher, provenance={"changed": True})
    with pytest.raises(RunError, match="is not the one that this run was started with"):
        vggnet.resume(run, epochs=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": tuple("abcdefghij")}, "has the classes a, b, c, d, e, ... \\(10\\), but the data 0, 1, 2"),
        ({"mean": (0.1,) * 3, "std": (0.2,) * 3}, "sees images with"),
    ],
)
def test_a_teacher_of_other_classes_or_statistics_is_refused(teacher, tmp_path, options, message):
    """Oracle: one line that names both sides; nothing is written."""
    statistics = {name: options[name] for name in ("mean", "std") if name in options}
    vggnet.save(vggnet.load(teacher), teacher, classes=options.get("classes", CLASSES))
    with pytest.raises(ConfigError, match=message):
        vggnet.train("digits", TINY.override(teacher=str(teacher), **statistics), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_of_a_teacher_need_one():
    """Oracle: the rule of all options."""
    with pytest.raises(ConfigError, match="it acts only with a teacher"):
        TINY.override(temperature=2.0)
