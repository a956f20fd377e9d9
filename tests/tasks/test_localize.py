"""Localization: targets follow the pixels, the loss is the paper's, runs resume, training starts from classifiers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from trainings import train

import vggnet
from vggnet.data.augmentation import Augmented, BatchAugment
from vggnet.data.loading import TrainBatches
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.data.splits import divide_for_validation
from vggnet.errors import ConfigError, DataError
from vggnet.models.vgg import build
from vggnet.report.text import Fact
from vggnet.tasks.box_evaluation import evaluate_boxes
from vggnet.tasks.box_prediction import predict_boxes
from vggnet.tasks.localize import Localize
from vggnet.tasks.results import FoundBox, LocalizationResult
from vggnet.tasks.task import EvaluationJob, PredictionJob
from vggnet.training.loop import Position
from vggnet.weights.adaptation import transfer
from vggnet.weights.checkpoint import OpenModel, save

TINY = {
    "task": "localize", "preset": "fast", "model": "vgg11_bn", "width": 0.1, "head": "gap", "epochs": 2,
    "batch_size": 16, "val_fraction": 0.2, "optimizer": "sgd", "lr": 0.01, "warmup": 0.2, "weight_decay": 5e-4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rectangles(tmp_path):
    """Forty images of 32 pixels, black but for a bright rectangle, wide in one class and high in the other."""
    random = np.random.default_rng(0)
    for number in range(40):
        label = number % 2
        width, height = (18, 10) if label else (10, 18)
        left, top = random.integers(3, 29 - width), random.integers(3, 29 - height)
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[top : top + height, left : left + width] = random.integers(128, 256, 3)
        file = tmp_path / "data" / "train" / ("high", "wide")[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        bounds = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, left + width, top + height), strict=True)
        box = "".join(f"<{name}>{value}</{name}>" for name, value in bounds)
        file.with_suffix(".xml").write_text(f"<annotation><object><bndbox>{box}</bndbox></object></annotation>")
    return tmp_path / "data"


@pytest.mark.parametrize("flip", ["none", "random", "alternating"])
def test_targets_follow_the_pixels(rectangles, flip):
    """Oracle: where the bright pixels are after the augmentation."""
    source, preprocess = open_source(rectangles, "train"), Preprocess(resize=32, crop=32)
    augment = BatchAugment(shift=3, flip=flip, padding="zero")
    task, batches = Localize(), TrainBatches(source, preprocess, 13, indices=np.arange(40), seed=5)
    counts = []
    targets = task.read_targets(source, preprocess, progress=lambda *given: counts.append(given))
    assert counts[-1] == (40, 40)
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            images = augment(batch.images, batch.indices, seed=5, epoch=epoch)
            augmented = Augmented(augment=augment, indices=batch.indices, seed=5, epoch=epoch, height=32, width=32)
            followed = task.follow(task.of_batch(targets, batch), augmented)
            for image, target, index in zip(images, followed, batch.indices.tolist(), strict=True):
                rows, columns = (image.sum(0) > 0).nonzero().unbind(1)
                left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                expected = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]) / 32
                torch.testing.assert_close(target[1:], expected)
                assert target[0] == source.labels[index]


@pytest.mark.parametrize("outputs", [4, 8, 12])
def test_the_loss_is_half_the_squared_distance(outputs):
    """Oracle: plain loops, as Caffe's EuclideanLoss has it; the box of another class does not count."""
    torch.manual_seed(0)
    values = torch.rand(5, outputs)
    targets = torch.cat([torch.tensor([[0.0], [2], [1], [2], [0]]), torch.rand(5, 4)], 1)
    targets[:, 0] %= max(outputs // 4, 2)
    targets[1, 1:] = values[1, 4 * int(targets[1, 0]) :][:4] if outputs > 4 else values[1]
    expected = 0.0
    for row, target in zip(values.tolist(), targets.tolist(), strict=True):
        first = 4 * int(target[0]) if outputs > 4 else 0
        expected += sum((a - b) ** 2 for a, b in zip(row[first : first + 4], target[1:], strict=True)) / 2
    found = Localize(crop=64).loss(values.requires_grad_(), targets)
    assert found.minimized.item() == pytest.approx(expected)
    loss, correct = found.sums.tolist()
    assert loss == pytest.approx(expected)
    assert correct >= 1
    assert found.sums.dtype == torch.float64
    assert found.minimized.requires_grad
    assert not found.sums.requires_grad


def test_boxes_that_overlap_by_more_than_half_are_correct():
    """Oracle: by hand: of boxes of the same place, 0.5, 0.51 and 2 times as wide; and one that lies beside it."""
    true = torch.tensor([0.5, 0.5, 0.4, 0.4])
    outputs = torch.stack([true * torch.tensor([1, 1, width, 1]) for width in (0.5, 0.51, 2)] + [true + 0.4])
    targets = torch.cat([torch.arange(4.0)[:, None], true.expand(4, 4)], 1)
    task = Localize(crop=64)
    assert task.loss(outputs, targets).sums[1] == 1
    per_class = torch.zeros(4, 16)
    for image in range(4):
        per_class[image, 4 * image : 4 * image + 4] = outputs[image]
    assert task.loss(per_class, targets).sums[1] == 1
    assert task.validation_sums(per_class, targets).tolist() == pytest.approx(task.loss(outputs, targets).sums.tolist())
    assert task.metrics([6.0, 3.0], 4) == {"loss": 1.5, "accuracy": 0.75}


def test_targets_are_shifted_and_mirrored():
    """Oracle: by hand, in a crop of 10 pixels: it begins 1 pixel further right and 2 further up; then a mirror."""
    targets = torch.tensor([[3, 0.5, 0.4, 0.2, 0.1]] * 2)
    augment = BatchAugment(shift=2, flip="random")
    draws = augment.draw(torch.arange(2), seed=0, epoch=0, height=10, width=10)
    draws = replace(
        draws,
        shift_x=torch.tensor([1, 1]), shift_y=torch.tensor([-2, -2]), flipped=torch.tensor([False, True]),
    )  # fmt: skip
    augmented = Augmented(augment=augment, indices=torch.arange(2), seed=0, epoch=0, height=10, width=10)
    augmented.__dict__["draws"] = draws
    found = Localize().follow(targets, augmented)
    torch.testing.assert_close(found, torch.tensor([[3, 0.4, 0.6, 0.2, 0.1], [3, 0.6, 0.6, 0.2, 0.1]]))


@pytest.mark.parametrize("head", ["gap", "paper", "dense"])
@pytest.mark.parametrize("boxes", ["shared", "per_class"])
def test_training_starts_from_mean_boxes(boxes, head, monkeypatch):
    """Oracle: NumPy's means; the third class has no image, and gets the mean of all."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 200)
    torch.manual_seed(0)
    model = build("vgg11", num_classes=3, head=head, width=0.1, boxes=boxes)
    before = model.features.conv1_1.weight.clone()
    targets = torch.cat([torch.tensor([[0.0], [1], [0], [1], [0]]), torch.rand(5, 4)], 1)
    Localize().initialize(model, targets)
    labels, values = targets[:, 0].numpy(), targets[:, 1:].numpy()
    means = [values[labels == 0].mean(0), values[labels == 1].mean(0), values.mean(0)]
    expected = values.mean(0) if boxes == "shared" else np.concatenate(means)
    last = model.head.fc if head == "gap" else model.head.fc8
    np.testing.assert_allclose(last.bias.detach().numpy(), expected, rtol=1e-6)
    assert last.weight.std().item() == pytest.approx(1e-3, rel=0.2)
    assert abs(last.weight.mean().item()) < 3e-4
    assert last.bias.requires_grad
    assert torch.equal(model.features.conv1_1.weight, before)


def test_options_of_a_training():
    """Oracle: what was given."""
    task = Localize().configured({"boxes": "shared", "crop": 96, "label_smoothing": 0.0})
    assert task == Localize(boxes="shared", crop=96)
    assert task.architecture_options() == {"boxes": "shared"}


@pytest.fixture
def opened():
    """A network that gives boxes, of 64 pixels of an image."""
    torch.manual_seed(0)
    model = build("vgg11", num_classes=2, head="gap", width=0.1, boxes="shared").eval()
    model.preprocess = Preprocess(resize=32, crop=32)
    return OpenModel(model, torch.device("cpu"))


def test_evaluating_and_predicting(opened, rectangles, tmp_path):
    """Oracle: the functions that do it; what has no meaning for boxes is refused in one line that names the model."""
    task, source = Localize(), open_source(rectangles, "train")
    options = {
        "networks": [opened], "model": "mine", "source": source, "data": rectangles, "split": "train", "workers": 0,
        "scales": (), "flip": False, "batch_size": None, "progress": False, "classifier_name": None,
    }  # fmt: skip
    good = {"protocol": "single", "six_views": False, "classifier": None}
    for protocol in ("single", "dense"):
        evaluated = task.evaluate(EvaluationJob(**options, **{**good, "protocol": protocol}))
        assert (evaluated.result.images, evaluated.figures) == (40, ())
        assert (
            evaluated.result.error_class_given
            == evaluate_boxes(EvaluationJob(**options, **good)).result.error_class_given
        )
    for wrong in ({"protocol": "multicrop"}, {"protocol": "multiscale"}, {"six_views": True}):
        with pytest.raises(ConfigError, match=r"^mine gives boxes.*leave out protocol and views\.$"):
            task.evaluate(EvaluationJob(**options, **{**good, **wrong}))
    with pytest.raises(ConfigError, match="gives boxes, not classes"):
        task.evaluate(EvaluationJob(**options, **{**good, "classifier": opened}))

    job = {"model": "mine", "batch_size": 8, "progress": False, "on_error": "raise"}
    images = [source.read(index) for index in range(3)]
    found = task.predict(opened, images, PredictionJob(**job, top=None, classifier=None))
    assert found == predict_boxes(opened, images, PredictionJob(**job, top=None, classifier=None))
    assert [one.name for one in found] == ["image 1", "image 2", "image 3"]
    assert task.write_predictions(images, found, tmp_path / "boxes.png").endswith("boxes.png, 3 of 3 pictures")
    with Image.open(tmp_path / "boxes.png") as picture:
        picture.load()
    with pytest.raises(ConfigError, match=r"^mine gives a box.*leave out top"):
        task.predict(opened, images, PredictionJob(**job, top=3, classifier=None))
    with pytest.raises(ConfigError, match="gives boxes, not classes"):
        task.predict(opened, images, PredictionJob(**job, top=None, classifier=opened))


SAVED = {
    "error_class_given": 0.25, "error_top1": 0.4, "error_top5": 0.3, "mean_overlap": 0.61234, "error_whole_image": 0.75,
    "error_constant_box": 0.5, "images": 1000, "data": "mine", "split": "val", "fingerprint": "0123", "model": "runs/a",
    "scales": [256, 288], "flip": True, "classifier": "vgg16", "seconds": 9.87, "device": "cpu", "date": "2026-01-02",
}  # fmt: skip


def test_what_a_report_shows_first():
    """Oracle: by hand."""
    assert Localize().headline(SAVED) == [
        Fact("localization error, class given", "25.00 %", "share of boxes with IoU <= 0.5, of 1,000 images of val"),
        Fact("mean overlap", "0.612", "IoU with the true box, 0 to 1"),
    ]


def test_all_that_a_report_says():
    """Oracle: by hand; without a classifier, mirror images, or boxes of train the rest."""
    expected = [
        Fact("images", "1,000 of mine, split val"),
        Fact("data fingerprint", "0123"),
        Fact("model", "runs/a"),
        Fact("views", "all windows of whole images, scale 256, 288, and their mirror images"),
        Fact("localization error, class given", "25.00 % (IoU <= 0.5)"),
        Fact("localization error, class predicted", "40.00 %, top-5 30.00 %, by vgg16"),
        Fact("mean overlap", "0.612"),
        Fact("error of the whole image as a box", "75.00 %"),
        Fact("error of the best constant box of train", "50.00 %"),
        Fact("time", "9.9 s on cpu"),
        Fact("date", "2026-01-02"),
    ]
    assert Localize().facts(SAVED) == expected
    less = {**SAVED, "flip": False, "classifier": None, "error_constant_box": None, "scales": [64]}
    views = Fact("views", "all windows of whole images, scale 64")
    assert Localize().facts(less) == [*expected[:3], views, expected[4], *expected[6:8], *expected[9:]]


def test_text_for_a_terminal():
    """Oracle: by hand."""
    result = LocalizationResult(**{**SAVED, "scales": (64,)}, torch="2")
    assert Localize().evaluation_text(result).splitlines()[-1] == "val localization error, class given 25.00 %"
    found = [FoundBox(name="a.png", box=(1, 2.25, 3, 4), label="cat", score=0.5), FoundBox(name="b.png", error="no")]
    lines = ["a.png", "  cat  50.00 %  left 1.0, top 2.2, right 3.0, bottom 4.0", "no"]
    assert Localize().predictions_text(found).splitlines() == lines


@pytest.mark.parametrize("boxes", ["shared", "per_class"])
def test_boxes_are_learnt(rectangles, tmp_path, boxes):
    """Oracle: the mean box, near which training starts: later more boxes are right, and the loss is less."""
    options = {**TINY, "boxes": boxes, "epochs": 12, "flip": "random", "shift": 0}
    run = train(rectangles, out=tmp_path / "run", **options)
    model = vggnet.load(run.folder)
    assert model.architecture.boxes == boxes
    assert model.architecture.num_outputs == {"shared": 4, "per_class": 8}[boxes]
    targets = Localize().read_targets(open_source(rectangles, "train"), model.preprocess)
    start = (targets[:, 1:] - targets[:, 1:].mean(0)).square().sum(1).mean() / 2
    assert run.history[-1]["train_loss"] < 0.7 * start
    assert run.history[-1]["train_accuracy"] > run.history[0]["train_accuracy"]
    result = vggnet.evaluate(run.folder, rectangles, split="train")
    assert result.images == 40
    assert result.error_class_given < result.error_whole_image


def test_an_interrupted_run_goes_on_exactly(rectangles, tmp_path, monkeypatch):
    """Oracle: the uninterrupted run."""
    whole = train(rectangles, out=tmp_path / "whole", **TINY)
    count = Position.count

    def interrupt(self, *arguments):
        count(self, *arguments)
        if (self.epoch, self.step) == (1, 1):
            raise ZeroDivisionError

    monkeypatch.setattr(Position, "count", interrupt)
    with pytest.raises(ZeroDivisionError):
        train(rectangles, out=tmp_path / "run", checkpoint_minutes=0, **TINY)
    monkeypatch.undo()
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    resumed = vggnet.resume(tmp_path / "run")
    ours, theirs = load_file(resumed.weights), load_file(whole.weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [row["val_loss"] for row in resumed.history] == [row["val_loss"] for row in whole.history]


def test_a_classifier_is_a_start(rectangles, tmp_path):
    """Oracle: its weights, all but the last layer's, which says the mean box of each class, validation images apart."""
    classifier = build("vgg11_bn", num_classes=2, head="gap", width=0.1)
    classifier.classes = ("high", "wide")
    save(classifier, tmp_path / "classifier.safetensors", preprocess=Preprocess(resize=32, crop=32))
    options = {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}
    run = train(rectangles, out=tmp_path / "run", init_from=tmp_path / "classifier.safetensors", **{**TINY, **options})
    model = vggnet.load(run.folder)
    torch.testing.assert_close(model.features.conv5_2.weight, classifier.features.conv5_2.weight)
    source = open_source(rectangles, "train")
    seen, _ = divide_for_validation(source.image_hashes, source.labels, TINY["val_fraction"], 0)
    targets = Localize().read_targets(source, model.preprocess).numpy()
    means = [np.mean([targets[i, 1:] for i in seen if source.labels[i] == label], axis=0) for label in (0, 1)]
    np.testing.assert_allclose(model.head.fc.bias.detach().numpy(), np.concatenate(means), atol=1e-6)


def test_four_scores_are_no_box():
    """Oracle: by hand: of a classifier for the same four classes all is copied but the last layer."""
    classifier, model = (
        build("vgg11", num_classes=4, head="gap", width=0.1, boxes=boxes) for boxes in (None, "shared")
    )
    classifier.classes = model.classes = tuple("abcd")
    assert transfer(classifier, model) == ("head.fc.weight", "head.fc.bias")


@pytest.mark.parametrize("field", [{"rotation": 5.0}, {"augment": "torchvision"}, {"min_area": 0.5}])
def test_augmentation_that_boxes_do_not_follow(rectangles, tmp_path, field):
    """Oracle: the contract; nothing is left behind."""
    with pytest.raises(ConfigError, match=f'{next(iter(field))} is .*"localize"'):
        train(rectangles, out=tmp_path / "run", **{**TINY, **field})
    assert not (tmp_path / "run").exists()


def test_a_box_that_cannot_be_is_found_before_training(rectangles, tmp_path):
    """Oracle: the name of the file; nothing is left behind."""
    file = rectangles / "train" / "wide" / "7.xml"
    file.write_text(file.read_text().replace("<xmax>", "<xmax>9"))
    with pytest.raises(DataError, match=r"wide/7\.png: the box .* reaches outside the image"):
        train(rectangles, out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()
