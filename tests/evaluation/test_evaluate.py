import csv
import json
import sys
from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from colors import COLORS, Brightest, Colors, Spoiled, one_by_one
from PIL import Image

from vggnet import report
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Subset
from vggnet.errors import ConfigError, DataError, ImageError, NonFiniteError, StorageError, WeightsError
from vggnet.evaluation import overlap as module
from vggnet.evaluation.evaluate import evaluate
from vggnet.models.vgg import build
from vggnet.tasks.results import read_per_image
from vggnet.weights import checkpoint as files


@pytest.fixture
def colors(monkeypatch, tmp_path):
    """Let the data set be `Colors`: call with its arguments."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))

    def use(*args, **options):
        source = Colors(*args, **options)
        monkeypatch.setattr(module, "open_source", lambda spec, split, **options: source)
        return source

    return use


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


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_names_each_image(colors, tmp_path, suffix):
    """Oracle: NumPy on single images; Python's csv module or pyarrow reads it; a name that is no UTF-8."""
    source = colors(20)
    source.describe = lambda index: f"caf\udce9, {index}.png"
    file = tmp_path / "new" / f"table{suffix}"
    evaluate(Brightest(), "colors", table=file)
    if suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    else:
        rows = pq.read_table(file).to_pylist()
    predicted = one_by_one(source, Brightest()).argmax(1)
    assert [row["image"] for row in rows] == [f"caf\\udce9, {index}.png" for index in range(20)]
    assert [row["true"] for row in rows] == [source.classes[label] for label in source.labels]
    assert [row["predicted"] for row in rows] == [source.classes[index] for index in predicted]
    assert [str(row["correct"]).lower() for row in rows] == [
        "true" if hit else "false" for hit in predicted == source.labels
    ]
    confidence = one_by_one(source, Brightest()).max(1)
    assert [float(row["confidence"]) for row in rows] == pytest.approx(confidence, abs=1e-5)


def test_a_table_of_another_kind_is_refused(colors, tmp_path):
    """Oracle: the message, before any image is read."""
    colors(20)
    with pytest.raises(
        ConfigError, match=r"table \(--table\) is .*table\.xlsx; expected a file name that ends in \.csv"
    ):
        evaluate(Brightest(), "colors", table=tmp_path / "table.xlsx")


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
    found = evaluate(Brightest(), "colors", on_error="return", out=tmp_path / "out", **options)
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
