"""Metrics against scikit-learn, torchmetrics, NumPy, plain Python loops and hand-worked examples."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score, top_k_accuracy_score
from torchmetrics.classification import BinaryCalibrationError, MulticlassConfusionMatrix

from vggnet.errors import DataError, InputError, NonFiniteError
from vggnet.metrics import (
    ClassScores,
    Metrics,
    PerImage,
    calibration_bins,
    class_scores,
    mean_scores,
    mean_softmax,
    rank,
    roc_auc,
    wilson_interval,
)


def draw(images, classes, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, classes, generator=generator)
    return logits, torch.randint(classes, (images,), generator=generator)


def score(logits, labels, batch_size=64):
    metrics = Metrics(logits.shape[1])
    for chunk, truth in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
        metrics.update(chunk, truth)
    return metrics.compute()


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_scores_match_scikit_learn(classes):
    """Oracle: scikit-learn on softmax computed by NumPy."""
    logits, labels = draw(1003, classes)
    exponentials = np.exp(logits.double().numpy())
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    predicted, names = probabilities.argmax(1), list(range(classes))
    scores = score(logits, labels)
    assert scores.images == 1003
    assert scores.top1 == accuracy_score(labels, predicted)
    assert scores.loss == pytest.approx(log_loss(labels, probabilities, labels=names), rel=1e-9)
    assert np.array_equal(scores.confusion, confusion_matrix(labels, predicted, labels=names))
    assert scores.per_class == pytest.approx(recall_score(labels, predicted, average=None, labels=names))
    if classes > 5:
        assert scores.top5 == top_k_accuracy_score(labels, probabilities, k=5, labels=names)
    else:
        assert scores.top5 == 1


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_batch_size_changes_nothing(batch_size):
    """Oracle: all images in one batch."""
    logits, labels = draw(1003, 10)
    whole, parts = score(logits, labels, 1003), score(logits, labels, batch_size)
    assert (parts.images, parts.top1, parts.top5, parts.confusion) == (1003, whole.top1, whole.top5, whole.confusion)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    assert parts.calibration_error == pytest.approx(whole.calibration_error, rel=1e-12)


@pytest.mark.parametrize("logits", [draw(500, 4)[0], torch.rand(500, 4), 200 * draw(500, 4)[0]])
def test_calibration_error_matches_its_definition(logits):
    """Oracle: the sum of arXiv:1706.04599, eq. 3, in Python loops; the last bin holds a confidence of 1.

    The second case has logits in 0..1, which could be taken for probabilities; in the third most confidences are 1.
    """
    labels = draw(500, 4, seed=1)[1]
    bins = [[] for _ in range(15)]
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        confidence = 1 / sum(np.exp(value - max(row)) for value in row)
        bins[min(int(confidence * 15), 14)].append((confidence, row.index(max(row)) == label))
    gaps = [abs(sum(c for c, _ in members) - sum(hit for _, hit in members)) for members in bins]
    assert score(logits, labels).calibration_error == pytest.approx(sum(gaps) / 500, abs=1e-9)


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (10, 0.3), (100, 2.0), (5, 200.0)])
def test_confusion_and_calibration_match_torchmetrics(classes, scale):
    """Oracle: torchmetrics, which gives a confidence of exactly 1 a bin of its own; it gets 1 - 1e-6 instead."""
    logits, labels = draw(2000, classes, scale)
    confidence, predicted = logits.double().softmax(1).max(1)
    scores = score(logits, labels)
    confusion = MulticlassConfusionMatrix(classes)(predicted, labels)
    assert scores.confusion == tuple(map(tuple, confusion.tolist()))
    error = BinaryCalibrationError(n_bins=15, norm="l1")(confidence.clamp(max=1 - 1e-6), (predicted == labels).long())
    assert scores.calibration_error == pytest.approx(error.item(), abs=1e-5)


def test_certainty_shares_the_last_bin():
    """Oracle: by hand. Certain (1) and wrong, 0.95 and right, in one bin: (1.95 - 1) / 2."""
    logits = torch.tensor([[0.0, 100.0], [0.0, np.log(19)]])
    assert score(logits, torch.tensor([0, 1])).calibration_error == pytest.approx(0.475)


def test_ties_are_ranked_by_class_index():
    """Oracle: by hand. A network that always says zero is right for class 0 (top-1) and classes 0 to 4 (top-5)."""
    scores = score(torch.zeros(20, 10), torch.arange(20) % 7)
    assert (scores.top1, scores.top5) == (3 / 20, 15 / 20)


def test_top1_is_the_trace_of_the_confusion_matrix():
    """Oracle: an invariant, on logits with many ties."""
    logits, labels = draw(1003, 5)
    scores = score(logits.round(), labels)
    assert scores.top1 * scores.images == pytest.approx(np.trace(scores.confusion))
    assert scores.top1 <= scores.top5 == 1
    assert np.sum(scores.confusion) == 1003


def test_update_returns_the_predictions():
    """Oracle: softmax by hand."""
    logits = torch.tensor([[math.log(3), 0.0, 0.0], [0.0, 0.0, math.log(2)]])
    per_image = Metrics(3).update(logits, torch.tensor([0, 1]))
    assert per_image.labels.tolist() == [0, 1]
    assert per_image.predicted.tolist() == [0, 2]
    assert per_image.confidence.tolist() == pytest.approx([3 / 5, 2 / 4])
    assert per_image.losses.tolist() == pytest.approx([math.log(5 / 3), math.log(4)])


def test_calibration_bins_by_hand():
    """Oracle: by hand: two images in the first of fifteen bins, one on the edge of the second, one sure in the last."""
    right = torch.tensor([0, 0, 1, 1])
    predicted = torch.tensor([0, 1, 0, 1])
    per_image = PerImage(right, predicted, torch.tensor([0.02, 0.04, 1 / 15, 1.0]).double(), torch.zeros(4))
    bins = calibration_bins(per_image)
    assert len(bins) == 15
    assert (bins[0].low, bins[-1].high) == (0, 1)
    assert [b.images for b in bins] == [2, 1, *[0] * 12, 1]
    assert [b.confidence for b in bins[:3]] == [pytest.approx(0.03), pytest.approx(1 / 15), None]
    assert [b.accuracy for b in bins[:3]] == [0.5, 0.0, None]
    assert (bins[-1].confidence, bins[-1].accuracy) == (1.0, 1.0)


def test_calibration_bins_sum_to_the_calibration_error():
    """Oracle: `Scores`, which is checked against torchmetrics above."""
    logits, labels = draw(2000, 4)
    metrics = Metrics(4)
    bins = calibration_bins(metrics.update(logits, labels))
    gaps = sum(b.images * abs(b.confidence - b.accuracy) for b in bins if b.images) / 2000
    assert gaps == pytest.approx(metrics.compute().calibration_error, abs=1e-6)


def test_class_without_images_has_no_accuracy():
    """Oracle: by hand."""
    assert score(torch.eye(3)[:2], torch.tensor([0, 0])).per_class == (0.5, None, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(dtype):
    """Oracle: by hand. The loss of a certain and wrong prediction is the difference of the logits."""
    scores = score(torch.tensor([[0.0, 30000.0]], dtype=dtype), torch.tensor([0]))
    assert scores.loss == pytest.approx(30000, rel=1e-2)
    assert scores.calibration_error == pytest.approx(1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_logits_are_refused(value):
    """Oracle: the promise that nothing non-finite is kept."""
    logits = torch.zeros(8, 3)
    logits[5, 1] = value
    with pytest.raises(NonFiniteError, match=r"1 of 8 images.*learning rate"):
        Metrics(3).update(logits, torch.zeros(8, dtype=torch.int64))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_outside_the_classes_are_refused(labels):
    """Oracle: the contract."""
    with pytest.raises(InputError, match="labels run from"):
        Metrics(3).update(torch.zeros(2, 3), torch.tensor(labels))


@pytest.mark.parametrize(("logits", "labels"), [((2, 4), (2,)), ((2, 3), (3,)), ((2, 3, 1), (2,)), ((2, 3), (2, 1))])
def test_shapes_that_do_not_fit_are_refused(logits, labels):
    """Oracle: the contract."""
    with pytest.raises(InputError, match="do not match"):
        Metrics(3).update(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))


def test_no_image_is_an_error():
    """Oracle: the contract; a quotient of nothing has no value."""
    metrics = Metrics(3)
    metrics.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="the split is empty"):
        metrics.compute()


@pytest.mark.parametrize("classes", [1, 4, 7])
def test_rank_is_the_place_in_a_stable_sort(classes):
    """Oracle: Python's stable sort of the classes by descending logit, on logits with many ties."""
    logits, labels = draw(200, classes)
    logits = logits.round()
    order = [sorted(range(classes), key=lambda c: -row[c]) for row in logits.tolist()]
    expected = [classes_of.index(label) for classes_of, label in zip(order, labels.tolist(), strict=True)]
    assert rank(logits, labels).tolist() == expected


