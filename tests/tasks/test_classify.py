"""Classification: loss, counts and metrics against PyTorch and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight
from torch._subclasses.fake_tensor import FakeTensorMode

from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, NonFiniteError
from vggnet.metrics import ClassScores
from vggnet.models.vgg import Architecture, build
from vggnet.report.text import Fact
from vggnet.tasks.classify import Classify
from vggnet.tasks.results import EvaluationResult, Prediction
from vggnet.tasks.task import EvaluationJob, PredictionJob, split, to_device
from vggnet.weights.checkpoint import OpenModel

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])
LABELS = torch.tensor([0, 0, 1, 0])

SCORES = ClassScores(precision=0.75, recall=0.8, f1=0.77, roc_auc=0.9)


def nll(logits, label, smoothing=0.0):
    """Cross-entropy of one image in plain numpy."""
    logits = np.asarray(logits, dtype=np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum())
    return -(1 - smoothing) * log_probabilities[label] - smoothing * log_probabilities.mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_summed_over_images(smoothing):
    """Oracle: numpy, image by image; only the loss that is minimized has label smoothing."""
    task = Classify().configured({"label_smoothing": smoothing, "class_weights": "none"})
    logits = LOGITS.clone().requires_grad_()
    minimized, sums = task.loss(logits, LABELS)
    expected = [nll(row, label, smoothing) for row, label in zip(LOGITS, LABELS, strict=True)]
    assert minimized.item() == pytest.approx(sum(expected), rel=1e-6)
    plain = sum(nll(row, label) for row, label in zip(LOGITS, LABELS, strict=True))
    assert sums.tolist() == pytest.approx([plain, 3], rel=1e-6)  # of the second image the first class wins the tie
    assert sums.dtype == torch.float64
    assert not sums.requires_grad
    (gradient,) = torch.autograd.grad(minimized, logits)
    whole = F.cross_entropy(logits, LABELS, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(gradient, torch.autograd.grad(whole, logits)[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_balanced_class_weights(smoothing):
    """Oracle: scikit-learn's weights, and numpy image by image; the plain loss is still there, without weights."""
    train = torch.tensor([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=train.numpy())
    task = Classify().configured({"label_smoothing": smoothing, "class_weights": "balanced"}).fitted(train, 3)
    assert task.weights == pytest.approx(expected.tolist())
    assert task.sums == ("loss", "correct", "weighted_loss")
    minimized, sums = task.loss(LOGITS, LABELS)
    pairs = list(zip(LOGITS, LABELS, strict=True))
    smoothed = sum(expected[label] * nll(row, label, smoothing) for row, label in pairs)
    assert minimized.item() == pytest.approx(smoothed, rel=1e-6)
    plain = sum(nll(row, label) for row, label in pairs)
    weighted = sum(expected[label] * nll(row, label) for row, label in pairs)
    correct = np.count_nonzero(LOGITS.numpy().argmax(1) == LABELS.numpy())
    assert sums.tolist() == pytest.approx([plain, correct, weighted], rel=1e-6)
    assert task.validation_sums(LOGITS, LABELS).tolist() == pytest.approx([plain, correct, weighted], rel=1e-6)
    assert task.metrics([6.0, 3.0, 2.0], 4) == {"loss": 1.5, "accuracy": 0.75, "weighted_loss": 0.5}


def test_weights_only_if_asked_for():
    """Oracle: by hand: 6 images of 4 classes, one of them without images, which gets the weight of one image."""
    train = torch.tensor([0, 0, 0, 1, 1, 3])
    plain = Classify().configured({"label_smoothing": 0.1, "class_weights": "none"})
    assert plain.fitted(train, 4).weights == ()
    assert plain.sums == ("loss", "correct")
    balanced = Classify(class_weights="balanced").fitted(train, 4)
    assert balanced.weights == (0.5, 0.75, 1.5, 1.5)


def test_validation_counts_in_float64():
    """Oracle: numpy; in float32 the loss of so large logits would be another."""
    logits = LOGITS * 30
    expected = sum(nll(row, label) for row, label in zip(logits, LABELS, strict=True))
    loss, correct = Classify(label_smoothing=0.5).validation_sums(logits, LABELS).tolist()
    assert loss == pytest.approx(expected, rel=1e-12)
    assert correct == 3
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
    assert [part.tolist() for part in split(LABELS, [1, 3])] == [[0], [0, 1, 0]]
    boxes = [{"boxes": torch.zeros(count, 4), "labels": torch.arange(count)} for count in (2, 0, 3)]
    assert [[len(one["labels"]) for one in part] for part in split(boxes, [2, 1])] == [[2, 0], [3]]
    moved = to_device(boxes, torch.device("meta"))
    assert [one["boxes"].device.type for one in moved] == ["meta"] * 3
    assert to_device(LABELS, torch.device("meta")).shape == (4,)


@pytest.fixture
def opened():
    torch.manual_seed(0)
    model = build("vgg11", num_classes=10, head="gap", width=0.05).eval()
    model.preprocess = Preprocess(resize=32, crop=32)
    return OpenModel(model, torch.device("cpu"))


def test_labels_are_the_targets():
    """Oracle: the source."""
    source = open_source("digits", "test")
    targets = Classify().read_targets(source, Preprocess.cifar10())
    assert targets.tolist() == source.labels.tolist()
    assert targets.dtype == torch.int64


def test_evaluating_and_predicting(opened):
    """Oracle: the network on each image by itself. A classifier is for boxes, and refused in one line."""
    source = open_source("digits", "test")
    options = {
        "networks": [opened], "model": "mine", "source": source, "data": "digits", "split": "test", "workers": 0,
        "protocol": "single", "scales": (), "flip": False, "six_views": False, "batch_size": 100, "progress": False,
    }  # fmt: skip
    images = [source.read(index) for index in range(12)]
    with torch.no_grad():
        inputs = torch.stack([opened.preprocess(source.read(index)) for index in range(len(source))])
        probabilities = opened.network(inputs).softmax(1)
    result = Classify().evaluate(EvaluationJob(**options, classifier=None, classifier_name=None)).result
    assert result.top1 == (probabilities.argmax(1).numpy() == source.labels).mean()
    job = {"model": "mine", "top": 2, "batch_size": 5, "progress": False, "on_error": "raise"}
    found = Classify().predict(opened, images, PredictionJob(**job, classifier=None))
    best, classes = probabilities[:12].topk(2)
    assert [one.name for one in found] == [f"image {number}" for number in range(1, 13)]
    assert [one.classes for one in found] == [tuple(f"class {index}" for index in row) for row in classes.tolist()]
    np.testing.assert_allclose([one.probabilities for one in found], best, rtol=1e-4)
    with pytest.raises(ConfigError, match="^mine gives classes; classifier .--classifier. is for models that give box"):
        Classify().evaluate(EvaluationJob(**options, classifier=opened, classifier_name="other"))
    with pytest.raises(ConfigError, match="^mine gives classes; leave out classifier"):
        Classify().predict(opened, Image.new("RGB", (40, 40)), PredictionJob(**job, classifier=opened))


SAVED = {
    "top1": 0.9, "top5": 0.995, "loss": 0.41234, "images": 1000, "calibration_error": 0.0123, "classes": list("abcdef"),
    "data": "mine", "split": "val", "fingerprint": "0123", "model": "runs/a", "protocol": "multicrop", "views": 50,
    "scales": [256, 288], "seconds": 1234.56, "device": "cpu", "date": "2026-01-02T03:04:05+00:00",
}  # fmt: skip


def test_what_a_report_shows_first():
    """Oracle: by hand; Wilson's interval of 900 of 1,000 is 88.0 to 91.7 % (statsmodels' proportion_confint)."""
    assert Classify().headline(SAVED) == [
        Fact("val accuracy", "90.00 %", "88.0 % to 91.7 %: 95 % interval of 1,000 images"),
        Fact("95 % interval", "88.0 % to 91.7 %"),
        Fact("val loss", "0.4123"),
        Fact("calibration error", "1.23 %", "mean gap of confidence and accuracy"),
    ]


def test_all_that_a_report_says():
    """Oracle: by hand. Of five classes the true one is always among the first five."""
    expected = [
        Fact("images", "1,000 of mine, split val"),
        Fact("data fingerprint", "0123"),
        Fact("model", "runs/a"),
        Fact("protocol", "multicrop, 50 views of each image, scale 256, 288"),
        Fact("top-1 accuracy", "90.00 %"),
        Fact("top-5 accuracy", "99.50 %"),
        Fact("loss", "0.4123 nats"),
        Fact("time", "1,234.6 s on cpu"),
        Fact("date", "2026-01-02T03:04:05+00:00"),
    ]
    assert Classify().facts(SAVED) == expected
    few = {**SAVED, "classes": list("abcde"), "protocol": "single", "views": 1, "scales": [256]}
    expected[3:6] = [Fact("protocol", "single, 1 view of each image, scale 256"), Fact("top-1 accuracy", "90.00 %")]
    assert Classify().facts(few) == expected


def test_text_for_a_terminal():
    """Oracle: by hand."""
    result = EvaluationResult(
        **{**SAVED, "classes": ("cat", "dog"), "scales": (32,)},
        per_class={"cat": 0.8, "dog": 1.0}, scores={"cat": SCORES, "dog": SCORES}, macro=SCORES, weighted=SCORES,
        confusion=((4, 1), (0, 5)), torch="2",
    )  # fmt: skip
    lines = Classify().evaluation_text(result).splitlines()
    assert lines[-1] == "val accuracy 90.00 %"
    assert any(
        line.split() == ["cat", "80.00", "%", "75.00", "%", "77.00", "%", "0.9000", "5", "dog", "(1)"] for line in lines
    )
    found = [
        Prediction(name="a.png", classes=("cat", "eel"), probabilities=(0.75, 0.25)),
        Prediction(name="b", error="no"),
    ]
    assert Classify().predictions_text(found).splitlines() == ["a.png", "  cat   75.00 %", "  eel   25.00 %", "no"]


@pytest.mark.parametrize(("loss", "is_said"), [(2.303, True), (2.26, True), (2.25, False), (0.1, False)])
def test_a_loss_of_guessing_gets_advice(loss, is_said):
    """Oracle: ln(10) = 2.3026, of which 98 % is 2.2565."""
    task = Classify().fitted(torch.arange(10), 10)
    advice = task.advice({"train_loss": loss})
    assert (advice is not None) is is_said
    assert advice is None or "ln(10) = 2.303" in advice
    assert Classify().advice({"train_loss": loss}) is None


@pytest.mark.parametrize(("device", "expected"), [("cpu", torch.float64), ("mps", torch.float32)])
def test_sums_of_a_loss_fit_to_the_device(device, expected):
    """Oracle: Apple's GPUs have no float64; tensors without memory stand for those of a device that is not here."""
    with FakeTensorMode():
        outputs, targets = torch.empty(4, 3, device=device), torch.zeros(4, dtype=torch.int64, device=device)
        assert Classify(num_classes=3).loss(outputs, targets).sums.dtype == expected
