"""Tests of networks that give boxes: windows looked at one by one, boxes placed by hand."""

import json
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

import vggnet
from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, StorageError
from vggnet.evaluation import evaluate
from vggnet.report.evaluation_text import localization_text
from vggnet.tasks.box_evaluation import evaluate_boxes
from vggnet.tasks.box_geometry import merge
from vggnet.tasks.task import EvaluationJob
from vggnet.training.config import TrainConfig
from vggnet.weights.checkpoint import OpenModel, save

CLASSES = ("cat", "dog", "elk")
# Width, height and box of each photo, two of each class in the order in which they are read.
PHOTOS = [
    (96, 64, (10, 10, 60, 60)), (64, 64, (0, 0, 64, 64)), (130, 97, (60, 20, 130, 90)),
    (64, 128, (8, 70, 60, 120)), (64, 64, (30, 30, 60, 62)), (100, 100, (20, 20, 90, 80)),
]  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for number, (width, height, (left, top, right, bottom)) in enumerate(PHOTOS):
        file = tmp_path / "photos" / "test" / CLASSES[number // 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
        bounds = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, right, bottom), strict=True)
        box = "".join(f"<{name}>{value}</{name}>" for name, value in bounds)
        file.with_suffix(".xml").write_text(f"<annotation><object><bndbox>{box}</bndbox></object></annotation>")
    return tmp_path / "photos"


def network(boxes, seed=0, classes=CLASSES, head="gap"):
    """Boxes of about half the crop, in its middle."""
    torch.manual_seed(seed)
    model = vggnet.create_model("vgg11_bn", num_classes=3, head=head, width=0.1, boxes=boxes).eval()
    model.classes, model.preprocess = classes, Preprocess(resize=64, crop=64)
    last = model.head.fc if head == "gap" else model.head.fc8
    with torch.no_grad():
        if boxes:
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor([0.5, 0.5, 0.6, 0.6]).repeat(len(last.bias) // 4))
    return model


def windows(model, image, scale, mirrored=False):
    """For each window of 2x2 cells: its place (left, top) in pixels, and what the head says of it alone."""
    pixels = tv.pil_to_tensor(tv.resize(image, [scale])).float() / 255
    pixels = pixels[:, :, torch.arange(pixels.shape[2] - 1, -1, -1)] if mirrored else pixels
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.preprocess.mean, model.preprocess.std))
    with torch.no_grad():
        features = model.features(((pixels - mean) / std)[None])
        for top in range(features.shape[2] - 1):
            for left in range(features.shape[3] - 1):
                outputs = model.head(features[:, :, top : top + 2, left : left + 2])[0]
                yield 32 * left, 32 * top, outputs.double().numpy()


def by_hand(models, scorer, scales, flip):
    """The box for each photo's class, and the mean softmax of the classifier; photos as in PHOTOS."""
    random, boxes, answers = np.random.default_rng(0), [], []
    for number, (width, height, _) in enumerate(PHOTOS):
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        label, found, scores, of_scales = number // 2, [], [], []
        for scale, mirrored in product(scales, (False, True) if flip else (False,)):
            resized = tv.resize(image, [scale]).size
            factor = np.array(resized) / (width, height)
            classes = [logits for _, _, logits in windows(scorer, image, scale, mirrored)] if scorer else None
            if classes is not None:
                mean = np.exp(np.mean(classes, 0))
                of_scales.append(mean / mean.sum())
            for model in models:
                for place, (left, top, outputs) in enumerate(windows(model, image, scale, mirrored)):
                    own = model.classes.index(CLASSES[label]) if len(outputs) > 4 else 0
                    x, y, w, h = outputs[4 * own : 4 * own + 4] * 64
                    middle = resized[0] - left - x if mirrored else left + x
                    corners = np.array([[middle - w / 2, top + y - h / 2], [middle + w / 2, top + y + h / 2]])
                    found.append((corners / factor).ravel())
                    if classes is None:
                        scores.append(1.0)
                    else:
                        softmax = np.exp(classes[place]) / np.exp(classes[place]).sum()
                        scores.append(softmax[scorer.classes.index(CLASSES[label])])
        left, top, right, bottom = merge(np.array(found), np.array(scores))[0][0]
        boxes.append((max(left, 0), max(top, 0), min(right, width), min(bottom, height)))
        answers.append(np.mean(of_scales, 0) if of_scales else None)
    return boxes, answers


