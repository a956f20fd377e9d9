import json
import sys
from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from torch import nn

from vggnet import report
from vggnet.data.decoding import StoredImage
from vggnet.data.loading import EvalBatches
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source, Subset
from vggnet.errors import ConfigError, DataError, ImageError, NonFiniteError, StorageError, WeightsError
from vggnet.evaluation import overlap as module
from vggnet.evaluation.evaluate import evaluate
from vggnet.models.vgg import build
from vggnet.report import figures
from vggnet.tasks.class_evaluation import score_batches
from vggnet.tasks.results import read_per_image
from vggnet.weights import checkpoint as files

COLORS = ("red", "green", "blue")


class Colors(Source):
    """Images of one color and noise, labeled by the strongest channel; every fifth label is wrong."""

    def __init__(self, images, classes=COLORS, mistaken=5):
        random = np.random.default_rng(0)
        true = random.integers(0, 3, images)
        self.pixels = random.integers(0, 120, (images, 8, 8, 3), dtype=np.uint8)
        self.pixels[np.arange(images), :, :, true] += 120
        labels = np.where(np.arange(images) % mistaken == mistaken - 1, (true + 1) % 3, true)
        super().__init__(name="colors", split="test", classes=classes, labels=labels.astype(np.int64))

    def open(self, index):
        return StoredImage(Image.fromarray(self.pixels[index]), f"color {index}")

    def describe(self, index):
        return f"color {index}"

    @property
    def fingerprint(self):
        return "0123456789abcdef"


class Spoiled(Colors):
    """Every seventh image cannot be read."""

    def open(self, index):
        if index % 7 == 3:
            raise ImageError("is spoiled.", name=f"color {index}")
        return super().open(index)


class Brightest(nn.Module):
    """The mean of each channel is the logit of its color; in training a layer of dropout spoils them."""

    def __init__(self, classes=COLORS):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.weight = nn.Parameter(3 * torch.eye(3))
        self.classes, self.num_classes = classes, 3
        self.preprocess = Preprocess(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.3, 0.2, 0.1))

    def forward(self, images):
        return self.dropout(images.mean((2, 3)) @ self.weight)


