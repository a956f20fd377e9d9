"""VGGs beside other networks: rows of speed and training by one budget, the page. No test asserts a time."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vggnet
from experiments.comparison import run as comparison
from experiments.training import scores_on
from vggnet.errors import ConfigError, DataError, NonFiniteError
from vggnet.training.presets import preset

pytestmark = pytest.mark.usefixtures("own_cache")
SMALL = {"size": 64, "batch": 2, "rounds": 1}


def speed_row(name, accuracy, ours, stock):
    return {
        "kind": "speed", "model": name, **SMALL, "parameters": 1_500_000, "fully_connected": 10, "macs": 2_345_000_000,
        "file_bytes": 6_100_000, "activation_bytes": 7_200_000,
        "latency": {"vggnet": ours, "PyTorch, NCHW": stock}, "throughput": {"vggnet": [2.0], "PyTorch, NCHW": [0.5]},
        "accuracy": accuracy,
        "environment": {"torchvision": "9.9", "cores": 2, "device": "a processor", "date": "2026-01-01"},
    }  # fmt: skip


def training_row(name, seed, top1, epochs=5):
    config = preset("fast").override(model=name, seed=seed, epochs=epochs).as_options()
    return {"kind": "training", "model": name, "seed": seed, "top1": top1, "images": 360, "seconds": 90.0,
            "config": config, "fingerprint": "0"}  # fmt: skip


ROWS = [
    speed_row("vgg16", {"IMAGENET1K_V1": 71.592}, [0.010, 0.012, 0.020], [0.030, 0.031, 0.032]),
    speed_row("resnet50", {"IMAGENET1K_V1": 76.13, "IMAGENET1K_V2": 80.858}, [0.05] * 3, [0.02, 0.01, 0.03]),
    speed_row("vgg11_lrn", {}, [0.5], [0.4]),
    training_row("resnet50", 0, 0.7, epochs=1),
    training_row("resnet50", 0, 0.9),
    training_row("resnet50", 1, 0.92),
]
ROWS[0] = {**ROWS[0], "environment": {**ROWS[0]["environment"], "date": "2025-01-01"}}  # an older day alone
VERSIONS = {"threads": 2, "vggnet": "0", "torch": "2", "python": "3"}
ELSEWHERE = [{**ROWS[0], "model": "vgg13", "size": 32}, {**ROWS[0], "environment": {"device": "another", "date": ""}}]


def test_table_by_hand(cells):
    """Oracle: typed: only what was measured on the newest row's machine, and trained with the newest budget."""
    lines = cells(comparison.table([*ELSEWHERE, *ROWS]))
    assert [line[0] for line in lines[1:]] == ["resnet50", "vgg16", "vgg11_lrn"]
    assert lines[1][4:] == ["7.2", "20.0 (10.0-30.0)", "4.0", "PyTorch, NCHW", "76.13 (80.86)", "91.00 ± 1.41",
                            "1.5", "2"]  # fmt: skip
    assert lines[2][5:] == ["12.0 (10.0-20.0)", "4.0", "vggnet", "71.59", "-", "-", "-"]


def test_the_page_by_hand(tmp_path, command):
    """Oracle: typed rows: the notes name torchvision and the test images; without options nothing is measured."""
    path = tmp_path / "rows.jsonl"
    rows = [{**row, "environment": {**row["environment"], **VERSIONS}} if "environment" in row else row for row in ROWS]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert command(comparison.main, rows=path) == 0
    text = path.with_name("README.md").read_text()
    assert "torchvision 9.9" in text
    assert "360 test images" in text
    assert path.with_name("figure.png").stat().st_size > 5_000


def test_what_is_there_is_not_measured_again(tmp_path, monkeypatch):
    """Oracle: the networks that are measured: those without a row of these versions and this hardware."""
    asked = []

    def compare_speed(names, *, progress, **job):
        asked.append(names)
        for name in names:
            yield comparison.NetworkSpeed(
                **{**{key: value for key, value in ROWS[0].items() if key != "kind"}, **job, "model": name,
                   "environment": {**ROWS[0]["environment"], "date": "today"}}
            )  # fmt: skip

    monkeypatch.setattr(comparison, "compare_speed", compare_speed)
    machine = {**ROWS[0]["environment"], "date": "tomorrow"}
    monkeypatch.setattr(comparison, "cpu_environment", lambda: machine)
    path = tmp_path / "rows.jsonl"
    assert len(comparison.measure_speed(["vgg16", "D"], rows=path)) == 1
    assert len(comparison.measure_speed(["resnet18", "vgg16"], rows=path)) == 2
    comparison.measure_speed(["vgg16"], rows=path)
    assert asked == [["vgg16"], ["resnet18"]]
    machine["threads"] = 99  # another machine
    comparison.measure_speed(["vgg16"], rows=path)
    assert asked[2:] == [["vgg16"]]


