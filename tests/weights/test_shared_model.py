"""What answers does not change the caller's model, even for a moment, so that threads can share it."""

import threading

import numpy as np
import pytest
import torch

import vggnet
from vggnet.interpret import explain, visualize_channels
from vggnet.weights.checkpoint import frozen, open_model

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
ANSWERS = {
    "predict": lambda model, watch: vggnet.predict(model, [IMAGE] * 3, batch_size=1, progress=watch),
    "explain": lambda model, watch: explain(model, IMAGE, methods=["gradcam"], progress=watch),
    "visualize": lambda model, watch: visualize_channels(model, "relu1_1:0", steps=2, progress=watch),
    "extract": lambda model, watch: vggnet.extract_features(model, [IMAGE] * 2, "relu2_1", progress=watch),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = vggnet.create_model("vgg11_bn", num_classes=3, head="gap", width=0.1)
    made.preprocess = vggnet.Preprocess.cifar10()
    made.features.conv1_1.requires_grad_(False)
    return made.train()


def state(model):
    return (
        [module.training for module in model.modules()],
        [(parameter.requires_grad, parameter.grad is None) for parameter in model.parameters()],
        [tensor.clone() for tensor in model.state_dict().values()],
    )


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_model_stays_as_it_is_at_every_moment(model, answer):
    """Oracle: the state before; looked at while the answer is computed, by hooks and by progress."""
    before, seen = state(model), []

    def watch(*_):
        now = state(model)
        assert now[:2] == before[:2]
        assert all(map(torch.equal, now[2], before[2]))
        seen.append(1)

    model.features.relu1_1.register_forward_hook(watch)
    ANSWERS[answer](model, watch)
    watch()
    assert len(seen) > 2


def test_answers_of_a_model_in_training_mode_are_those_of_eval_mode(model):
    """Oracle: the same model in eval mode."""
    found = vggnet.predict(model, IMAGE)[0].probabilities
    assert found == vggnet.predict(model.eval(), IMAGE)[0].probabilities


def test_two_threads_explain_at_once(model):
    """Oracle: `requires_grad` before; both threads are inside at the same time, by a barrier."""
    wanted, barrier = state(model)[1], threading.Barrier(2, timeout=60)
    threads = [
        threading.Thread(
            target=explain, args=(model, IMAGE), kwargs={"methods": ["gradcam"], "progress": lambda *_: barrier.wait()}
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken
    assert state(model)[1] == wanted


def test_another_device_makes_a_copy(model):
    """Oracle: where the model is. The meta device stands for another one."""
    assert open_model(model, device="cpu").network is not model
    assert open_model(model.eval(), device="cpu").network is model
    moved = frozen(model).to("meta")
    assert next(moved.parameters()).is_meta
    assert not next(model.parameters()).is_meta


def test_a_compiled_model(model):
    """Oracle: the model that was compiled."""
    expected = vggnet.predict(model, IMAGE)[0].probabilities
    compiled = torch.compile(model, backend="eager")
    assert vggnet.predict(compiled, IMAGE)[0].probabilities == pytest.approx(expected)
    assert model.training
