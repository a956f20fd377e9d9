"""From run folders to reports, and the command that writes them."""

import json

import numpy as np
import pytest
import torch

import vggnet
from vggnet.cli.main import main
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, RunError
from vggnet.metrics import PerImage
from vggnet.report import charts, page
from vggnet.run_report import write_report
from vggnet.tasks.results import write_per_image
from vggnet.training.presets import preset

DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Without the 900 kB that draw the charts; test_page.py has them."""
    monkeypatch.setattr(charts, "vega_script", lambda: "")


def make_run(folder, *, epochs=2, **config):
    folder.mkdir(parents=True)
    description = {
        "data": "digits",
        "preset": "digits",
        "classes": DIGITS,
        "images": 1437,
        "fingerprint": open_source("digits", "train").fingerprint,
        "preprocess": {"resize": 32, "crop": 32},
        "environment": {"device": "abacus"},
        "config": {**preset("fast").as_options(), "epochs": epochs, **config},
    }
    (folder / "config.json").write_text(json.dumps(description))
    row = {"train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.1, "val_accuracy": 0.625, "seconds": 30.0}
    rows = [{"epoch": epoch, **row} for epoch in range(1, epochs + 1)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def add_test(folder, **changes):
    """On the digits, of which the first is taken for the class after its own."""
    source = open_source("digits", "test")
    predicted = source.labels.copy()
    predicted[0] = (predicted[0] + 1) % 10
    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, (source.labels, predicted), 1)
    ones = torch.ones(len(source), dtype=torch.float64)
    per_image = PerImage(torch.tensor(source.labels), torch.tensor(predicted), 0.9 * ones, 0.1 * ones)
    write_per_image(folder, per_image)
    result = {
        "top1": 359 / 360,
        "top5": 1.0,
        "loss": 0.1,
        "images": 360,
        "per_class": dict.fromkeys(DIGITS, 1.0),
        "confusion": confusion.tolist(),
        "calibration_error": 0.1,
        "classes": DIGITS,
        "data": "digits",
        "split": "test",
        "fingerprint": source.fingerprint,
        "model": str(folder),
        "protocol": "single",
        "scales": [32],
        "views": 1,
        "seconds": 1.0,
        "device": "cpu",
        "date": "2025-01-01T00:00:00+00:00",
    }
    (folder / "test.json").write_text(json.dumps(result | changes))
    return folder


def add_box_test(folder, **changes):
    result = {
        "error_class_given": 0.2345,
        "error_top1": None,
        "error_top5": None,
        "mean_overlap": 0.6543,
        "error_whole_image": 0.4321,
        "error_constant_box": 0.3456,
        "images": 200,
        "scales": [64],
        "flip": True,
        "data": "boxes",
        "split": "val",
        "fingerprint": "0" * 16,
        "model": str(folder),
        "classifier": None,
        "seconds": 1.0,
        "device": "cpu",
        "torch": "2.9",
        "date": "2025-01-01T00:00:00+00:00",
        "error": None,
    }
    (folder / "test.json").write_text(json.dumps(result | changes))
    return folder


def data_of(html):
    return json.loads(html.split('id="data">')[1].split("</script>")[0])


def test_a_run_is_trained_tested_and_reported(tmp_path, monkeypatch, capsys):
    """Oracle: the files: a report after training, without a test; after the test it has its counts and pictures."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    options = ["--model", "vgg11_bn", "--head", "gap", "--width", "0.05", "--epochs", "1", "--batch-size", "512"]
    call("train", "--data", "digits", "--out", run, *options)
    before = (run / "report.html").read_text()
    assert "Not tested yet" in before
    assert set(data_of(before)["charts"]) == {"loss", "accuracy", "rate", "time"}
    call("test", run)
    after = (run / "report.html").read_text()
    tested = json.loads((run / "test.json").read_text())
    counts = {f"{i}-{j}": n for i, row in enumerate(tested["confusion"]) for j, n in enumerate(row) if n}
    assert data_of(after)["cells"].keys() == counts.keys()
    assert {"calibration", "confidence"} < data_of(after)["charts"].keys()
    assert after.count('<figure class="explanation">') == 8
    capsys.readouterr()
    call("report", run, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed["path"] == str(run / "report.html")
    assert printed["runs"][0]["test_accuracy"] == tested["top1"]


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    assert ended.value.code == 0


def test_a_tested_run_shows_its_mistakes(tmp_path):
    """Oracle: by hand: one mistake, the first image."""
    report = write_report(add_test(make_run(tmp_path / "run")))
    label = int(open_source("digits", "test").labels[0])
    data = data_of(report.path.read_text())
    assert data["cells"][f"{label}-{(label + 1) % 10}"] == [0]
    assert data["images"]["0"]["picture"].startswith("data:image/webp")
    assert (data["images"]["0"]["true"], data["images"]["0"]["predicted"]) == (label, (label + 1) % 10)
    assert report.notes == ()
    assert report.runs[0]["test_accuracy"] == 359 / 360


def test_what_was_trained_on_is_said(tmp_path):
    """Oracle: numbers made up here; counts of a test and of a training; a run of before, without them."""
    run = add_test(make_run(tmp_path / "run"), trained_on=12)
    path = run / "config.json"
    counts = {"train_images": 1365, "val_images": 72, "val_split": None, "near_copies": {"validation": 3, "test": 2001}}
    path.write_text(json.dumps(json.loads(path.read_text()) | counts))
    report = write_report(run)
    html = " ".join(report.path.read_text().split())
    assert (
        "1,365 training images, 72 validation images (held out of train), 360 tested images (split test); 10 classes."
        in html
    )
    assert "12 of the 360 tested images were trained on" in html
    assert "3 validation images and 2,001 test images look like images that were trained on." in html
    assert len(report.notes) == 2
    old = add_test(make_run(tmp_path / "old"), data="other", split="val", fingerprint="0")
    html = " ".join(write_report(old).path.read_text().split())
    assert "1,437 training images, 360 tested images (split val of other); 10 classes." in html
    assert "look like images" not in html


def test_examples_are_explained(tmp_path):
    """Oracle: by hand: the one mistake for both of its classes, then the right answers, each for one."""
    run = add_test(make_run(tmp_path / "run"))
    network = vggnet.create_model("vgg11_bn", num_classes=10, head="gap", width=0.05)
    network.classes, network.preprocess = tuple(DIGITS), vggnet.Preprocess(resize=32, crop=32)
    vggnet.save(network, run / "weights.safetensors")
    label = int(open_source("digits", "test").labels[0])
    html = write_report(run).path.read_text()
    first, *others = html.split('<figure class="explanation">')[1:]
    assert f"<figcaption>True {label}, predicted {(label + 1) % 10}</figcaption>" in first
    assert first.count("<img") == 3
    assert [other.split("</figure>")[0].count("<img") for other in others] == [2] * 4
    assert all("predicted correctly" in other for other in others)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"fingerprint": "0000000000000000"}, "other images are there now"),
        ({"data": "/nowhere"}, "/nowhere: no such folder"),
        ({"confusion": np.eye(10, dtype=int).tolist()}, "not saved beside the result"),
    ],
)
def test_what_is_missing_is_said(tmp_path, changes, note):
    """Oracle: by hand: the data have changed or gone; predictions and result are of two tests."""
    report = write_report(add_test(make_run(tmp_path / "run"), **changes))
    html = report.path.read_text()
    assert note in report.notes[0]
    assert note in html
    assert "data:image" not in html