@pytest.fixture
def colors(monkeypatch, tmp_path):
    """Let the data set be `Colors`: call with its arguments."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))

    def use(*args, **options):
        source = Colors(*args, **options)
        monkeypatch.setattr(module, "open_source", lambda spec, split, **options: source)
        return source

    return use


def one_by_one(source, model):
    """Softmax (N, 3) in float64 NumPy, an image at a time."""
    mean, std = np.array(model.preprocess.mean), np.array(model.preprocess.std)
    rows = []
    for index in range(len(source)):
        normal = (np.asarray(source.read(index), dtype=np.float64) / 255 - mean) / std
        exponentials = np.exp(3 * normal.mean((0, 1)))
        rows.append(exponentials / exponentials.sum())
    return np.array(rows)


@pytest.mark.parametrize("batch_size", [1, 500, 1003, 5000])
def test_every_image_counts_once(colors, batch_size):
    """Oracle: NumPy on single images, scikit-learn on the outcome. 1,003 is a multiple of no batch size but itself."""
    source, model = colors(1003), Brightest()
    result = evaluate(model, "colors", batch_size=batch_size)
    probabilities = one_by_one(source, model)
    predicted = probabilities.argmax(1)
    assert result.images == np.sum(result.confusion) == 1003
    assert result.top1 == accuracy_score(source.labels, predicted)
    assert np.array_equal(result.confusion, confusion_matrix(source.labels, predicted))
    assert result.loss == pytest.approx(log_loss(source.labels, probabilities), rel=1e-5)
    assert 0.7 < result.top1 < 0.9


def test_evaluate_agrees_and_leaves_the_modes(colors):
    """Oracle: the modes before; the result of `test`. Gradients neither appear nor stay switched off."""
    source, model = colors(300), Brightest()
    model.train()
    batches = EvalBatches(source, model.preprocess, 128)
    scores = score_batches(model, batches, preprocess=model.preprocess, device="cpu")
    assert model.training
    assert model.dropout.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    result = evaluate(model, "colors")
    assert (scores.top1, scores.confusion) == (result.top1, result.confusion)
    model(torch.rand(2, 3, 8, 8)).sum().backward()


def test_classes_in_another_order_are_matched_by_name(colors):
    """Oracle: the same test with both in the same order."""
    colors(200)
    expected = evaluate(Brightest(), "colors")
    shuffled = Brightest(("blue", "red", "green"))
    shuffled.weight = nn.Parameter(3 * torch.eye(3)[:, [2, 0, 1]])
    result = evaluate(shuffled, "colors")
    assert (result.top1, result.per_class) == (expected.top1, expected.per_class)
    assert result.classes == ("blue", "red", "green")
    order = [2, 0, 1]
    assert np.array_equal(result.confusion, np.array(expected.confusion)[order][:, order])


def test_a_model_without_names_takes_those_of_the_data(colors):
    """Oracle: the same test with names."""
    colors(200)
    unnamed = evaluate(Brightest(None), "colors")
    assert unnamed.per_class == evaluate(Brightest(), "colors").per_class


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
def test_other_classes_are_refused(colors, data, model, message):
    """Oracle: the contract."""
    colors(10, classes=data)
    with pytest.raises(DataError, match=message):
        evaluate(Brightest(model), "colors")


def test_out_holds_the_result_and_its_pictures(colors, tmp_path):
    """Oracle: the fields of the result; Pillow reads the pictures."""
    colors(100)
    out = tmp_path / "new" / "folder"
    result = evaluate(Brightest(), "colors", out=out)
    found = sorted(path.name for path in out.iterdir())
    assert found == ["confusion.png", "predictions.parquet", "predictions.png", "test.json"]
    assert set(result.files) == {out / "confusion.png", out / "predictions.png"}
    for path in result.files:
        with Image.open(path) as image:
            image.load()
    saved = json.loads((out / "test.json").read_text())
    plain = {"per_class": result.per_class, "top1": result.top1, "confusion": list(map(list, result.confusion))}
    assert saved | plain | {"scales": [8], "classes": list(COLORS)} == saved
    assert saved.keys() == {field.name for field in fields(result)}
    assert {"top1", "top5", "loss", "images", "per_class", "fingerprint", "model", "seconds"} <= saved.keys()
    assert saved["per_class"].keys() == set(COLORS)
    assert saved["files"] == [str(path) for path in result.files]


def test_out_holds_the_prediction_for_every_image(colors, tmp_path):
    """Oracle: NumPy on single images, in the order of the data."""
    source = colors(103)
    evaluate(Brightest(), "colors", out=tmp_path, batch_size=20)
    columns = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    probabilities = one_by_one(source, Brightest())
    assert columns["true"] == source.labels.tolist()
    assert columns["predicted"] == probabilities.argmax(1).tolist()
    assert columns["confidence"] == pytest.approx(probabilities.max(1), abs=1e-5)
    assert columns["loss"] == pytest.approx(-np.log(probabilities[np.arange(103), source.labels]), abs=1e-4)
    read = read_per_image(tmp_path)
    assert [column.tolist() for column in read] == list(columns.values())


@pytest.mark.parametrize(
    ("images", "mistaken", "right", "wrong"),
    [(100, 5, 4, 4), (100, 200, 8, 0), (100, 60, 7, 1), (8, 4, 6, 2), (20, 1, 0, 8), (3, 1, 0, 3)],
)
def test_pictures_show_right_and_wrong(colors, monkeypatch, tmp_path, images, mistaken, right, wrong):
    """Oracle: by hand. Four of each if there are; each picture is the one that its labels belong to."""
    source, drawn = colors(images, mistaken=mistaken), []
    monkeypatch.setattr(figures, "draw_predictions", lambda *args, **options: drawn.append(args))
    evaluate(Brightest(), "colors", out=tmp_path)
    pictures, true, predicted, confidence, _ = drawn[0]
    assert [t == p for t, p in zip(true, predicted, strict=True)] == [True] * right + [False] * wrong
    everything = one_by_one(source, Brightest())
    places = [next(i for i in range(images) if source.read(i) == picture) for picture in pictures]
    assert len(set(places)) == right + wrong
    assert true == [COLORS[source.labels[place]] for place in places]
    assert confidence == pytest.approx(everything[places].max(1).tolist(), abs=1e-5)


def test_without_matplotlib_the_result_is_written(colors, monkeypatch, tmp_path):
    """Oracle: the contract: the numbers are there, and a note says what to install."""
    colors(20)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("figures", "plot_style"):
        monkeypatch.delitem(sys.modules, f"vggnet.report.{name}", raising=False)
        monkeypatch.delattr(report, name, raising=False)
    out = tmp_path / "out"
    result = evaluate(Brightest(), "colors", out=out)
    assert result.notes == ("no figures: matplotlib is not installed; pip install 'vggnet[report]'",)
    assert (result.files, result.error) == ((), None)
    assert sorted(path.name for path in out.iterdir()) == ["predictions.parquet", "test.json"]


def test_an_impossible_folder_is_refused_before_the_work(colors, monkeypatch, tmp_path):
    """Oracle: the contract; a network that fails when asked."""
    colors(10)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Brightest, "forward", None)
    with pytest.raises(StorageError, match="file"):
        evaluate(Brightest(), "colors", out=tmp_path / "file")


def test_names_that_occur_twice_keep_their_accuracies(colors):
    """Oracle: by hand."""
    colors(50, classes=("crane", "crane", "wren"))
    assert list(evaluate(Brightest(None), "colors").per_class) == ["crane [0]", "crane [1]", "wren"]


def test_a_run_folder_is_tested_on_real_digits(monkeypatch, tmp_path):
    """Oracle: the model that was saved, on all images at once."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    network = build("vgg11_bn", num_classes=10, head="gap", width=0.05)
    network.classes, network.preprocess = tuple("0123456789"), Preprocess(resize=32, crop=32)
    files.save(network, tmp_path / "run" / "weights.safetensors")
    tested = evaluate(tmp_path / "run", "digits", batch_size=100)
    source = module.open_source("digits", "test")
    images = torch.stack([network.preprocess(source.read(index)) for index in range(360)])
    with torch.no_grad():
        predicted = network.eval()(images).argmax(1).numpy()
    assert tested.images == len(source) == 360
    assert tested.top1 == (predicted == source.labels).mean()
    assert (tested.model, tested.fingerprint, tested.split) == (str(tmp_path / "run"), source.fingerprint, "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size is 0"), ({"workers": -1}, "workers is -1"), ({"device": "quantum"}, "'quantum'")],
)
def test_options_that_cannot_work(colors, options, message):
    """Oracle: the contract."""
    colors(10)
    with pytest.raises(ConfigError, match=message):
        evaluate(Brightest(), "colors", **options)


