"""Segmentation: masks follow their images, the loss and metrics are those of other libraries, runs resume."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index
from trainings import train

import vggnet
from vggnet.data.augmentation import Augmented, BatchAugment
from vggnet.data.decoding import open_image
from vggnet.data.masks import IGNORED
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.models.vgg import build
from vggnet.tasks.mask_evaluation import mask_logits
from vggnet.tasks.mask_metrics import count_pixels, pixel_scores
from vggnet.tasks.segment import Segment
from vggnet.training.config import TrainConfig
from vggnet.training.inputs import Division, Inputs, make_preprocess
from vggnet.weights.checkpoint import OpenModel

TINY = {
    "preset": "segment", "model": "vgg11", "width": 0.1, "freeze": 0, "resize": 32, "crop": 32, "max_resize": 40,
    "epochs": 2, "batch_size": 5, "lr": 0.05, "workers": 0, "precision": "float32",
}  # fmt: skip
CLASSES = 3


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    """Gray images whose pixels are 80 times their class, of several sizes; the first row of a mask is ignored."""
    random = np.random.default_rng(0)
    for split, count in (("train", 11), ("val", 3)):
        for number in range(count):
            indices = random.integers(0, CLASSES, (10, 10 + number % 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            mask = np.where(np.arange(40)[:, None] == 0, np.uint8(IGNORED), indices)
            for kind, array in (("images", (80 * indices)[..., None].repeat(3, 2)), ("masks", mask)):
                file = tmp_path / "data" / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)
    return tmp_path / "data"


def prepared(data, epoch=0, **options):
    """The pixels of the training images in [0, 255] after their augmentation, and their masks."""
    config = TrainConfig().override(
        task="segment", head="unet", resize=40, crop=32, mean=(0.0,) * 3, std=(1.0,) * 3, batch_size=4, workers=0,
        val_fraction=0.3, **options,
    )  # fmt: skip
    source = open_source(data, "train")
    inputs = Inputs.of(config, Division.of(config, source, None), make_preprocess(config, source))
    prepare, batches = inputs.prepare(torch.device("cpu")), inputs.train_batches()
    pairs = [prepare(batch, epoch) for batch in batches.epoch(epoch)]
    return torch.cat([images[:, 0] * 255 for images, _ in pairs]), torch.cat([masks for _, masks in pairs])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": "random"},
        {"flip": "alternating", "shift": 7, "padding": "zero"},
        {"flip": "random", "shift": 7, "rotation": 40.0},
        {"rotation": 170.0, "padding": "zero"},
        {"max_resize": 40, "flip": "random"},
    ],
)
def test_a_mask_survives_every_move_of_pixels(data, options):
    """Oracle: the image itself, whose pixels are 80 times their class: every pixel of the mask agrees with it."""
    for epoch in range(2):
        images, masks = prepared(data, epoch, **options)
        counts = masks != IGNORED
        assert counts.float().mean() > 0.4
        torch.testing.assert_close(images[counts], 80.0 * masks[counts])
        beyond = ~counts & (images.round() == 0)
        assert (beyond.sum() > 500) == (options.get("padding") == "zero")


@pytest.mark.parametrize("options", [{"max_resize": 120}, {"min_area": 0.2}])
def test_a_mask_survives_resizing(data, options):
    """Oracle: the image: inside a square of one class, away from its edges, the resized image shows that class."""
    images, masks = prepared(data, **options)
    assert set(masks.unique().tolist()) == {*range(CLASSES), IGNORED}
    near = -F.max_pool2d(-masks[:, None].float(), 5, 1, 2), F.max_pool2d(masks[:, None].float(), 5, 1, 2)
    inside = ((near[0] == near[1]) & (near[1] != IGNORED))[:, 0]
    inside[:, :2] = inside[:, -2:] = inside[:, :, :2] = inside[:, :, -2:] = False  # blended with what is cut off
    assert inside.sum() > 300
    assert (images[inside] - 80.0 * masks[inside]).abs().max() < 2


def test_colors_and_cutout_leave_a_mask(data):
    """Oracle: the masks without them."""
    plain, expected = prepared(data)
    images, masks = prepared(data, jitter=0.3, cutout=8)
    assert torch.equal(masks, expected)
    assert (images != plain).any()


def test_a_mask_that_is_moved_takes_what_lies_beyond():
    """Oracle: by hand: the image begins one pixel further right and is mirrored."""
    augment = BatchAugment(shift=1, flip="random", padding="zero")
    augmented = Augmented(augment=augment, indices=torch.arange(1), seed=0, epoch=0, height=2, width=3)
    draws = replace(augmented.draws, shift_x=torch.tensor([1]), shift_y=torch.tensor([0]), flipped=torch.tensor([True]))
    augmented.__dict__["draws"] = draws
    moved = augmented.move(torch.tensor([[[1, 2, 3], [4, 5, 6]]], dtype=torch.uint8), beyond=IGNORED)
    assert moved.tolist() == [[[255, 3, 2], [255, 6, 5]]]


def random_outputs(sizes=((6, 8), (3, 5)), classes=4):
    torch.manual_seed(1)
    for height, width in sizes:
        masks = torch.randint(0, classes - 1, (2, height, width), dtype=torch.uint8)  # one class has no pixels
        masks[:, 0, :2] = IGNORED
        yield torch.randn(2, classes, height, width, requires_grad=True), masks


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0, 1.0)])
def test_the_loss_is_the_mean_over_the_pixels_of_each_image(weights):
    """Oracle: PyTorch's cross-entropy, image by image, with class weights and without dividing by them."""
    task = Segment(num_classes=4, weights=weights)
    for outputs, masks in random_outputs():
        expected, plain = 0.0, 0.0
        for output, mask in zip(outputs, masks, strict=True):
            given = {"ignore_index": IGNORED, "reduction": "sum"}
            count = (mask != IGNORED).sum()
            weight = torch.tensor(weights) if weights else None
            expected += F.cross_entropy(output[None], mask[None].long(), weight, **given) / count
            plain += F.cross_entropy(output[None], mask[None].long(), **given) / count
        found = task.loss(outputs, masks)
        torch.testing.assert_close(found.minimized, expected)
        torch.testing.assert_close(found.sums[0].float(), plain.detach())
        assert found.minimized.requires_grad
        assert len(found.sums) == len(task.sums) == 13
        torch.testing.assert_close(task.validation_sums(outputs, masks), found.sums)


