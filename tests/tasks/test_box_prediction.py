"""Boxes for any pictures: where they lie in the picture as it was given, what is said of them, that they are drawn."""

import json

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

import vggnet
from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError
from vggnet.evaluation.predict import predict
from vggnet.report import figures
from vggnet.tasks import box_prediction as finding
from vggnet.weights.checkpoint import save

CLASSES = ("cat", "dog", "elk")
MIDDLE = (0.5, 0.5, 0.5, 0.25)  # center, width, height in crops of 64 pixels: left 16, top 24, right 48, bottom 40


def network(boxes, bias, classes=CLASSES, crop=64):
    """One that says the same of every window."""
    model = vggnet.create_model("vgg11_bn", num_classes=len(classes), head="gap", width=0.05, boxes=boxes).eval()
    model.classes, model.preprocess = classes, Preprocess(resize=crop, crop=crop)
    with torch.no_grad():
        model.head.fc.weight.zero_()
        model.head.fc.bias.copy_(torch.tensor(bias))
    return model


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((64, 64), (16, 24, 48, 40)),
        ((32, 32), (8, 12, 24, 20)),
        # The whole picture is seen with 85 x 64 pixels, whose last map has 2 x 2 cells: one window, at the left.
        ((128, 96), (16 * 128 / 85, 36, 48 * 128 / 85, 60)),
    ],
)
def test_a_box_is_in_pixels_of_the_picture(size, box):
    """Oracle: by hand."""
    found = predict(network("shared", MIDDLE), Image.new("RGB", size))
    assert [(one.name, one.label, one.error) for one in found] == [("image 1", None, None)]
    assert found[0].box == pytest.approx(box)
    assert found[0].score == 1


def test_a_photo_is_turned_upright():
    """Oracle: by hand: a photo stored as 64 x 96 pixels with a quarter turn (EXIF orientation 6) is 96 x 64."""
    photo = Image.new("RGB", (64, 96))
    photo.getexif()[0x0112] = 6
    (one,) = predict(network("shared", (0.5, 0.5, 9, 9)), photo)
    assert one.box == pytest.approx((0, 0, 96, 64))


def test_a_box_is_cut_at_the_border():
    """Oracle: by hand."""
    (one,) = predict(network("shared", (0, 0.5, 0.5, 2)), Image.new("RGB", (64, 64)))
    assert one.box == pytest.approx((0, 0, 16, 64))


def test_without_a_classifier_the_box_that_most_agree_on():
    """Oracle: by hand: two of three classes say nearly the same, and the box is their mean."""
    bias = (0.25, 0.25, 0.4, 0.4, 0.7, 0.7, 0.5, 0.5, 0.7, 0.7, 0.5, 0.46)
    (one,) = predict(network("per_class", bias), Image.new("RGB", (64, 64)))
    assert one.box == pytest.approx((0.45 * 64, 0.46 * 64, 0.95 * 64, 0.94 * 64))
    assert one.score == pytest.approx(2 / 3)
    assert one.label is None


def test_of_very_many_classes_the_box_that_most_agree_on():
    """Oracle: by hand: the first 301 of 1000 classes say one box, the others another."""
    bias = (0.25, 0.25, 0.4, 0.4) * 301 + (0.7, 0.7, 0.5, 0.5) * 699
    (one,) = predict(network("per_class", bias, tuple(map(str, range(1000)))), Image.new("RGB", (64, 64)))
    assert one.box == pytest.approx((0.45 * 64, 0.45 * 64, 0.95 * 64, 0.95 * 64))
    assert one.score == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("kind", ["shared", "per_class"])
def test_a_classifier_names_the_class_and_chooses_its_box(kind):
    """Oracle: by hand: softmax of 0, 2, 1; the classes are in another order, and the box is that of the dog."""
    own = (0.25, 0.25, 0.4, 0.4, *MIDDLE, 0.7, 0.7, 0.5, 0.5) if kind == "per_class" else MIDDLE
    model, scorer = network(kind, own), network(None, (0.0, 2.0, 1.0), ("elk", "dog", "cat"))
    (one,) = predict(model, Image.new("RGB", (64, 64)), classifier=scorer)
    assert one.label == "dog"
    assert one.score == pytest.approx(np.exp(2) / (1 + np.exp(2) + np.exp(1)), rel=1e-4)
    assert one.box == pytest.approx((16, 24, 48, 40))


def test_the_box_of_the_window_that_shows_the_class():
    """Oracle: each window seen by itself: the classifier is surest of its class in one of three."""
    torch.manual_seed(0)
    scorer = network(None, (0.0, 0.0, 0.0))
    torch.nn.init.normal_(scorer.head.fc.weight)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8))
    (one,) = predict(network("shared", MIDDLE), photo, classifier=scorer)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    with torch.no_grad():
        cells = scorer.features(scorer.preprocess.normalize(pixels))
        logits = torch.cat([scorer.head(cells[..., place : place + 2]) for place in range(3)])
    label = int(logits.mean(0).argmax())
    left = 32 * int(logits.softmax(1)[:, label].argmax())  # boxes 32 pixels apart do not merge
    assert one.label == CLASSES[label]
    assert one.box == pytest.approx((left + 16, 24, left + 48, 40))


