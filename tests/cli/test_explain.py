"""`vgg explain`: each way of asking, and the mistakes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vggnet
from vggnet.cli.explain import Class
from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.interpret.explanation import METHODS
from vggnet.models.vgg import build
from vggnet.report import explanation_figures
from vggnet.weights.checkpoint import save


@pytest.fixture
def run(tmp_path):
    """A run folder, and a folder of pictures."""
    torch.manual_seed(0)
    model = build("vgg11_bn", num_classes=2, head="gap", width=0.05)
    preprocess = Preprocess(resize=36, crop=32)
    save(model, tmp_path / "run" / "weights.safetensors", classes=["cat", "dog"], preprocess=preprocess)
    for number in range(4):
        path = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path


@pytest.fixture
def vgg(capsys, run, monkeypatch):
    """The command in the folder of the run: exit code, stdout, lines of stderr."""
    monkeypatch.setenv("VGGNET_CACHE", str(run / "cache"))
    monkeypatch.setenv("VGGNET_CONV", "direct")
    monkeypatch.chdir(run)

    def command(line):
        with pytest.raises(SystemExit) as ended:
            main(["explain", *line.split()])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err.strip().splitlines()

    return command


def facts_of(answer, figure):
    """What was printed as JSON; the figure is there and is a whole picture."""
    code, out, lines = answer
    assert code == 0
    assert lines[-1] == f"drawn: {figure}"
    with Image.open(figure) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 100
    facts = json.loads(out)
    assert facts.pop("figure") == figure
    return facts


@pytest.mark.parametrize("word", ["", "class "])
def test_why_a_class(vgg, word):
    """Oracle: the logits of the network itself for the image, and for the mean color, from which the logit rises."""
    command = f"{word}run photos/cat/1.png --class dog --steps 32 --window 8 --json"
    facts = facts_of(vgg(command), "explanation.png")
    assert (facts["class"], facts["index"]) == ("dog", 1)
    network = vggnet.load("run")
    image = network.preprocess(Image.open("photos/cat/1.png")).unsqueeze(0)
    with torch.no_grad():
        logits, mean_color = network(image)[0], network(torch.zeros_like(image))[0]
    assert facts["logit"] == pytest.approx(logits[1].item(), abs=1e-5)
    assert facts["probability"] == pytest.approx(logits.softmax(0)[1].item(), abs=1e-6)
    assert facts["predicted"] == ("cat", "dog")[logits.argmax()]
    integrated = facts["methods"]["integrated-gradients"]
    assert integrated["rise"] == pytest.approx((logits - mean_color)[1].item(), abs=1e-5)
    assert integrated["sum"] == pytest.approx(integrated["rise"], abs=0.05 * abs(integrated["rise"]) + 1e-3)
    assert integrated["delta"] == pytest.approx(integrated["sum"] - integrated["rise"], abs=1e-9)
    assert list(facts["methods"]) == list(METHODS)


def test_some_methods_for_people(vgg):
    """Oracle: a line for the class and one for each method."""
    code, out, lines = vgg("run photos/cat/1.png --methods gradcam occlusion --layer relu2_1 -o why.png")
    assert (code, lines) == (0, ["drawn: why.png"])
    first, gradcam, occlusion = out.splitlines()
    assert first.startswith("photos/cat/1.png: ")
    assert gradcam.split() == ["gradcam", "relu2_1"]
    assert occlusion.split()[:2] == ["occlusion", "4"]


def test_the_methods_are_those_of_the_library():
    """Oracle: the library's list."""
    assert Class.__dataclass_fields__["methods"].default == METHODS


def test_maps(vgg):
    """Oracle: the network's layers up to relu2_1: their shape, and the three channels with the largest values."""
    facts = facts_of(vgg("maps run photos/cat/1.png --layer relu2_1 --top 3 --json"), "maps.png")
    network = vggnet.load("run")
    values = network.preprocess(Image.open("photos/cat/1.png")).unsqueeze(0)
    with torch.no_grad():
        for name, layer in network.features.named_children():
            values = layer(values)
            if name == "relu2_1":
                break
    assert facts["shape"] == list(values.shape[1:]) == [6, 16, 16]
    assert facts["shown"] == sorted(values[0].amax((1, 2)).topk(3).indices.tolist())


def test_filters(vgg, monkeypatch):
    """Oracle: the first layer's weights, read from the file by safetensors."""
    drawn = []
    original = explanation_figures.draw_filters
    monkeypatch.setattr(explanation_figures, "draw_filters", lambda *a: drawn.append(a[0]) or original(*a))
    assert facts_of(vgg("filters run --json"), "filters.png") == {"layer": "conv1_1", "shape": [3, 3, 3, 3]}
    expected = load_file("run/weights.safetensors")["features.conv1_1.weight"]
    assert np.array_equal(drawn[0], expected.numpy())