def test_an_image_without_pixels_that_count_has_no_loss():
    """Oracle: by hand."""
    outputs = torch.randn(1, 4, 2, 2, requires_grad=True)
    found = Segment(num_classes=4).loss(outputs, torch.full((1, 2, 2), IGNORED, dtype=torch.uint8))
    found.minimized.backward()
    assert found.minimized.item() == 0
    assert found.sums.sum() == 0
    assert not outputs.grad.any()


def test_metrics_are_exact_over_images_of_several_sizes():
    """Oracle: scikit-learn's confusion matrix and torchmetrics, over all pixels at once."""
    task, sums, true, predicted = Segment(num_classes=4), 0, [], []
    counts = torch.zeros(4, 4, dtype=torch.int64)
    for outputs, masks in random_outputs():
        sums = sums + task.validation_sums(outputs, masks)
        counts += count_pixels(outputs.argmax(1), masks, 4)
        true.append(masks[masks != IGNORED].long())
        predicted.append(outputs.argmax(1)[masks != IGNORED])
    true, predicted = torch.cat(true), torch.cat(predicted)
    assert counts.tolist() == confusion_matrix(true, predicted, labels=range(4)).tolist()
    found = task.metrics(sums.tolist(), 4)
    kinds = {"num_classes": 4, "average": "macro"}
    assert found["mean_iou"] == pytest.approx(multiclass_jaccard_index(predicted, true, **kinds).item())
    assert found["accuracy"] == pytest.approx((true == predicted).float().mean().item())
    scores = pixel_scores(*(part.tolist() for part in (counts.diagonal(), counts.sum(1), counts.sum(0))))
    per_class = multiclass_jaccard_index(predicted, true, num_classes=4, average="none")
    np.testing.assert_allclose(scores.iou, per_class)
    of_three = multiclass_accuracy(predicted, true, num_classes=4, average="none")[:3].mean()
    assert scores.mean_accuracy == pytest.approx(of_three.item())
    assert scores.accuracy[3] is None
    assert pixel_scores([2, 0], [2, 0], [2, 0]).iou == (1.0, None)
    assert pixel_scores([0, 0], [0, 0], [0, 0])[:3] == (0, 0, 0)
    assert task.score({"val_mean_iou": 0.3, "val_accuracy": 0.9}) == 0.3