def test_mean_softmax():
    """Oracle: numpy, in probabilities; logits far apart, whose exponentials overflow, included."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(5, 7, 3)) * 4
    exponentials = np.exp(logits)
    expected = (exponentials / exponentials.sum(2, keepdims=True)).mean(0)
    found = mean_softmax([torch.from_numpy(one) for one in logits])
    np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-12)
    far = mean_softmax([torch.tensor([[2000.0, 0.0]]), torch.tensor([[0.0, 2000.0]])])
    np.testing.assert_allclose(far.exp().numpy(), [[0.5, 0.5]])
    one = torch.randn(2, 3)
    assert mean_softmax([one]) is one


@pytest.mark.parametrize(("correct", "images"), [(0, 1), (1, 1), (7, 10), (0, 50), (9_471, 10_000), (10_000, 10_000)])
def test_wilson_interval(correct, images):
    """Oracle: SciPy."""
    expected = binomtest(correct, images).proportion_ci(method="wilson")
    assert wilson_interval(correct / images, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("classes", "digits"), [(2, 6), (3, 6), (5, 0)])
def test_scores_of_classes(classes, digits):
    """Oracle: scikit-learn, on logits without ties, and on rounded ones with many of them."""
    logits, labels = draw(400, classes)
    logits = logits.double().mul(2).round(decimals=digits)
    metrics = Metrics(classes)
    predicted = metrics.update(logits, labels).predicted.numpy()
    found = class_scores(torch.tensor(metrics.compute().confusion), logits, labels)
    each = sklearn.metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for name, expected in zip(("precision", "recall", "f1"), each, strict=False):
        assert [getattr(one, name) for one in found] == pytest.approx(expected.tolist())
    probabilities = logits.softmax(1).numpy()
    areas = [sklearn.metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in range(classes)]
    assert [one.roc_auc for one in found] == pytest.approx(areas)
    for kind in ("macro", "weighted"):
        mean = mean_scores(found, each[3].tolist(), weighted=kind == "weighted")
        expected = sklearn.metrics.precision_recall_fscore_support(labels, predicted, average=kind)[:3]
        assert [mean.precision, mean.recall, mean.f1] == pytest.approx(expected)
        weights = None if kind == "macro" else each[3]
        assert mean.roc_auc == pytest.approx(np.average(areas, weights=weights))


def test_classes_without_images_have_no_scores():
    """Oracle: by hand: the third class has no image, though one is given to it; the second is given to none."""
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    labels = torch.tensor([0, 1])
    found = class_scores(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0]]), logits, labels)
    assert [(one.precision, one.recall, one.f1) for one in found] == [(1, 1, 1), (0, 0, 0), (None, None, None)]
    assert [one.roc_auc for one in found] == [1.0, 1.0, None]
    assert mean_scores(found, [1, 1, 0], weighted=False).f1 == 0.5
    assert roc_auc(torch.tensor([0.1, 0.2]), torch.tensor([True, True])) is None
    nothing = ClassScores(precision=None, recall=None, f1=None, roc_auc=None)
    assert mean_scores([nothing], [0], weighted=True) == nothing
