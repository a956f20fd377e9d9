"""Classification: loss, counts and metrics against PyTorch and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vggnet.errors import NonFiniteError
from vggnet.models.vgg import Architecture
from vggnet.tasks.classify import Classify
from vggnet.tasks.task import split, to_device

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])
LABELS = torch.tensor([0, 1, 1, 0])


def nll(logits, label, smoothing=0.0):
    """Cross-entropy of one image in plain numpy."""
    logits = np.asarray(logits, dtype=np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum())
    return -(1 - smoothing) * log_probabilities[label] - smoothing * log_probabilities.mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_summed_over_images(smoothing):
    """Oracle: numpy, image by image; only the loss that is minimized has label smoothing."""
    task = Classify().configured({"label_smoothing": smoothing})
    logits = LOGITS.clone().requires_grad_()
    minimized, sums = task.loss(logits, LABELS)
    expected = [nll(row, label, smoothing) for row, label in zip(LOGITS, LABELS, strict=True)]
    assert minimized.item() == pytest.approx(sum(expected), rel=1e-6)
    plain = sum(nll(row, label) for row, label in zip(LOGITS, LABELS, strict=True))
    assert sums.tolist() == pytest.approx([plain, 2], rel=1e-6)  # of the second image the first class wins the tie
    assert sums.dtype == torch.float64
    assert not sums.requires_grad
    (gradient,) = torch.autograd.grad(minimized, logits)
    whole = F.cross_entropy(logits, LABELS, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(gradient, torch.autograd.grad(whole, logits)[0])


def test_validation_counts_in_float64():
    """Oracle: numpy; in float32 the loss of so large logits would be another."""
    logits = LOGITS * 30
    expected = sum(nll(row, label) for row, label in zip(logits, LABELS, strict=True))
    loss, correct = Classify(label_smoothing=0.5).validation_sums(logits, LABELS).tolist()
    assert loss == pytest.approx(expected, rel=1e-12)
    assert correct == 2
    logits[2, 0] = torch.nan
    with pytest.raises(NonFiniteError):
        Classify().validation_sums(logits, LABELS)


def test_metrics_and_score_by_hand():
    """Oracle: by hand."""
    task = Classify()
    assert task.metrics([6.0, 3.0], 4) == {"loss": 1.5, "accuracy": 0.75}
    assert task.score({"train_accuracy": 0.9, "val_accuracy": 0.5}) == 0.5
    assert task.score({"train_accuracy": 0.9}) == 0.0


def test_heads_for_scores_are_kept():
    """Oracle: by hand: a head for boxes serves no classes."""
    assert Classify().keeps_head(Architecture(num_classes=10))
    assert not Classify().keeps_head(Architecture(num_classes=10, boxes="shared"))
    assert Classify().architecture_options() == {}


def test_targets_of_any_kind_are_split_and_moved():
    """Oracle: by hand: a tensor, and a list with a dictionary for each image."""
    assert [part.tolist() for part in split(LABELS, [1, 3])] == [[0], [1, 1, 0]]
    boxes = [{"boxes": torch.zeros(count, 4), "labels": torch.arange(count)} for count in (2, 0, 3)]
    assert [[len(one["labels"]) for one in part] for part in split(boxes, [2, 1])] == [[2, 0], [3]]
    moved = to_device(boxes, torch.device("meta"))
    assert [one["boxes"].device.type for one in moved] == ["meta"] * 3
    assert to_device(LABELS, torch.device("meta")).shape == (4,)