def test_weights_are_median_frequencies(data):
    """Oracle: NumPy, class by class; an image without a class does not count for it."""
    source = open_source(data, "train")
    task = Segment(class_weights="balanced")
    targets = task.read_targets(source, None)
    masks = [np.array(source.mask(index)) for index in range(len(source))]
    assert targets.tolist() == [[int((mask == k).sum()) for k in range(CLASSES)] for mask in masks]
    targets[:4, 2] = 0
    frequencies = []
    for k in range(CLASSES):
        having = [row for row in targets.tolist() if row[k]]
        frequencies.append(sum(row[k] for row in having) / sum(map(sum, having)))
    weights = task.fitted(targets, CLASSES).weights
    np.testing.assert_allclose(weights, np.median(frequencies) / np.array(frequencies))
    assert task.fitted(targets * torch.tensor([1, 1, 0]), CLASSES).weights[2] == 1
    assert Segment().fitted(Segment().read_targets(source, None), CLASSES).weights == ()


def test_a_run_resumes_bit_for_bit_and_is_evaluated(data, tmp_path):
    """Oracle: the run that was not interrupted; NumPy's counts of what the network predicts."""
    config = {**TINY, "class_weights": "balanced", "flip": "random", "jitter": 0.1}
    whole = train(data, out=tmp_path / "whole", **config)
    seen = []

    class StoppedError(Exception):
        pass

    def stop(done, total):
        seen.append(done)
        if done == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(data, out=tmp_path / "parts", progress=stop, checkpoint_minutes=0.0, **config)
    parts = vggnet.resume(tmp_path / "parts")
    for name, tensor in load_file(whole.weights).items():
        assert torch.equal(load_file(parts.weights)[name], tensor), name
    expected, found = ([{**row, "seconds": 0} for row in run.history] for run in (whole, parts))
    assert found == expected
    assert {"val_mean_iou", "val_accuracy", "train_mean_iou"} <= found[0].keys()
    assert whole.config.task.name == "segment"

    result = vggnet.evaluate(whole.folder, data, split="val", out=whole.folder, table=tmp_path / "table.csv")
    source, network = open_source(data, "val"), vggnet.load(whole.folder)
    counts = np.zeros((CLASSES, CLASSES), dtype=int)
    for index in range(len(source)):
        mask = np.array(source.mask(index))
        with torch.no_grad():
            logits = network(network.preprocess.normalize(network.preprocess.whole(source.read(index))[None]))
        logits = F.interpolate(logits, mask.shape, mode="bilinear")[0].argmax(0).numpy()
        np.add.at(counts, (mask[mask != IGNORED], logits[mask != IGNORED]), 1)
    assert abs(np.array(result.pixels) - counts).sum() <= 4  # ties within rounding
    assert result.ignored_pixels == sum(source.open(index).size[0] for index in range(3))
    assert result.images == 3
    assert result.mean_iou == pytest.approx(result.score)
    assert (whole.folder / "examples.png").is_file()
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 4
    from vggnet.run_report import write_report

    page = write_report(whole.folder).path.read_text()
    assert "Best and worst images" in page
    assert "IoU of class 2" in page
    assert "validation mean IoU" in page