def overlaps(boxes):
    """Intersection over union with the true boxes, in plain numbers."""
    for (left, top, right, bottom), (_, _, (a, b, c, d)) in zip(boxes, PHOTOS, strict=True):
        common = max(0, min(right, c) - max(left, a)) * max(0, min(bottom, d) - max(top, b))
        yield common / ((right - left) * (bottom - top) + (c - a) * (d - b) - common)


@pytest.mark.parametrize(("head", "scales", "flip", "with_classes"), [
    *(("gap", scales, flip, with_classes)
      for scales, flip in (((), False), ((64, 100), False), ((64, 100), True)) for with_classes in (False, True)),
    ("paper", (), False, True),
    ("paper", (64, 100), True, False),
])  # fmt: skip
def test_boxes_of_all_windows_are_merged(photos, head, scales, flip, with_classes):
    """Oracle: each window by itself, placed by hand; networks of both kinds, one with its classes in another order."""
    models = [network("shared", 0, head=head), network("per_class", 1, ("elk", "cat", "dog"), head)]
    scorer = network(None, 2, ("dog", "elk", "cat"), head) if with_classes else None
    result = vggnet.evaluate(models, data=photos, classifier=scorer, scales=scales, flip=flip, workers=0)
    boxes, answers = by_hand(models, scorer, scales or (64,), flip)
    expected = np.array(list(overlaps(boxes)))
    assert result.mean_overlap == pytest.approx(expected.mean(), abs=1e-4)
    assert result.error_class_given == pytest.approx((expected <= 0.5).mean())
    assert 0 < result.mean_overlap < 1
    whole = [(right - left) * (bottom - top) / (w * h) for w, h, (left, top, right, bottom) in PHOTOS]
    assert result.error_whole_image == pytest.approx(np.mean(np.array(whole) <= 0.5))
    assert result.error_constant_box is None
    if scorer is None:
        assert result.error_top1 is result.error_top5 is None
    else:
        first = np.array([scorer.classes[answer.argmax()] == CLASSES[i // 2] for i, answer in enumerate(answers)])
        assert result.error_top1 == pytest.approx(1 - (first & (expected > 0.5)).mean())
        assert result.error_top5 == pytest.approx(result.error_class_given)  # there are three classes


def job(photos, *models, classifier=None, **options):
    """An evaluation of networks in memory."""
    opened, scorer = [OpenModel(model, torch.device("cpu")) for model in models], None
    if classifier is not None:
        scorer = OpenModel(classifier, torch.device("cpu"))
    return EvaluationJob(
        networks=opened, source=open_source(photos, "test"), classifier=scorer,
        **{
            "model": "mine", "data": photos, "split": "test", "protocol": "single", "scales": (), "flip": False,
            "six_views": False, "classifier_name": None, "batch_size": None, "workers": 0, "progress": False, **options,
        },
    )  # fmt: skip


@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_the_table_of_all_images(photos, flip, with_classes):
    """Oracle: each window by itself, placed by hand; where the photos lie; progress counted by hand."""
    models, counts = [network("per_class", 1, ("elk", "cat", "dog")), network("shared")], []
    scorer = network(None, 2, ("dog", "elk", "cat")) if with_classes else None
    given = job(photos, *models, classifier=scorer, flip=flip, scales=(64, 100), progress=lambda *n: counts.append(n))
    evaluated = evaluate_boxes(given)
    columns, result = evaluated.columns(), evaluated.result
    boxes, answers = by_hand(models, scorer, (64, 100), flip)
    assert list(columns) == ["image", "true", "left", "top", "right", "bottom", "overlap", "correct"]
    assert columns["image"] == [str(photos / "test" / CLASSES[i // 2] / f"{i}.png") for i in range(6)]
    assert columns["true"] == [CLASSES[i // 2] for i in range(6)]
    found = [columns[name] for name in ("left", "top", "right", "bottom")]
    np.testing.assert_allclose(np.array(found).T, boxes, rtol=1e-3, atol=1e-2)
    expected = list(overlaps(boxes))
    assert columns["overlap"] == pytest.approx(expected, abs=1e-3)
    assert columns["correct"] == [overlap > 0.5 for overlap in expected]
    assert (result.images, result.scales, result.flip, result.data) == (6, (64, 100), flip, str(photos))
    assert result.mean_overlap == pytest.approx(np.mean(expected), abs=1e-4)
    assert result.error_class_given == pytest.approx(1 - np.mean(columns["correct"]))
    if with_classes:
        first = [scorer.classes[answer.argmax()] for answer in answers]
        right = [name == CLASSES[i // 2] and columns["correct"][i] for i, name in enumerate(first)]
        assert result.error_top1 == pytest.approx(1 - np.mean(right))
    assert counts[-1] == (12, 12)
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)
    assert {total for _, total in counts} == {12}


def test_photos_that_cannot_be_read_are_left_out(photos, tmp_path, capsys, own_cache):
    """Oracle: the same photos without those files; both are named and counted. By default one line, as before."""
    shutil.copytree(photos / "test", photos / "train")
    shutil.copytree(photos, tmp_path / "whole")
    for file in ("test/cat/1.png", "test/elk/4.png", "train/dog/2.png"):
        (photos / file).write_bytes((photos / file).read_bytes()[:200])
        for name in (file, file.replace(".png", ".xml")):
            (tmp_path / "whole" / name).unlink()
    models, options = [network("per_class"), network("shared", 1)], {"workers": 0, "scales": (64, 80), "flip": True}
    expected = vggnet.evaluate(
        models, tmp_path / "whole", classifier=network(None), **options, table=tmp_path / "whole.csv"
    )
    found = vggnet.evaluate(
        models, photos, classifier=network(None), **options, on_error="return", table=tmp_path / "found.csv"
    )
    same = ("error_class_given", "error_top1", "error_top5", "mean_overlap", "error_whole_image", "error_constant_box")
    assert [getattr(found, name) for name in same] == pytest.approx([getattr(expected, name) for name in same])
    assert found.error_constant_box is not None
    assert (found.images, expected.images, list(found.unreadable), expected.unreadable) == (4, 4, [1, 4], {})
    assert str(photos / "test" / "cat" / "1.png") in found.unreadable[1]
    rows = [
        (tmp_path / f"{name}.csv").read_text().replace(str(tmp_path / "whole"), str(photos))
        for name in ("found", "whole")
    ]
    assert rows[0] == rows[1]
    save(models[0], tmp_path / "boxes.safetensors")
    given = ["test", tmp_path / "boxes.safetensors", "--data", photos, "--workers", "0"]
    code, out, lines = vgg(capsys, *given)
    assert (code, out, len(lines)) == (2, "", 1)
    code, out, lines = vgg(capsys, *given, "--on-bad-image", "skip", "--json")
    assert (code, json.loads(out)["images"], len(json.loads(out)["unreadable"])) == (0, 4, 2)
    assert lines[-1] == "vgg: left out 2 images that cannot be read"
    for file in (photos / "test").rglob("*.png"):
        file.write_bytes(b"")
    code, out, lines = vgg(capsys, *given, "--on-bad-image", "skip")
    assert (code, out, len(lines)) == (2, "", 1)
    assert "none of the 6 images can be read" in lines[0]


@pytest.mark.parametrize(("cat", "elk"), [(0, 4), (4, 5), (5, 0), (1, 3)])
def test_the_class_counts_up_to_the_fifth(photos, cat, elk):
    """Oracle: by hand: a classifier whose places of cat and elk among six classes are given, whatever it sees."""
    scorer = vggnet.create_model("vgg11_bn", num_classes=6, head="gap", width=0.1).eval()
    scorer.classes, scorer.preprocess = ("cat", "elk", "dog", "a", "b", "c"), Preprocess(resize=64, crop=64)
    others = [place for place in range(6) if place not in (cat, elk)]
    with torch.no_grad():
        scorer.head.fc.weight.zero_()
        scorer.head.fc.bias.copy_(-torch.tensor([cat, elk, others[3], *others[:3]]))
    evaluated = evaluate_boxes(job(photos, network("shared"), classifier=scorer, classifier_name="six", flip=True))
    cats, dogs, elks = np.array(evaluated.columns()["correct"]).reshape(3, 2).sum(1)
    assert (cats > 0, dogs, elks > 0) == (True, 0, True)
    assert evaluated.result.error_top1 == pytest.approx(1 - (cats * (cat == 0) + elks * (elk == 0)) / 6)
    assert evaluated.result.error_top5 == pytest.approx(1 - (cats * (cat < 5) + elks * (elk < 5)) / 6)
    assert evaluated.result.classifier == "six"


def test_the_pixels_of_a_batch(photos):
    """Oracle: what the first layer is given: photos of one size together, up to as many pixels as crops in a batch."""
    for batch_size, most in ((None, 10**9), (1, 64 * 64), (2, 2 * 64 * 64)):
        boxes, seen = network("shared"), []
        boxes.features[0].register_forward_pre_hook(
            lambda layer, given, seen=seen: seen.append(given[0].shape[0] * given[0].shape[2:].numel())
        )
        evaluate_boxes(job(photos, boxes, batch_size=batch_size))
        smallest = 64 * 64  # one image may have more
        assert max(seen) <= max(most, 64 * 128)
        assert min(seen) >= smallest


def test_what_cannot_be_localized(photos):
    """Oracle: the contract."""
    boxes, classes = network("shared"), network(None)
    with pytest.raises(ConfigError, match="gives classes; classifier .--classifier. is for models that give boxes"):
        vggnet.evaluate(classes, data=photos, classifier=classes, workers=0)
    with pytest.raises(ConfigError, match="different tasks: classify, localize"):
        vggnet.evaluate([boxes, classes], data=photos, workers=0)
    with pytest.raises(ConfigError, match="gives boxes, not classes"):
        vggnet.evaluate(boxes, data=photos, classifier=boxes, workers=0)
    with pytest.raises(ConfigError, match=r"gives boxes.*leave out protocol and views"):
        vggnet.evaluate(boxes, data=photos, views=6, workers=0)
    other = network(None)
    other.preprocess = Preprocess(resize=96, crop=96)
    with pytest.raises(ConfigError, match="crops of different sizes"):
        vggnet.evaluate(boxes, data=photos, classifier=other, workers=0)
    with pytest.raises(ConfigError, match="scale 63 is smaller than the crop"):
        vggnet.evaluate(boxes, data=photos, scales=(63,), workers=0)


def vgg(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err.strip().splitlines()


def test_the_command(photos, tmp_path, capsys, own_cache):
    """Oracle: the library. Options that have no meaning for boxes are refused in one line."""
    boxes, classes = tmp_path / "boxes.safetensors", tmp_path / "classes.safetensors"
    save(network("per_class"), boxes)
    save(network(None), classes)
    given = ["test", boxes, "--data", photos, "--classifier", classes, "--scales", "64,80", "--workers", "0", "--flip"]
    code, out, lines = vgg(capsys, *given, "--json")
    assert (code, lines) == (0, [])
    answer = json.loads(out)
    expected = vggnet.evaluate(
        network("per_class"), data=photos, classifier=network(None), scales=(64, 80), flip=True, workers=0
    )
    assert (answer["scales"], answer["flip"]) == ([64, 80], True)
    assert answer["mean_overlap"] == pytest.approx(expected.mean_overlap, abs=1e-3)
    code, out, _ = vgg(capsys, *given)
    assert code == 0
    assert out.splitlines()[-1].startswith("test localization error, class given ")
    for options in (["--views", "6"], ["--protocol", "multicrop"]):
        code, out, lines = vgg(capsys, *given, *options)
        assert (code, out, len(lines)) == (2, "", 1)
        assert "gives boxes" in lines[0]
    code, out, lines = vgg(capsys, *given, "--json", "--out", tmp_path / "new")
    written = json.loads((tmp_path / "new" / "test.json").read_text())
    assert (code, lines, written) == (0, [], json.loads(out))
    assert written["classifier"] == str(classes)
    code, out, lines = vgg(capsys, "test", classes, "--data", photos, "--classifier", classes)
    assert (code, out, len(lines)) == (2, "", 1)
    assert "--classifier" in lines[0]


def make_run(folder, photos):
    """A run of which nothing but its weights and its description is there."""
    folder.mkdir()
    description = {"data": str(photos), "preset": None, "classes": CLASSES, "images": 6, "fingerprint": "0" * 16}
    config = TrainConfig().override(task="localize", boxes="shared").as_dict()
    (folder / "config.json").write_text(
        json.dumps({**description, "preprocess": {"resize": 64}, "environment": {}, "config": config})
    )
    save(network("shared"), folder / "weights.safetensors")
    return folder


def test_a_run_that_gives_boxes_keeps_its_test(photos, tmp_path, capsys, own_cache):
    """Oracle: the printed result: test.json holds it, the report shows it. Of two runs nothing is kept."""
    run, other = make_run(tmp_path / "run", photos), make_run(tmp_path / "other", photos)
    code, out, _ = vgg(capsys, "test", run, other, "--workers", "0")
    assert (code, sorted(file.name for file in run.iterdir())) == (0, ["config.json", "weights.safetensors"])
    code, out, lines = vgg(capsys, "test", run, "--workers", "0", "--json")
    assert (code, lines) == (0, [f"report: {run / 'report.html'}"])
    result = json.loads(out)
    assert json.loads((run / "test.json").read_text()) == result
    html = (run / "report.html").read_text()
    assert "Not tested yet" not in html
    for name in ("error_class_given", "error_whole_image"):
        assert f"{100 * result[name]:.2f}\N{NO-BREAK SPACE}%" in html
    code, out, _ = vgg(capsys, "report", run)
    assert f"test localization error, class given, {100 * result['error_class_given']:.2f} %" in out


def test_a_result_that_cannot_be_written(photos, tmp_path, monkeypatch):
    """Oracle: the contract: the result is returned with the reason; a folder that cannot be is said before the work."""

    def full(path, text):
        raise StorageError(f"{path}: the disk is full")

    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="folder for the results"):
        vggnet.evaluate(network("shared"), data=photos, workers=0, out=tmp_path / "file")
    monkeypatch.setattr(evaluate, "write_text", full)
    result = vggnet.evaluate(network("shared"), data=photos, workers=0, out=tmp_path)
    assert "the disk is full" in result.error
    assert 0 < result.mean_overlap < 1


def test_what_a_network_must_beat(photos, capsys, own_cache, tmp_path):
    """Oracle: by hand: a split train of which the box of most is right for two of PHOTOS; it is said in both ways."""
    for label in CLASSES:
        file = photos / "train" / label / "1.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (80, 80)).save(file)
        box = "<xmin>9</xmin><ymin>9</ymin><xmax>50</xmax><ymax>72</ymax>"  # a tenth to five eighths, and nine tenths
        file.with_suffix(".xml").write_text(f"<annotation><object><bndbox>{box}</bndbox></object></annotation>")
    constant = [(0.1 * w, 0.1 * h, 0.625 * w, 0.9 * h) for w, h, _ in PHOTOS]
    whole = [(0, 0, w, h) for w, h, _ in PHOTOS]
    expected = [np.mean(np.array(list(overlaps(boxes))) <= 0.5) for boxes in (whole, constant)]
    assert 0 < expected[1] < 1
    save(network("shared"), tmp_path / "boxes.safetensors")
    given = ["test", tmp_path / "boxes.safetensors", "--data", photos, "--workers", "0"]
    code, out, _ = vgg(capsys, *given, "--json")
    assert code == 0
    answer = json.loads(out)
    assert [answer["error_whole_image"], answer["error_constant_box"]] == pytest.approx(expected)
    lines = vgg(capsys, *given)[1].splitlines()
    assert f"localization error (IoU <= 0.5) of the whole image as a box {100 * expected[0]:.2f} %" in lines
    assert f"localization error of the best constant box of train {100 * expected[1]:.2f} %" in lines


def test_train_is_the_only_place_of_the_constant_box(photos, capsys, own_cache, tmp_path):
    """Oracle: the contract: without boxes of train there is none; nor on train itself, which chose it."""
    photos.joinpath("train", "cat").mkdir(parents=True)
    Image.new("RGB", (80, 80)).save(photos / "train" / "cat" / "1.png")
    result = vggnet.evaluate(network("shared"), data=photos, workers=0)
    assert result.error_constant_box is None
    assert "constant" not in localization_text(result)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "<xmax>60",
            "<xmax>97",
            "0.png: the box (left, top, right, bottom) = (10, 10, 97, 60) reaches outside the image",
        ),
        (
            "<xmin>11",
            "<xmin>-1",
            "0.png: the box (left, top, right, bottom) = (-1, 10, 60, 60) reaches outside the image",
        ),
        ("<ymax>60", "<ymax>10", "0.png: the box (left, top, right, bottom) = (10, 11, 60, 10) has no area"),
        ("<ymax>60</ymax>", "", "0.xml: cannot be read"),
        ("</annotation>", "", "0.xml: cannot be read"),
        ("object", "thing", "0.xml: no object, so its image has no box"),
        ("", None, "0.xml: does not exist, so its image has no box"),
    ],
)
def test_boxes_that_cannot_be_tested(photos, capsys, own_cache, tmp_path, old, new, message):
    """Oracle: one line that names the file."""
    file = photos / "test" / "cat" / "0.xml"
    if new is None:
        file.unlink()
    else:
        file.write_text(file.read_text().replace(old, new))
    save(network("shared"), tmp_path / "boxes.safetensors")
    code, out, lines = vgg(capsys, "test", tmp_path / "boxes.safetensors", "--data", photos, "--workers", "0")
    assert (code, out, len(lines)) == (2, "", 1)
    assert message in lines[0]


def test_a_scale_below_the_crop(photos, capsys, own_cache, tmp_path):
    """Oracle: one line that names scale and crop."""
    save(network("shared"), tmp_path / "boxes.safetensors")
    code, out, lines = vgg(capsys, "test", tmp_path / "boxes.safetensors", "--data", photos, "--scales", "63,80")
    assert (code, out, len(lines)) == (2, "", 1)
    assert "scale 63 is smaller than the crop of 64 pixels" in lines[0]