def test_top_activations(vgg):
    """Oracle: the network's layers on each image by itself: the two largest values at any place."""
    command = "top-activations run --channels relu1_1:0 pool3:2 --data photos --split all --top 2"
    channels = facts_of(vgg(f"{command} --json"), "top-activations.png")["channels"]
    network = vggnet.load("run")
    activations = {"relu1_1:0": {}, "pool3:2": {}}
    for path in sorted(Path("photos").rglob("*.png")):
        values = network.preprocess(Image.open(path)).unsqueeze(0)
        with torch.no_grad():
            for name, layer in network.features.named_children():
                values = layer(values)
                for channel, of_images in activations.items():
                    if channel.startswith(f"{name}:"):
                        of_images[str(path)] = values[0, int(channel[-1])].max().item()
    assert list(channels) == list(activations)
    for channel, images in channels.items():
        best = sorted(activations[channel].items(), key=lambda item: -item[1])[:2]
        assert [one["image"] for one in images] == [path for path, _ in best]
        assert [one["activation"] for one in images] == pytest.approx([value for _, value in best], rel=1e-4)
    code, out, _ = vgg(command)
    assert code == 0
    assert len(out.splitlines()) == 6


def test_visualize(vgg):
    """Oracle: the activation rises."""
    facts = facts_of(vgg("visualize run --channels conv2_1:3 conv1_1:0 --steps 20 --json"), "visualization.png")
    assert [one["channel"] for one in facts["channels"]] == ["conv2_1:3", "conv1_1:0"]
    assert all(one["after"] > one["before"] for one in facts["channels"])
    code, out, _ = vgg("visualize run --channels conv2_1:3 --steps 2")
    assert code == 0
    assert out.startswith("conv2_1:3: mean activation ")


def test_the_names_of_version_0_1(vgg):
    """Oracle: the new name on stderr, and the same result."""
    code, out, lines = vgg("maximize run --channels conv2_1:3 --steps 2")
    assert (code, lines[0]) == (0, "vgg explain maximize is now vgg explain visualize")
    assert out == vgg("visualize run --channels conv2_1:3 --steps 2")[1]


def test_without_the_package_that_draws(vgg, monkeypatch):
    """Oracle: the command that installs it, in one line, before any work."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, lines = vgg("nowhere photos/cat/1.png")
    assert (code, out) == (2, "")
    assert lines == ["vgg: matplotlib is not installed; pip install 'vggnet[explain]'"]


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("", "See vgg explain --help"),
        ("run", "IMAGE"),
        ("run broken.png", "broken.png"),
        ("run missing.png", "missing.png"),
        ("nowhere photos/cat/1.png", "nowhere"),
        ("run photos/cat/1.png --class bird", "cat, dog"),
        ("run photos/cat/1.png --layer relu7_1", "relu5_2"),
        ("run photos/cat/1.png --methods lime", "gradcam"),
        ("run photos/cat/1.png --out why.jpg", ".png"),
        ("features.safetensors photos/cat/1.png", "no head"),
        ("maps run photos/cat/1.png --layer fc6", "pool5"),
        ("top-activations run --channels relu1_1:99 --data photos", "0 to 2"),
        ("top-activations run --channels relu1_1:0 --data nothing", "nothing"),
        ("visualize run --channels relu1_1", "relu1_1:17"),
        ("visualize run --channels conv2_1:0 --steps 0", "steps"),
    ],
)
def test_mistakes_are_one_line(vgg, run, command, named):
    """Oracle: exit code 2, one line that says what there is, and no figure."""
    (run / "broken.png").write_bytes(b"\x89PNG no more")
    save(build("vgg11", head="none", width=0.05), run / "features.safetensors", preprocess=Preprocess(crop=32))
    code, out, lines = vgg(command)
    assert (code, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith("vgg: ")
    assert named in lines[0]
    assert not list(run.glob("*.png")) or [path.name for path in run.glob("*.png")] == ["broken.png"]


def test_several_pictures_and_all_methods(vgg):
    """Oracle: the files, and a line for each picture and method."""
    methods = "layercam scorecam guided-backpropagation"
    code, out, lines = vgg(f"run photos/cat/1.png photos/dog/2.png --methods {methods} -o why.png")
    assert (code, lines[-1]) == (0, "drawn: why-1.png, why-2.png")
    for figure in ("why-1.png", "why-2.png"):
        with Image.open(figure) as image:
            image.load()
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == 2 * methods.split()
    code, out, _ = vgg("run photos/cat/1.png photos/dog/2.png --methods gradcam --json")
    facts = json.loads(out)
    assert facts["figures"] == ["explanation-1.png", "explanation-2.png"]
    assert [one["image"] for one in facts["images"]] == ["photos/cat/1.png", "photos/dog/2.png"]