@pytest.mark.parametrize(
    ("config", "rates"),
    [
        ({"optimizer": "sgd", "lr": 0.4, "warmup": 0.0}, [{"lr": 0.3}, {"lr": 0.1}]),
        (
            {"optimizer": "muon", "lr": 0.4, "kernel_lr": 0.8, "norm_bias_lr": 4.0, "warmup": 0.5},
            [{"lr": 0.24, "kernel_lr": 0.48, "norm_bias_lr": 2.4}, {"lr": 0.2, "kernel_lr": 0.4, "norm_bias_lr": 2.0}],
        ),
        ({"optimizer": "sgd", "lr": 0.4, "schedule": "step", "step_epochs": 1}, [{"lr": 0.4}, {"lr": 0.04}]),
        ({"an_option_of_long_ago": 1}, [{}, {}]),
    ],
)
def test_learning_rates_are_those_in_the_middle_of_an_epoch(tmp_path, monkeypatch, config, rates):
    """Oracle: by hand: after a quarter and three quarters of two epochs."""
    seen = []
    monkeypatch.setattr(page, "run_page", lambda run, **options: seen.extend(run.rows) or "")
    write_report(make_run(tmp_path / "run", **config))
    assert [row["rates"] for row in seen] == [pytest.approx(each) for each in rates]


