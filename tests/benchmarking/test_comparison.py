"""VGGs beside other networks: costs, speed, published accuracy, the command. No test asserts a time."""

import json

import pytest

from vggnet.benchmarking import comparison
from vggnet.benchmarking.comparison import PUBLISHED, NetworkSpeed, compare_speed, draw_comparison, published_accuracy
from vggnet.benchmarking.timing import Bench
from vggnet.cli import compare
from vggnet.cli.main import main
from vggnet.errors import ConfigError
from vggnet.report import latency_figure

pytestmark = pytest.mark.usefixtures("own_cache")
MACHINE = {"torchvision": "9.9", "cores": 2, "device": "a processor", "date": "2026-01-01"}


def speed_of(name, accuracy, ours, stock):
    return NetworkSpeed(
        model=name, size=64, batch=2, rounds=1, parameters=1_500_000, fully_connected=10, macs=2_345_000_000,
        file_bytes=6_100_000, activation_bytes=7_200_000, latency={"vggnet": ours, "PyTorch, NCHW": stock},
        throughput={"vggnet": [2.0], "PyTorch, NCHW": [0.5]}, accuracy=accuracy, environment=MACHINE,
    )  # fmt: skip


NETWORKS = [
    speed_of("vgg16", {PUBLISHED: 71.592}, [0.010, 0.012, 0.020], [0.030, 0.031, 0.032]),
    speed_of("resnet50", {PUBLISHED: 76.13, "IMAGENET1K_V2": 80.858}, [0.05] * 3, [0.02, 0.01, 0.03]),
    speed_of("vgg11_lrn", {}, [0.5], [0.4]),
]


def test_cells_by_hand():
    """Oracle: typed: medians and ranges of the fastest way, the best published accuracy in parentheses."""
    assert [network.fastest for network in NETWORKS] == ["vggnet", "PyTorch, NCHW", "PyTorch, NCHW"]
    assert compare.cells(NETWORKS[1]) == [
        "resnet50", "1.50", "2.345", "6.1", "7.2", "20.0 (10.0-30.0)", "4.0", "PyTorch, NCHW", "76.13 (80.86)"
    ]  # fmt: skip
    assert compare.cells(NETWORKS[0])[5:] == ["12.0 (10.0-20.0)", "4.0", "vggnet", "71.59"]
    assert compare.cells(NETWORKS[2])[8] is None


def test_figure_by_hand(monkeypatch, tmp_path):
    """Oracle: the rows: medians in ms, the published accuracy; a VGG has a hollow point by stock PyTorch as well."""
    drawn = []
    monkeypatch.setattr(latency_figure, "save_figure", lambda figure, path: drawn.append(figure))
    draw_comparison(NETWORKS, tmp_path / "figure.png")
    axes = drawn[0].axes[0]
    points = {(round(float(line.get_xdata()[0]), 6), float(line.get_ydata()[0])) for line in axes.lines}
    assert {(12.0, 71.592), (31.0, 71.592), (20.0, 76.13)} <= points
    assert [text.get_text() for text in axes.texts] == ["vgg16", "resnet50"]
    assert "2 cores of a processor" in drawn[0].get_suptitle()
    with pytest.raises(ConfigError, match="no network has a published accuracy"):
        draw_comparison(NETWORKS[2:], tmp_path / "figure.png")


def test_published_accuracy():
    """Oracle: torchvision's documentation, typed; what torchvision has no weights of has none."""
    assert published_accuracy("vgg16") == {PUBLISHED: pytest.approx(71.59, abs=0.005)}  # its features alone have none
    assert published_accuracy("vgg19_bn")[PUBLISHED] == pytest.approx(74.22, abs=0.005)
    assert published_accuracy("resnet50") == {PUBLISHED: pytest.approx(76.13), "IMAGENET1K_V2": pytest.approx(80.858)}
    assert published_accuracy("vgg11_lrn") == {}


def test_each_network_comes_as_soon_as_it_is_measured(monkeypatch):
    """Oracle: the measurements that were made by then; latency is of one image, throughput of a batch."""
    asked = []

    def measure(model, *, size, batch, rounds, peers, bfloat16):
        assert (size, rounds, peers, bfloat16) == (64, 3, False, False)
        asked.append((model, batch))
        return Bench(work="", batch=batch, seconds={"vggnet": [float(batch)]}, environment={})

    monkeypatch.setattr(comparison, "bench_infer", measure)
    networks = compare_speed(["D", "squeezenet1_1"], size=64, batch=5, rounds=3)
    first = next(networks)
    assert asked == [("vgg16", 1), ("vgg16", 5)]
    assert (first.model, first.latency, first.images_per_second) == ("vgg16", {"vggnet": [1.0]}, 1.0)
    assert first.parameters == 138_357_544
    assert next(networks).model == "squeezenet1_1"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments])
    return ended.value.code


def test_the_command(tmp_path, capsys):
    """Oracle: the ways that are promised, each once a round; the files are those that are named."""
    options = ["--models", "squeezenet1_1", "--size", "64", "--batch", "2", "--rounds", "2"]
    assert run(*options, "--json", "--figure", str(tmp_path / "figure.png")) == 0
    (network,) = json.loads(capsys.readouterr().out)["networks"]
    for measured in (network["latency"], network["throughput"]):
        assert set(measured) == {"vggnet", "PyTorch, NCHW", "PyTorch, channels-last"}
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in measured.values())
    assert (tmp_path / "figure.png").stat().st_size > 5_000
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["figure.png"]


def test_ctrl_c_shows_what_was_measured(monkeypatch, capsys):
    """Oracle: the network that was measured before; exit code 130."""

    def interrupted(*arguments, **options):
        yield NETWORKS[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "compare_speed", interrupted)
    assert run() == 130
    out = capsys.readouterr().out
    assert "vgg16" in out
    assert "torchvision 9.9" in out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_speed(["vgg12"]), "unknown model 'vgg12'.* Networks of torchvision"),
        (lambda: compare_speed([]), "no network"),
        (lambda: compare_speed(["vgg16"], rounds=0), "rounds is 0"),
        (lambda: compare_speed(["vgg16"], size=16), "size is 16"),
    ],
)
def test_mistakes_are_named(call, message):
    """Oracle: the message names what was given."""
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("options", [["--train", "--data", "digits"], ["--rows=mine.jsonl"]])
def test_where_training_went(options, capsys):
    """Oracle: the contract: exit code 2, and one line that names the new command."""
    assert run(*options) == 2
    assert "python -m experiments.comparison.run --train" in capsys.readouterr().err
