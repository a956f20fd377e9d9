"""VGGs beside other networks: rows, table, training by one budget, the command. No test asserts a time."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vggnet
from vggnet.cli.main import main
from vggnet.errors import ConfigError, DataError, NonFiniteError
from vggnet.report import study_figures as comparing
from vggnet.studies import compare
from vggnet.studies.compare import Comparison, Enlarged, compare_speed, compare_training
from vggnet.studies.fitting import scores_on
from vggnet.training.config import TrainConfig

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
    config = TrainConfig(model=name, seed=seed, epochs=epochs).as_dict()
    return {"kind": "training", "model": name, "seed": seed, "top1": top1, "images": 360, "seconds": 90.0,
            "config": config}  # fmt: skip


ROWS = [
    speed_row("vgg16", {"IMAGENET1K_V1": 71.592}, [0.010, 0.012, 0.020], [0.030, 0.031, 0.032]),
    speed_row("resnet50", {"IMAGENET1K_V1": 76.13, "IMAGENET1K_V2": 80.858}, [0.05] * 3, [0.02, 0.01, 0.03]),
    speed_row("vgg11_lrn", {}, [0.5], [0.4]),
    training_row("resnet50", 0, 0.7, epochs=1),
    training_row("resnet50", 0, 0.9),
    training_row("resnet50", 1, 0.92),
]
ROWS[0] = {**ROWS[0], "environment": {**ROWS[0]["environment"], "date": "2025-01-01"}}  # an older day alone
ELSEWHERE = [{**ROWS[0], "model": "vgg13", "size": 32}, {**ROWS[0], "environment": {"device": "another", "date": ""}}]


def test_table_by_hand():
    """Oracle: typed: medians, ranges; only what was measured and trained as the newest."""
    lines = Comparison(rows=[*ELSEWHERE, *ROWS], finished=True).as_table().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["resnet50", "vgg16", "vgg11_lrn"]
    assert lines[5] == ""
    assert lines[2] == (
        "| resnet50 | 1.50 | 2.345 | 6.1 | 7.2 | 20.0 (10.0-30.0) | 4.0 | PyTorch, NCHW | 76.13 (80.86) "
        "| 91.00 ± 1.41 | 1.5 | 2 |"
    )
    assert "| 12.0 (10.0-20.0) | 4.0 | vggnet | 71.59 | - | - | - |" in lines[3]
    assert "| PyTorch, NCHW | - | - | - | - |" in lines[4]
    notes = "\n".join(lines[6:])
    assert "torchvision 9.9" in notes
    assert "360 test images" in notes


def test_picture_by_hand(monkeypatch, tmp_path):
    """Oracle: the rows: medians in ms, the published accuracy; a VGG has a hollow point by stock PyTorch as well."""
    drawn = []
    monkeypatch.setattr(comparing, "save_figure", lambda figure, path: drawn.append(figure))
    compare.draw_comparison(ROWS, tmp_path / "figure.png")
    axes = drawn[0].axes[0]
    points = {(round(float(line.get_xdata()[0]), 6), float(line.get_ydata()[0])) for line in axes.lines}
    assert {(12.0, 71.592), (31.0, 71.592), (20.0, 76.13)} <= points
    assert [text.get_text() for text in axes.texts] == ["vgg16", "resnet50"]
    assert "2 cores of a processor" in drawn[0].get_suptitle()


def test_the_command_measures_once(tmp_path, capsys, monkeypatch):
    """Oracle: the ways that are promised, each once a round; a second call, which measures nothing."""
    options = ["--models", "squeezenet1_1", "--size", "64", "--batch", "2", "--rounds", "2", "--json"]
    options += ["--rows", str(tmp_path / "rows.jsonl"), "--figure", str(tmp_path / "figure.png")]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *options])
    assert ended.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row == json.loads((tmp_path / "rows.jsonl").read_text())
    for measured in (row["latency"], row["throughput"]):
        assert set(measured) == {"vggnet", "PyTorch, NCHW", "PyTorch, channels-last"}
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in measured.values())
    assert (tmp_path / "figure.png").stat().st_size > 5_000
    monkeypatch.setattr(compare, "bench_infer", None)
    again = {"size": 64, "batch": 2, "rounds": 2, "rows": tmp_path / "rows.jsonl"}
    assert compare_speed(["squeezenet1_1"], **again).rows == [row]
    monkeypatch.setattr(compare, "cpu_environment", lambda: {**row["environment"], "threads": 99, "date": "tomorrow"})
    with pytest.raises(TypeError):  # another machine's would be measured
        compare_speed(["squeezenet1_1"], **again)


def test_others_are_enlarged_and_not_changed():
    """Oracle: PyTorch's own enlargement, then the network as torchvision builds it; a VGG stays as it is."""
    config = TrainConfig(model="squeezenet1_1", width=0.05)
    network = compare._trainable(config, 7).eval()
    images = torch.randn(2, 3, 32, 32)
    larger = F.interpolate(images, size=(64, 64), mode="bilinear")
    assert torch.equal(network(images), network.network(larger))
    assert network(images).shape == (2, network.num_classes) == (2, 7)
    vgg = compare._trainable(TrainConfig(model="vgg11_bn", width=0.05, init="glorot", seed=3), 7)
    torch.manual_seed(3)
    same = vggnet.build("vgg11_bn", num_classes=7, head="cifar", width=0.05, init="glorot")
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in vgg.state_dict().items())


