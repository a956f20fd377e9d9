"""Evaluation of classifiers: every image counts once, classes are matched by name, pictures show right and wrong."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from colors import COLORS, Brightest, Colors, Spoiled, one_by_one
from PIL import Image
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)
from torch import nn

from vggnet.data.loading import EvalBatches
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Subset
from vggnet.errors import DataError, ImageError, InputError
from vggnet.report import figures
from vggnet.tasks.class_evaluation import evaluate_classes, score_batches
from vggnet.tasks.results import read_per_image
from vggnet.tasks.task import EvaluationJob
from vggnet.weights.checkpoint import OpenModel


def job(source, *models, **options):
    """An evaluation of networks in memory."""
    return EvaluationJob(
        networks=[OpenModel(model, torch.device("cpu")) for model in models],
        source=source,
        **{
            "model": "brightest", "data": "colors", "split": "test", "protocol": "single", "scales": (), "flip": False,
            "six_views": False, "classifier": None, "classifier_name": None, "batch_size": None, "workers": 0,
            "progress": False, **options,
        },
    )  # fmt: skip


def evaluate(source, *models, **options):
    return evaluate_classes(job(source, *models, **options)).result


@pytest.mark.parametrize("batch_size", [1, 500, 1003, 5000])
def test_every_image_counts_once(batch_size):
    """Oracle: NumPy on single images, scikit-learn on the outcome. 1,003 is a multiple of no batch size but itself."""
    source, model = Colors(1003), Brightest()
    result = evaluate(source, model, batch_size=batch_size)
    probabilities = one_by_one(source, model)
    predicted = probabilities.argmax(1)
    assert result.images == np.sum(result.confusion) == 1003
    assert result.top1 == accuracy_score(source.labels, predicted)
    assert result.top5 == 1
    assert np.array_equal(result.confusion, confusion_matrix(source.labels, predicted))
    assert result.loss == pytest.approx(log_loss(source.labels, probabilities), rel=1e-5)
    assert 0.7 < result.top1 < 0.9
    recall = {name: np.mean(predicted[source.labels == label] == label) for label, name in enumerate(COLORS)}
    assert result.per_class == pytest.approx(recall)
    confidence, correct = probabilities.max(1), predicted == source.labels
    bins = np.minimum((confidence * 15).astype(int), 14)  # Guo et al. (2017): 15 bins of equal width
    gaps = [abs(np.sum(confidence[bins == each] - correct[bins == each])) for each in range(15)]
    assert result.calibration_error == pytest.approx(sum(gaps) / 1003, abs=1e-5)


def test_what_a_result_says(monkeypatch):
    """Oracle: what was asked for, and by hand: one view of each image, or two at each of three scales."""
    clock = iter((5.0, 7.5))
    for module in ("task", "class_evaluation"):
        monkeypatch.setattr(f"vggnet.tasks.{module}.perf_counter", lambda: next(clock))
    result = evaluate(Colors(20), Brightest())
    monkeypatch.undo()
    assert (result.protocol, result.scales, result.views, result.classes) == ("single", (8,), 1, COLORS)
    assert (result.model, result.data, result.split, result.device) == ("brightest", "colors", "test", "cpu")
    assert result.fingerprint == "0123456789abcdef"
    assert result.seconds == 2.5
    several = evaluate(Colors(20), Brightest(), protocol="multiscale", scales=(9, 8, 12), flip=True)
    assert (several.protocol, several.scales, several.views) == ("multiscale", (8, 9, 12), 6)
    assert evaluate(Colors(20), Brightest(), six_views=True).views == 6
    evaluated = evaluate_classes(job(Colors(20), Brightest()))
    assert evaluated.figures == ("predictions.png", "confusion.png")


def test_batches_are_as_large_as_the_networks_allow(monkeypatch):
    """Oracle: by hand: 40 small images at once; at most 32, in parts of one size, if any network takes photos."""
    seen = []
    monkeypatch.setattr(Brightest, "forward", lambda self, images: seen.append(len(images)) or images.mean((2, 3)))
    small, large = Brightest(), Brightest()
    large.preprocess = Preprocess(resize=65, crop=65)
    for models, sizes in (([small], [40]), ([large], [20, 20]), ([small, large], [20, 20] * 2)):
        seen.clear()
        evaluate(Colors(40), *models)
        assert seen == sizes
    seen.clear()
    evaluate(Colors(40), large, batch_size=15)
    assert sorted(seen) == [13, 13, 14]


def test_several_networks_are_averaged():
    """Oracle: NumPy's mean of the probabilities; one network has its classes in another order."""
    source, first = Colors(120), Brightest()
    second = Brightest(("blue", "red", "green"))
    second.weight = nn.Parameter(torch.eye(3)[:, [2, 0, 1]])
    milder = one_by_one(source, first) ** (1 / 3)  # of a third of the logits
    expected = (one_by_one(source, first) + milder / milder.sum(1, keepdims=True)) / 2
    counts = []
    for models in ((first, second), (second, first)):
        result = evaluate(source, *models, progress=lambda *given: counts.append(given))
        assert result.loss == pytest.approx(log_loss(source.labels, expected), rel=1e-5)
        assert result.top1 == accuracy_score(source.labels, expected.argmax(1))
        assert result.classes == models[0].classes
    assert counts[-1] == (240, 240)
    assert all(total == 240 for _, total in counts)


