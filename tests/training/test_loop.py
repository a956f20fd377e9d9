"""The loop: what it asks for and counts, step by step."""

from itertools import pairwise

import torch

from vggnet.data.loading import Batch
from vggnet.tasks.classify import Classify
from vggnet.training.config import TrainConfig
from vggnet.training.learner import build_model, make_learner
from vggnet.training.loop import Position, fit


class Unread:
    """Four batches of one image, of which only the third can be read."""

    def __len__(self):
        return 4

    def epoch(self, epoch, start=0):
        for number in range(start, 4):
            kept = torch.tensor([number] if number == 2 else [], dtype=torch.int64)
            yield Batch(torch.full((len(kept), 3, 32, 32), 100, dtype=torch.uint8), kept % 2, kept)


def test_a_batch_of_which_nothing_is_left_changes_nothing_but_the_step():
    """Oracle: the weights before it, and the steps that the schedule is asked for."""
    config = TrainConfig().override(model="vgg11", width=0.05, head="gap")
    learner = make_learner(config, build_model(config, 2))
    weights, steps = [learner.model.head.fc.weight.detach().clone()], []

    def factor(step, rows):
        steps.append(step)
        return 1.0

    def keep(position):
        weights.append(learner.model.head.fc.weight.detach().clone())

    row = next(
        fit(
            learner,
            Unread(),
            prepare=lambda batch, epoch: (batch.images / 255, batch.labels),
            validate=lambda model: {},
            lr_factor=factor,
            epochs=1,
            seed=0,
            position=Position(),
            after_step=keep,
        )
    )
    assert steps == [0, 1, 2, 3]
    assert [torch.equal(one, next) for one, next in pairwise(weights)].count(False) == 1
    assert row["train_loss"] > 0


def test_the_position_of_an_old_checkpoint_is_read():
    """Oracle: the fields of version 0.1, as its checkpoints have them, and the epoch's row by hand."""
    old = {"epoch": 1, "step": 2, "loss_sum": 3.0, "correct": 1, "images": 4, "seconds": 0.5, "rows": [], "skipped": {}}
    position = Position.from_dict(old)
    position.count([1.0, 1], 4, 0.5)
    row = position.finish_epoch(Classify(), {"val_loss": 1.5}, 0.0)
    assert row == {"epoch": 2, "train_loss": 0.5, "train_accuracy": 0.25, "val_loss": 1.5, "seconds": 1.0}