def test_others_are_enlarged_and_not_changed():
    """Oracle: PyTorch's own enlargement, then the network as torchvision builds it; a VGG stays as it is."""
    config = preset("fast").override(model="squeezenet1_1", width=0.05)
    network = comparison._trainable(config, 7).eval()
    images = torch.randn(2, 3, 32, 32)
    larger = F.interpolate(images, size=(64, 64), mode="bilinear")
    assert torch.equal(network(images), network.network(larger))
    assert network(images).shape == (2, network.num_classes) == (2, 7)
    vgg = comparison._trainable(preset("fast").override(model="vgg11_bn", width=0.05, init="glorot", seed=3), 7)
    torch.manual_seed(3)
    same = vggnet.create_model("vgg11_bn", num_classes=7, head="cifar", width=0.05, init="glorot")
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in vgg.state_dict().items())


def tiny(name, num_classes, width, head):
    """Instead of torchvision's networks: three layers, with batch norm."""
    layers = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def test_a_stopped_training_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Oracle: the run that nothing stopped, bit for bit; the row has its test, which a third call does not repeat."""
    monkeypatch.setattr(comparison, "build_network", tiny)

    def run(name, **options):
        folders = {"out": tmp_path / name, "rows": tmp_path / f"{name}.jsonl"}
        return comparison.measure_training("digits", ["resnet18"], epochs=2, batch_size=256, **folders, **options)

    whole = run("whole")
    real, calls = vggnet.training.learner.Learner.train_step, []

    def interrupted(learner, images, labels):
        calls.append(1)
        if len(calls) == 9:  # the third step of the second epoch
            signal_stop()
        return real(learner, images, labels)

    def signal_stop():
        import os
        import signal

        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(vggnet.training.learner.Learner, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    assert len(calls) == 9
    found = run("stopped")
    changing = ("seconds", "environment")
    assert [{k: v for k, v in row.items() if k not in changing} for row in found] == [
        {k: v for k, v in row.items() if k not in changing} for row in whole
    ]
    monkeypatch.setattr(comparison, "fit_or_resume", None)
    assert run("stopped") == found


def test_a_loss_that_is_no_number_is_a_row(tmp_path, monkeypatch, cells):
    """Oracle: a training that raises; the table counts it apart, and the others go on."""

    def fail(*arguments, **options):
        raise NonFiniteError("the loss became nan")

    monkeypatch.setattr(comparison, "build_network", tiny)
    monkeypatch.setattr(comparison, "fit_or_resume", fail)
    found = comparison.measure_training("digits", ["alexnet", "resnet50"], out=tmp_path, rows=tmp_path / "rows.jsonl")
    assert [(row["model"], row["top1"]) for row in found] == [("alexnet", None), ("resnet50", None)]
    table = cells(comparison.table([*ROWS, training_row("resnet50", 2, None)]))
    assert table[1][9:] == ["91.00 ± 1.41", "1.5", "2 and 1 diverged"]


def test_scores_need_the_same_classes(tmp_path):
    """Oracle: the contract."""
    digits = vggnet.data.sources.opening.open_source("digits", "train")
    other = vggnet.data.sources.opening.open_source("digits", "test")
    other.classes = ("zero", *other.classes[1:])
    with pytest.raises(DataError, match="other classes"):
        scores_on(comparison.Enlarged(tiny("", 10, 1, ""), 10), preset("fast"), digits, other)


@pytest.mark.parametrize("field", ["seeds", "epochs"])
def test_mistakes_are_named(tmp_path, field):
    """Oracle: the message names what was given."""
    with pytest.raises(ConfigError, match=f"{field} is 0"):
        comparison.measure_training("digits", ["vgg16"], out=tmp_path, rows=tmp_path / "rows.jsonl", **{field: 0})


@pytest.mark.parametrize("options", [{"train": True}, {"data": "digits"}])
def test_training_and_data_go_together(options, command, capsys, tmp_path):
    """Oracle: the contract."""
    assert command(comparison.main, rows=tmp_path / "rows.jsonl", **options) == 2
    assert "go together" in capsys.readouterr().err