def test_several_runs_are_compared(tmp_path, monkeypatch, capsys):
    """Oracle: by hand: they differ in width alone."""
    monkeypatch.chdir(tmp_path)
    add_test(make_run(tmp_path / "a", width=1.0))
    make_run(tmp_path / "b", width=2.0)
    call("report", "a", "b")
    assert capsys.readouterr().out.splitlines() == [
        "a: epochs 2, validation accuracy 62.50 %, test accuracy 99.72 %",
        "b: epochs 2, validation accuracy 62.50 %",
        "report: comparison.html",
    ]
    differences = (tmp_path / "comparison.html").read_text().split('id="differences"')[1].split("</section>")[0]
    assert differences.count('<th scope="row">') == 1
    assert '<th scope="row">width</th>' in differences


@pytest.mark.parametrize(
    ("changes", "there", "missing"),
    [
        ({}, ["23.45", "0.654", "43.21", "34.56", "mirror images"], ["class predicted"]),
        ({"error_constant_box": None, "flip": False}, ["23.45", "43.21"], ["constant box", "mirror images"]),
        ({"error_top1": 0.5555, "error_top5": 0.2468, "classifier": "<who>"}, ["55.55", "24.68", "&lt;who&gt;"], []),
    ],
)
def test_a_test_of_boxes_is_shown(tmp_path, capsys, changes, there, missing):
    """Oracle: by hand: its numbers are in the page, and no note says that the run is not tested."""
    report = write_report(add_box_test(make_run(tmp_path / "run", task="localize"), **changes))
    html = report.path.read_text()
    summary = html.split('<dl class="cards">')[1].split("</dl>")[0]
    test = html.split('<section id="test">')[1].split("</section>")[0]
    assert "23.45" in summary
    assert "0.654" in summary
    assert [text for text in there if text not in test] == []
    assert [text for text in missing if text in test] == []
    assert report.notes == ()
    call("report", report.path.parent)
    assert capsys.readouterr().out.splitlines()[0].endswith(", val localization error, class given, 23.45 %")


def test_runs_that_give_boxes_are_compared(tmp_path, monkeypatch):
    """Oracle: by hand: two tested on the same images; one that gives classes, which does not compare with them."""
    monkeypatch.chdir(tmp_path)
    runs = [add_box_test(make_run(tmp_path / name, task="localize")) for name in ("a", "b")]
    html = write_report(runs).path.read_text()
    assert html.count("23.45") == html.count("<td>0.654</td>") == 2
    assert "do not compare" not in html
    html = write_report([*runs, add_test(make_run(tmp_path / "c"))]).path.read_text()
    assert (html.count("23.45"), html.count("99.72")) == (2, 1)
    assert "do not compare" in html
    add_box_test(tmp_path / "b", flip=False)
    assert "do not compare" in write_report(runs).path.read_text()


def test_runs_that_cannot_be_compared(tmp_path):
    """Oracle: the contract."""
    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="given twice"):
        write_report([run, tmp_path / "." / "run"])
    with pytest.raises(ConfigError, match="no run"):
        write_report([])
    with pytest.raises(RunError, match="not a run folder"):
        write_report([run, tmp_path])
    (run / "test.json").write_text("{")
    with pytest.raises(RunError, match=r"test\.json is damaged"):
        write_report(run)
    assert not (run / "report.html").exists()