def test_scores_of_batches_leave_the_modes():
    """Oracle: the modes before; the result of an evaluation. Gradients neither appear nor stay switched off."""
    source, model = Colors(300), Brightest()
    model.train()
    batches = EvalBatches(source, model.preprocess, 128)
    scores = score_batches(model, batches, preprocess=model.preprocess, device="cpu")
    assert model.training
    assert model.dropout.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    result = evaluate(source, model)
    assert (scores.top1, scores.confusion) == (result.top1, result.confusion)
    model(torch.rand(2, 3, 8, 8)).sum().backward()


def test_scores_are_computed_where_the_network_is():
    """Oracle: the device "meta", which refuses images of the CPU."""
    model = Brightest().to("meta")
    batches = EvalBatches(Colors(10), model.preprocess, 10)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        score_batches(model, batches, preprocess=model.preprocess, device="meta")


def test_classes_in_another_order_are_matched_by_name():
    """Oracle: the same test with both in the same order."""
    expected = evaluate(Colors(200), Brightest())
    shuffled = Brightest(("blue", "red", "green"))
    shuffled.weight = nn.Parameter(3 * torch.eye(3)[:, [2, 0, 1]])
    result = evaluate(Colors(200), shuffled)
    assert (result.top1, result.per_class) == (expected.top1, expected.per_class)
    assert result.classes == ("blue", "red", "green")
    order = [2, 0, 1]
    assert np.array_equal(result.confusion, np.array(expected.confusion)[order][:, order])


def test_a_model_without_names_takes_those_of_the_data():
    """Oracle: the same test with names."""
    unnamed = evaluate(Colors(200), Brightest(None))
    assert unnamed.per_class == evaluate(Colors(200), Brightest()).per_class


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (("red", "green", "blue", "pink"), COLORS, r"4 classes \(red, green, blue, pink\), but the model 3 \(red"),
        (("red", "green", "pink"), COLORS, "data has pink where the model has blue"),
        (
            ("red", "blue", "blue"),
            ("blue", "red", "blue"),
            "data has red, blue, blue where the model has blue, red, blue",
        ),
        (("a", "b", "c", "d", "e", "f", "g"), None, r"a, b, c, d, e, ... 2 more"),
    ],
)
def test_other_classes_are_refused(data, model, message):
    """Oracle: the contract."""
    with pytest.raises(DataError, match=message):
        evaluate(Colors(10, classes=data), Brightest(model))