def test_views_are_averaged(data):
    """Oracle: the mean of softmax outputs, by PyTorch; mirror images are mirrored back."""
    torch.manual_seed(0)
    network = build("vgg11", num_classes=CLASSES, head="unet", width=0.05).eval()
    network.preprocess = vggnet.Preprocess(resize=40, crop=32)
    opened, image = OpenModel(network, torch.device("cpu")), open_source(data, "train").read(1)
    views = []
    for scale in (40, 64):
        pixels = vggnet.Preprocess(resize=scale, crop=32).whole(image)
        for mirrored in (False, True):
            seen = pixels.flip(2) if mirrored else pixels
            with torch.no_grad():
                logits = network(network.preprocess.normalize(seen[None]))
            logits = logits.flip(3) if mirrored else logits
            views.append(F.interpolate(logits, image.size[::-1], mode="bilinear").softmax(1))
    found = mask_logits([opened], [(40, 64)], image, flip=True)
    torch.testing.assert_close(found.exp(), torch.stack(views).mean(0)[0], rtol=1e-4, atol=1e-5)


def test_predictions_are_written(data, tmp_path):
    """Oracle: the network's own outputs; a picture that cannot be read has no mask, names that occur twice a number."""
    torch.manual_seed(0)
    network = build("vgg11", num_classes=CLASSES, head="unet", width=0.05).eval()
    network.preprocess, network.classes = vggnet.Preprocess(resize=40, crop=32), ("sky", "road", "car")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    files = [data / "train" / "images" / "1.png", tmp_path / "bad.jpg", data / "val" / "images" / "1.png"]
    found = vggnet.predict(network, files)
    assert [one.error is None for one in found] == [True, False, True]
    with Image.open(files[0]) as image:
        logits = mask_logits([OpenModel(network, torch.device("cpu"))], [(40,)], image)
    expected = logits.argmax(0).numpy()
    np.testing.assert_array_equal(found[0].mask, expected)
    assert sum(found[0].shares.values()) == pytest.approx(1)
    assert found[0].shares.get("car", 0) == pytest.approx((expected == 2).mean())
    written = Segment().write_predictions(files, found, tmp_path / "masks")
    assert "2 of 3 pictures" in written
    assert sorted(file.name for file in (tmp_path / "masks").iterdir()) == ["1-2.png", "1.png", "overlays.png"]
    np.testing.assert_array_equal(np.array(open_image(tmp_path / "masks" / "1.png").image), expected)
    with pytest.raises(DataError, match="so it has no mask"):
        _ = found[1].mask
    with pytest.raises(ConfigError, match="leave out classifier"):
        vggnet.predict(network, files, top=2)
    with pytest.raises(ConfigError, match="leave out protocol, views"):
        vggnet.evaluate(network, data, split="val", views=6)


def test_bad_masks_stop_a_training_or_are_skipped(data, tmp_path):
    """Oracle: the contract of --on-bad-image."""
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(data / "train" / "masks" / "3.png")
    (data / "val" / "masks" / "0.png").unlink()
    with pytest.raises(ImageError, match=r"masks/3\.png: the mask has 5 x 5 pixels"):
        train(data, out=tmp_path / "run", **{**TINY, "epochs": 1})
    run = train(data, out=tmp_path / "run", on_bad_image="skip", class_weights="balanced", **{**TINY, "epochs": 1})
    assert len(run.skipped) == 2
    assert any("has no mask" in message for message in run.skipped.values())
    with pytest.raises(ImageError, match="has no mask"):
        vggnet.evaluate(run.folder, data, split="val")
    assert list(vggnet.evaluate(run.folder, data, split="val", on_error="return").unreadable) == [0]


def test_data_and_task_must_fit(data, tmp_path):
    """Oracle: the contract: one line that says which task to give."""
    with pytest.raises(DataError, match=r"has a mask for each .* the task classify needs a label.*--task segment"):
        train(data, out=tmp_path / "run", preset="photos")
    with pytest.raises(DataError, match=r"digits has a label .* the task segment needs a mask.*--task classify or"):
        train("digits", out=tmp_path / "run", **TINY)
    with pytest.raises(ConfigError, match=r'head is gap, but with task "segment" it must be unet or fcn8'):
        TrainConfig().override(task="segment", head="gap")
    with pytest.raises(ConfigError, match=r'head is unet, but with task "classify" it must be paper'):
        TrainConfig().override(head="unet")
    with pytest.raises(ConfigError, match="ignore_index is 3, but it acts only with task segment"):
        TrainConfig().override(ignore_index=3)