def test_a_model_without_preprocessing_is_refused(colors):
    """Oracle: the contract."""
    colors(10)
    model = Brightest()
    model.preprocess = None
    with pytest.raises(WeightsError, match="preprocess"):
        evaluate(model, "colors")


def test_a_diverged_model_is_refused(colors):
    """Oracle: the contract."""
    colors(10)
    model = Brightest()
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="10 of 10 images"):
        evaluate(model, "colors")


def test_nothing_to_test_is_an_error():
    """Oracle: the contract."""
    with pytest.raises(DataError, match="the split is empty"):
        score_batches(Brightest(), [], preprocess=Brightest().preprocess, device="cpu")


@pytest.mark.parametrize("options", [{}, {"protocol": "multiscale", "scales": (8, 9)}, {"protocol": "multicrop"}])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_left_out_if_asked(monkeypatch, tmp_path, options, workers):
    """Oracle: the same evaluation of the readable images alone."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    spoiled = Spoiled(40)
    readable = np.array([index for index in range(40) if index % 7 != 3])
    monkeypatch.setattr(module, "open_source", lambda spec, split, **options: spoiled)
    options = {**options, "workers": workers}
    with pytest.raises(ImageError, match="color 3: is spoiled"):
        evaluate(Brightest(), "colors", **options)
    found = evaluate(Brightest(), "colors", on_bad_image="skip", out=tmp_path / "out", **options)
    monkeypatch.setattr(module, "open_source", lambda spec, split, **options: Subset(Colors(40), readable))
    expected = evaluate(Brightest(), "colors", **options)
    assert (found.images, found.confusion, found.loss) == (34, expected.confusion, pytest.approx(expected.loss))
    assert found.unreadable == {index: f"color {index}: is spoiled." for index in range(3, 40, 7)}
    assert len(read_per_image(tmp_path / "out").labels) == 34
    assert json.loads((tmp_path / "out" / "test.json").read_text())["unreadable"]["10"] == "color 10: is spoiled."


def test_data_that_has_some_of_the_classes(colors, monkeypatch):
    """Oracle: the confusion of the full classes, of those rows."""
    source = colors(50)
    full = evaluate(Brightest(), "colors")
    assert full.notes == ()
    some = Subset(source, np.flatnonzero(source.labels != 1))
    some.classes, some.labels = ("red", "blue"), some.labels // 2
    monkeypatch.setattr(module, "open_source", lambda spec, split, **options: some)
    found = evaluate(Brightest(), "colors")
    assert found.confusion == (full.confusion[0], (0, 0, 0), full.confusion[2])
    assert (found.classes, found.per_class["green"]) == (COLORS, None)
    assert found.notes == ("the data has 2 of the model's 3 classes, matched by name; without green",)
    some.classes = ("red", "violet")
    with pytest.raises(DataError, match="violet"):
        evaluate(Brightest(), "colors")


def test_models_that_order_their_classes_differently_are_averaged_by_name(colors):
    """Oracle: the model alone; the other one is the same with its outputs in another order."""
    colors(30)
    other = Brightest(("blue", "red", "green"))
    other.weight.data = other.weight.data[:, [2, 0, 1]]
    both, one = evaluate([Brightest(), other], "colors"), evaluate(Brightest(), "colors")
    assert (both.confusion, both.loss) == (one.confusion, pytest.approx(one.loss))


def test_models_with_other_classes_are_not_averaged(colors):
    """Oracle: the contract."""
    colors(20)
    with pytest.raises(DataError):
        evaluate([Brightest(), Brightest(("red", "green", "pink"))], "colors")


def test_both_unicode_forms_of_a_name_are_one_class(colors):
    """Oracle: the classes by their other names. A decomposed accent is how macOS stores a name."""
    colors(30, classes=("red", "cafe\u0301", "blue"))
    found = evaluate(Brightest(("red", "caf\u00e9", "blue")), "colors")
    colors(30)
    assert found.confusion == evaluate(Brightest(), "colors").confusion