def test_the_prediction_for_every_image_is_written(tmp_path):
    """Oracle: NumPy on single images, in the order of the data; Pillow reads the pictures."""
    source = Colors(103)
    evaluate_classes(job(source, Brightest(), batch_size=20)).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confusion.png",
        "predictions.parquet",
        "predictions.png",
    ]
    for name in ("confusion.png", "predictions.png"):
        with Image.open(tmp_path / name) as image:
            image.load()
    columns = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    probabilities = one_by_one(source, Brightest())
    assert columns["true"] == source.labels.tolist()
    assert columns["predicted"] == probabilities.argmax(1).tolist()
    assert columns["confidence"] == pytest.approx(probabilities.max(1), abs=1e-5)
    assert columns["loss"] == pytest.approx(-np.log(probabilities[np.arange(103), source.labels]), abs=1e-4)
    read = read_per_image(tmp_path)
    assert [column.tolist() for column in read] == list(columns.values())


def test_the_table_of_all_images():
    """Oracle: NumPy on single images, in the order of the data; classes by name."""
    source, shuffled = Colors(50), Brightest(("blue", "red", "green"))
    shuffled.weight = nn.Parameter(3 * torch.eye(3)[:, [2, 0, 1]])
    columns = evaluate_classes(job(source, shuffled, batch_size=20)).columns()
    probabilities = one_by_one(source, shuffled)
    predicted = probabilities.argmax(1)
    assert list(columns) == ["image", "true", "predicted", "correct", "confidence", "loss"]
    assert columns["image"] == [f"color {index}" for index in range(50)]
    assert columns["true"] == [COLORS[label] for label in source.labels]
    assert columns["predicted"] == [COLORS[label] for label in predicted]
    assert columns["correct"] == (predicted == source.labels).tolist()
    assert columns["confidence"] == pytest.approx(probabilities.max(1), abs=1e-5)
    assert columns["loss"] == pytest.approx(-np.log(probabilities[np.arange(50), source.labels]), abs=1e-4)


def test_scores_of_classes():
    """Oracle: scikit-learn, class by class and averaged; one class has no images."""
    source = Colors(200)
    some = Subset(source, np.flatnonzero(source.labels != 1))
    probabilities = one_by_one(some, Brightest())
    predicted, labels = probabilities.argmax(1), some.labels
    result = evaluate(some, Brightest())
    options = {"labels": [0, 2], "zero_division": 0}
    for average, found in (("macro", result.macro), ("weighted", result.weighted)):
        precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average=average, **options)
        assert (found.precision, found.recall, found.f1) == pytest.approx((precision, recall, f1))
    assert list(result.scores) == list(COLORS)
    for label in (0, 2):
        scores, mine = result.scores[COLORS[label]], labels == label
        assert scores.precision == pytest.approx(np.mean(mine[predicted == label]))
        assert scores.recall == pytest.approx(np.mean(predicted[mine] == label))
        assert scores.roc_auc == pytest.approx(roc_auc_score(mine, probabilities[:, label]))
    assert result.scores["green"].recall is None