def tiny(name, num_classes, width, head):
    """Instead of torchvision's networks: three layers, with batch norm."""
    layers = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def test_a_stopped_training_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Oracle: the run that nothing stopped, bit for bit; the row has its test, which a third call does not repeat."""
    monkeypatch.setattr(compare, "build_network", tiny)

    def run(name, **options):
        folders = {"out": tmp_path / name, "rows": tmp_path / f"{name}.jsonl"}
        return compare_training("digits", ["resnet18"], epochs=2, batch_size=256, **folders, **options)

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
        assert run("stopped") == Comparison(rows=[], finished=False)
    assert len(calls) == 9
    found = run("stopped")
    assert found.finished
    changing = ("seconds", "environment")
    assert [{k: v for k, v in row.items() if k not in changing} for row in found.rows] == [
        {k: v for k, v in row.items() if k not in changing} for row in whole.rows
    ]
    monkeypatch.setattr(compare, "fit_or_resume", None)
    assert run("stopped").rows == found.rows


def test_a_loss_that_is_no_number_is_a_row(tmp_path, monkeypatch):
    """Oracle: a training that raises; the table counts it apart, and the others go on."""

    def fail(*arguments, **options):
        raise NonFiniteError("the loss became nan")

    monkeypatch.setattr(compare, "build_network", tiny)
    monkeypatch.setattr(compare, "fit_or_resume", fail)
    found = compare_training("digits", ["alexnet", "resnet50"], out=tmp_path, rows=tmp_path / "rows.jsonl")
    assert [(row["model"], row["top1"]) for row in found.rows] == [("alexnet", None), ("resnet50", None)]
    table = Comparison(rows=[*ROWS, training_row("resnet50", 2, None)], finished=True).as_table()
    assert "| 91.00 ± 1.41 | 1.5 | 2 and 1 diverged |" in table


def test_scores_need_the_same_classes(tmp_path):
    """Oracle: the contract."""
    digits = vggnet.data.sources.opening.open_source("digits", "train")
    other = vggnet.data.sources.opening.open_source("digits", "test")
    other.classes = ("zero", *other.classes[1:])
    with pytest.raises(DataError, match="other classes"):
        scores_on(Enlarged(tiny("", 10, 1, ""), 10), TrainConfig(), digits, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_speed(["vgg12"]), "unknown model 'vgg12'.* Networks of torchvision"),
        (lambda: compare_speed([]), "no network"),
        (lambda: compare_speed(["vgg16"], rounds=0), "rounds is 0"),
        (lambda: compare_speed(["vgg16"], size=16), "size is 16"),
        (lambda: compare_training("digits", ["vgg16"], seeds=0), "seeds is 0"),
        (lambda: compare_training("digits", ["vgg16"], epochs=0), "epochs is 0"),
    ],
)
def test_mistakes_are_named(call, message):
    """Oracle: the message names what was given."""
    with pytest.raises(ConfigError, match=message):
        call()


def test_training_and_data_go_together():
    """Oracle: the contract."""
    from vggnet.cli.compare import main as command

    for options in (["--train"], ["--data", "digits"]):
        with pytest.raises(ConfigError, match="go together"):
            command(options)