def test_what_cannot_predict():
    """Oracle: the contract."""
    picture, boxes = Image.new("RGB", (64, 64)), network("per_class", MIDDLE * 3)
    with pytest.raises(ConfigError, match="gives a box, of one class; leave out top"):
        predict(boxes, picture, top=5)
    with pytest.raises(ConfigError, match="gives boxes, not classes"):
        predict(boxes, picture, classifier=boxes)
    with pytest.raises(ConfigError, match="crops of different sizes"):
        predict(boxes, picture, classifier=network(None, (0.0, 0.0, 0.0), crop=96))
    with pytest.raises(ConfigError, match=r"1 classes, such as yak,.*no box.*cat, dog, elk"):
        predict(boxes, picture, classifier=network(None, (0.0, 0.0, 0.0), ("cat", "dog", "yak")))


@pytest.fixture
def pictures(tmp_path):
    """Two pictures and a file that is none, the second."""
    files = [tmp_path / f"{name}.png" for name in ("a", "b", "c")]
    Image.new("RGB", (32, 32)).save(files[0])
    files[1].write_text("no picture")
    Image.new("RGB", (1280, 640)).save(files[2])
    return files


def vgg(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err.strip().splitlines()


def test_the_command_says_and_draws(pictures, tmp_path, capsys, own_cache, monkeypatch):
    """Oracle: by hand, and the figure's own rectangles: a picture of 1280 pixels is drawn with 400."""
    monkeypatch.chdir(tmp_path)
    save(network("shared", MIDDLE), tmp_path / "boxes.safetensors")
    save(network(None, (0.0, 2.0, 1.0)), tmp_path / "classes.safetensors")
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append((figure, path)))
    given = ["predict", "boxes.safetensors", *pictures]
    code, out, lines = vgg(capsys, *given, "--classifier", "classes.safetensors", "--json", "--out", "d/e.png")
    assert code == 2
    assert lines[0] == "drawn: d/e.png, 2 of 3 pictures"
    assert lines[1].startswith(f"vgg: {pictures[1]}: ")
    found = json.loads(out)
    assert [set(one) for one in found] == [{"name", "box", "label", "score", "error"}] * 3
    assert found[0]["box"] == pytest.approx([8, 12, 24, 20])
    assert found[0]["label"] == "dog"
    assert found[1]["box"] is None
    assert found[2]["box"][1::2] == pytest.approx([240, 400])
    figure, path = drawn[0]
    assert str(path) == "d/e.png"
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a.png\ndog  66.52 %", "c.png\ndog  66.52 %"]
    frames = [patch for axes in figure.axes for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frames[0].get_bbox().bounds == pytest.approx((7.5, 11.5, 16, 8))
    assert frames[1].get_bbox().height == pytest.approx(160 * 400 / 1280)
    code, out, lines = vgg(capsys, *given[:3])
    assert (code, lines) == (0, ["drawn: boxes.png, 1 of 1 pictures"])
    assert out == f"{pictures[0]}\n  object  100.00 %  left 8.0, top 12.0, right 24.0, bottom 20.0\n"


def test_the_picture_shows_the_box(pictures, tmp_path):
    """Oracle: the file: a black picture gets a frame in orange."""
    found = predict(network("shared", MIDDLE), pictures[:1])
    assert finding.draw_found(pictures[:1], found, tmp_path / "boxes.png") == 1
    with Image.open(tmp_path / "boxes.png") as image:
        colors = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (np.abs(colors.astype(int) - (0xD9, 0x73, 0x0D)).sum(1) < 12).sum() > 100


def test_options_without_a_meaning(pictures, tmp_path, capsys, own_cache, monkeypatch):
    """Oracle: one line that names the option; nothing is drawn."""
    monkeypatch.chdir(tmp_path)
    save(network("shared", MIDDLE), tmp_path / "boxes.safetensors")
    save(network(None, (0.0, 2.0, 1.0)), tmp_path / "classes.safetensors")
    for model, option, named in (
        ("boxes", ["--top", "3"], "--top"),
        ("boxes", ["--out", "a.jpg"], ".png"),
        ("classes", ["--out", "a.png"], ".parquet"),
        ("classes", ["--classifier", "classes.safetensors"], "--classifier"),
    ):
        code, out, lines = vgg(capsys, "predict", f"{model}.safetensors", pictures[0], *option)
        assert (code, out, len(lines)) == (2, "", 1)
        assert named in lines[0]
    assert not (tmp_path / "boxes.png").exists()