@pytest.mark.parametrize(
    ("images", "mistaken", "right", "wrong"),
    [(100, 5, 4, 4), (100, 200, 8, 0), (100, 60, 7, 1), (8, 4, 6, 2), (20, 1, 0, 8), (3, 1, 0, 3)],
)
def test_pictures_show_right_and_wrong(monkeypatch, tmp_path, images, mistaken, right, wrong):
    """Oracle: by hand. Four of each if there are, from the first to the last; each picture is the one that its labels
    belong to, and the titles count.
    """
    source, drawn, tables = Colors(images, mistaken=mistaken), [], []
    monkeypatch.setattr(figures, "draw_predictions", lambda *args, **options: drawn.append((args, options)))
    monkeypatch.setattr(figures, "draw_confusion", lambda *args, **options: tables.append((args, options)))
    evaluated = evaluate_classes(job(source, Brightest()))
    evaluated.write(tmp_path)
    ((pictures, true, predicted, confidence, path), options), ((confusion, classes, other), options2) = *drawn, *tables
    assert [t == p for t, p in zip(true, predicted, strict=True)] == [True] * right + [False] * wrong
    everything = one_by_one(source, Brightest())
    places = [next(i for i in range(images) if source.read(i) == picture) for picture in pictures]
    assert len(set(places)) == right + wrong
    assert true == [COLORS[source.labels[place]] for place in places]
    assert confidence == pytest.approx(everything[places].max(1).tolist(), abs=1e-5)
    correct = everything.argmax(1) == source.labels
    for shown, all_of_them in ((places[:right], np.flatnonzero(correct)), (places[right:], np.flatnonzero(~correct))):
        assert shown == sorted(shown)
        assert not shown or (shown[0] == all_of_them[0] and (len(shown) == 1 or shown[-1] == all_of_them[-1]))
    title = f"colors test: {100 * correct.mean():.2f} % of {images} images correct"
    assert options == {"title": f"{title}; here {right} correct, {wrong} wrong"}
    assert options2 == {"title": title}
    assert (confusion, classes) == (evaluated.result.confusion, COLORS)
    assert (path, other) == (tmp_path / "predictions.png", tmp_path / "confusion.png")


@pytest.mark.parametrize("options", [{}, {"protocol": "multiscale", "scales": (8, 9)}, {"batch_size": 7}])
def test_images_that_cannot_be_read(tmp_path, options):
    """Oracle: the evaluation of the readable images alone; by default the first that cannot be read is an error."""
    readable = Subset(Colors(40), np.array([index for index in range(40) if index % 7 != 3]))
    with pytest.raises(ImageError, match="color 3: is spoiled"):
        evaluate(Spoiled(40), Brightest(), **options)
    evaluated = evaluate_classes(job(Spoiled(40), Brightest(), Brightest(), on_error="return", **options))
    found, expected = evaluated.result, evaluate(readable, Brightest(), **options)
    assert (found.images, found.confusion) == (34, expected.confusion)
    assert found.loss == pytest.approx(expected.loss)
    assert list(found.unreadable.items()) == [(index, f"color {index}: is spoiled.") for index in range(3, 40, 7)]
    assert expected.unreadable == {}
    evaluated.write(tmp_path)
    assert read_per_image(tmp_path).labels.tolist() == readable.labels.tolist()


def test_networks_with_other_classes_are_not_averaged():
    """Oracle: the contract. One without names is taken to have the same order."""
    some = Subset(Colors(30), np.flatnonzero(Colors(30).labels < 2))
    some.classes = ("red", "green")
    with pytest.raises(DataError, match="different classes, such as (pink|blue)"):
        evaluate(some, Brightest(), Brightest(("red", "green", "pink")))
    assert evaluate(Colors(9), Brightest(), Brightest(None)).loss == evaluate(Colors(9), Brightest()).loss


def test_names_that_occur_twice_keep_their_accuracies():
    """Oracle: by hand."""
    result = evaluate(Colors(50, classes=("crane", "crane", "wren")), Brightest(None))
    assert list(result.per_class) == ["crane [0]", "crane [1]", "wren"]


def test_nothing_to_test_is_an_error():
    """Oracle: the contract."""
    with pytest.raises(DataError, match="the split is empty"):
        score_batches(Brightest(), [], preprocess=Brightest().preprocess, device="cpu")


def test_labels_must_be_classes_of_the_model():
    """Oracle: the contract: a fourth class, of three outputs."""
    source, model = Colors(10), Brightest()
    source.labels[3] = 3
    with pytest.raises(InputError):
        score_batches(model, EvalBatches(source, model.preprocess, 10), preprocess=model.preprocess, device="cpu")
