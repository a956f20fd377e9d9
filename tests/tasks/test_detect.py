"""Detection: objects follow their images, the loss and metrics are those of other libraries, runs resume."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from trainings import train

import vggnet
from vggnet.data.augmentation import Augmented, BatchAugment
from vggnet.data.decoding import open_image
from vggnet.data.object_views import ssd_augmented, stretched
from vggnet.data.objects import Objects
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.models.detection_heads import DESIGNS
from vggnet.models.vgg import build
from vggnet.tasks import detection_evaluation
from vggnet.tasks.default_boxes import Detections, box_losses, default_boxes, detect
from vggnet.tasks.detect import Detect
from vggnet.tasks.detection_metrics import as_sums, average_precisions, count_found, from_sums
from vggnet.training.config import TrainConfig

STRETCHED = Preprocess(resize=300, crop=300, mean=(0.5,) * 3, std=(0.25,) * 3, stretch=True)
TINY = {
    "preset": "detect", "model": "vgg11", "width": 0.05, "freeze": 0, "epochs": 2, "batch_size": 2, "workers": 0,
    "precision": "float32",
}  # fmt: skip
SIZES = ((40, 30), (36, 48))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


def made_objects(random, size, count=3):
    """Boxes apart from each other, of two classes."""
    boxes = []
    for _ in range(count):
        low = random.integers(0, [size[0] - 14, size[1] - 14])
        boxes.append([*low, *(low + random.integers(6, 14, 2))])
    return np.array(boxes, np.float32), random.integers(0, 2, count)


@pytest.fixture
def data(tmp_path):
    """Black images with a white or red rectangle for each object, of two sizes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        (tmp_path / "data" / split).mkdir(parents=True)
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "white"}],
        }
        for number in range(count):
            width, height = SIZES[number % 2]
            boxes, labels = made_objects(random, (width, height))
            pixels = np.zeros((height, width, 3), np.uint8)
            for (left, top, right, bottom), label in zip(boxes.astype(int), labels, strict=True):
                pixels[top:bottom, left:right] = (255, 255, 255) if label else (255, 0, 0)
                place = {"bbox": [int(left), int(top), int(right - left), int(bottom - top)]}
                content["annotations"].append({"image_id": number, "category_id": int(label) + 1, **place})
            Image.fromarray(pixels).save(tmp_path / "data" / split / f"{number}.png")
            content["images"].append({"id": number, "file_name": f"{number}.png"})
        (tmp_path / "data" / split / "_annotations.coco.json").write_text(json.dumps(content))
    return tmp_path / "data"


def test_default_boxes_are_those_of_torchvision():
    """Oracle: torchvision's own model, on an image of its size; those of SSD512 by the paper's formula."""
    with torch.device("meta"):
        theirs = ssd300_vgg16(weights=None, weights_backbone=None)
    generator = type(theirs.anchor_generator)(
        theirs.anchor_generator.aspect_ratios,
        scales=theirs.anchor_generator.scales,
        steps=theirs.anchor_generator.steps,
    )
    maps = [torch.empty(1, 1, side, side) for side in (38, 19, 10, 5, 3, 1)]
    (expected,) = generator(ImageList(torch.empty(1, 3, 300, 300), [(300, 300)]), maps)
    assert torch.equal(default_boxes("ssd300"), expected)
    found, design = default_boxes("ssd512"), DESIGNS["ssd512"]
    assert len(found) == 24564
    first = found[:4] - torch.tensor([4.0, 4, 4, 4])  # around the center of the first cell
    small, large = 512 * design.scales[0], 512 * (design.scales[0] * design.scales[1]) ** 0.5
    sides = [(small, small), (large, large), (small * 2**0.5, small / 2**0.5), (small / 2**0.5, small * 2**0.5)]
    expected = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-4)


def overlap(one, other):
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = np.prod(np.maximum(high - low, 0))
    return common / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - common)


def test_the_loss_is_that_of_the_paper():
    """Oracle: NumPy, by the text of section 2.2: matching, code of places, and the hardest negatives, 3 to 1."""
    random = torch.Generator().manual_seed(0)
    outputs = torch.randn(8732, 8, generator=random, requires_grad=True)
    objects = torch.tensor([[2.0, 20, 30, 120, 160], [0, 150, 40, 290, 200], [1, 3, 5, 22, 31]])
    defaults, boxes = default_boxes("ssd300").double().numpy(), objects[:, 1:].double().numpy()
    table = np.array([[overlap(box, default) for default in defaults] for box in boxes])
    match = np.where(table.max(0) >= 0.5, table.argmax(0), -1)
    for place in range(len(boxes)):
        match[table[place].argmax()] = place
    positive = np.flatnonzero(match >= 0)
    true = boxes[match[positive]]
    center = lambda b: (b[:, :2] + b[:, 2:]) / 2  # noqa: E731
    sides = lambda b: b[:, 2:] - b[:, :2]  # noqa: E731
    mine = defaults[positive]
    code = np.concatenate([10 * (center(true) - center(mine)) / sides(mine), 5 * np.log(sides(true) / sides(mine))], 1)
    distance = np.abs(outputs.detach().double().numpy()[positive, 4:] - code)
    places = np.where(distance < 1, distance**2 / 2, distance - 0.5).sum() / len(positive)
    scores = outputs.detach().double().numpy()[:, :4]
    log = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    wanted = np.zeros(8732, int)
    wanted[positive] = objects[:, 0].numpy()[match[positive]] + 1
    nats = -log[np.arange(8732), wanted]
    hardest = np.sort(nats[match < 0])[::-1][: 3 * len(positive)]
    classes = (nats[positive].sum() + hardest.sum()) / len(positive)
    found = box_losses(outputs, objects, "ssd300")
    assert found.classes.item() == pytest.approx(classes, rel=1e-4)
    assert found.places.item() == pytest.approx(places, rel=1e-4)
    task = Detect(num_classes=3)
    both = task.loss(torch.stack([outputs, outputs]), [objects, torch.zeros(0, 5)])
    assert both.minimized.item() == pytest.approx(classes + places, rel=1e-4)  # nothing is wrong without objects
    both.minimized.backward()
    assert outputs.grad.isfinite().all()
    assert len(both.sums) == len(task.sums)


def test_outputs_that_are_right_find_the_objects():
    """Oracle: the inverse: the outputs are made from the objects, and have to give these."""
    objects = torch.tensor([[1.0, 20, 30, 120, 160], [0, 150, 40, 290, 200]])
    defaults = default_boxes("ssd300")
    outputs = torch.zeros(1, 8732, 7)
    outputs[..., 0] = 9
    for row in objects:
        place = int(np.argmax([overlap(row[1:].numpy(), default) for default in defaults.numpy()]))
        mine, true = defaults[place], row[1:]
        code = [10 * ((true[i] + true[i + 2]) - (mine[i] + mine[i + 2])) / 2 / (mine[i + 2] - mine[i]) for i in (0, 1)]
        code += [5 * torch.log((true[i + 2] - true[i]) / (mine[i + 2] - mine[i])) for i in (0, 1)]
        outputs[0, place] = torch.tensor(
            [0, *(9.0 if label == row[0] else 0.0 for label in (0, 1)), 0, *code][:3] + code
        )
    (found,) = detect(outputs, "ssd300")
    assert (found.scores > 0.5).sum() == 2
    order = found.labels[:2].argsort(descending=True)
    torch.testing.assert_close(found.boxes[:2][order], objects[:, 1:], rtol=1e-4, atol=1e-3)
    assert found.labels[:2][order].tolist() == [1, 0]


def random_found(random, objects, classes=3):
    """True boxes moved a little, some of another class, and some anywhere; scores in the middle of bins."""
    count = len(objects) + 3
    moved = objects[:, 1:] + random.normal(0, 5, (len(objects), 4))
    others = random.uniform(0, 100, (3, 2))
    boxes = np.concatenate([moved, np.concatenate([others, others + 30], 1)]).astype(np.float32)
    labels = np.concatenate([objects[:, 0], random.integers(0, classes, 3)]).astype(np.int64)
    labels[0] = (labels[0] + 1) % classes
    scores = (random.permutation(100)[:count] + 0.5) / 100
    order = np.argsort(-scores)
    return Detections(*(torch.from_numpy(v[order]) for v in (boxes, scores.astype(np.float32), labels)))


def random_images(count, classes=3):
    random = np.random.default_rng(1)
    for _ in range(count):
        low = random.uniform(0, 200, (4, 2))
        boxes = np.concatenate([low, low + random.uniform(20, 80, (4, 2))], 1)
        objects = np.concatenate([random.integers(0, classes - 1, (4, 1)), boxes], 1)  # one class has no objects
        yield objects.astype(np.float32), random_found(random, objects, classes)


def test_counts_give_the_average_precision():
    """Oracle: torchmetrics at an IoU of 0.5; no two boxes of a class share a bin, so rounding changes nothing."""
    metric, total = MeanAveragePrecision(iou_thresholds=[0.5], class_metrics=True), 0
    for objects, found in random_images(3):
        metric.update(
            [found._asdict()],
            [{"boxes": torch.from_numpy(objects[:, 1:]), "labels": torch.from_numpy(objects[:, 0]).long()}],
        )
        total = total + as_sums(count_found(found, torch.from_numpy(objects), 3))
    precisions = average_precisions(from_sums(total.tolist(), 3))
    expected = metric.compute()
    assert precisions[2] is None
    assert np.mean(precisions[:2]) == pytest.approx(expected["map"].item(), abs=0.02)
    values = Detect(num_classes=3).metrics([6.0, 3.0, *total.tolist()], 3)
    assert values == {"loss": 2.0, "box_loss": 1.0, "map_50": pytest.approx(np.mean(precisions[:2]))}
    assert Detect().score({"val_map_50": 0.3, "val_loss": 9}) == 0.3


def coco_summary(images):
    """COCOeval's own numbers for objects and boxes, image by image."""
    annotations, results = [], []
    for number, (objects, found) in enumerate(images):
        for label, left, top, right, bottom in objects.tolist():
            box = [left, top, right - left, bottom - top]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": int(label), "bbox": box,
                "area": box[2] * box[3], "iscrowd": 0,
            })  # fmt: skip
        for (left, top, right, bottom), score, label in zip(*(values.tolist() for values in found), strict=True):
            box = [left, top, right - left, bottom - top]
            results.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {}, "images": [{"id": n} for n in range(len(images))], "annotations": annotations,
            "categories": [{"id": label} for label in range(3)],
        }  # fmt: skip
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_an_evaluation_is_that_of_coco(data, monkeypatch, tmp_path):
    """Oracle: pycocotools on the same boxes, which stand for what a network finds."""
    source, random, images = open_source(data, "val"), np.random.default_rng(3), []
    for index in range(len(source)):
        given = source.objects(index)
        objects = np.concatenate([given.labels[:, None], given.boxes], 1)
        found = random_found(random, objects, 2)
        moved = objects[:, 1:] + random.normal(0, 1.2, (len(objects), 4))
        boxes = torch.from_numpy(np.concatenate([moved, found.boxes[len(objects) :].numpy()]).astype(np.float32))
        labels = torch.from_numpy(np.concatenate([objects[:, 0], [0, 1, 0]]).astype(np.int64))
        images.append((objects, Detections(boxes, found.scores, labels)))
    answers = iter([found for _, found in images])
    monkeypatch.setattr(
        detection_evaluation, "find_objects", lambda network, pixels, sizes: [next(answers) for _ in pixels]
    )
    network = build("vgg11", num_classes=2, head="ssd300", width=0.05).eval()
    network.preprocess, network.classes = STRETCHED, ("red", "white")
    result = vggnet.evaluate(network, data, split="val", batch_size=2, out=tmp_path, table=tmp_path / "table.csv")
    expected = coco_summary(images)
    assert result.map_50 > 0.3
    found = (result.map, result.map_50, result.map_75, result.recall)
    assert found == pytest.approx([expected.stats[place] for place in (0, 1, 2, 8)], abs=1e-6)
    precision = expected.eval["precision"][:, :, :2, 0, -1]
    for label, name in enumerate(("red", "white")):
        assert result.ap[name] == pytest.approx(precision[..., label].mean(), abs=1e-6)
        assert result.ap_50[name] == pytest.approx(precision[0, :, label].mean(), abs=1e-6)
    assert sum(result.objects.values()) == 9
    assert result.score == result.map_50
    assert (tmp_path / "examples.png").is_file()
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 4
    assert Detect().evaluation_text(result).splitlines()[-1] == f"val mAP at IoU 0.5 {100 * result.map_50:.2f} %"


def test_objects_follow_their_images(data):
    """Oracle: the pixels: all that is bright is in a box, and so is what is in the middle of a box; and the files."""
    source, dark, count = open_source(data, "train"), 0, 0
    for index in range(len(source)):
        pixels, objects = stretched(source.open(index), source.objects(index), 0, index, preprocess=STRETCHED)
        given, (width, height) = source.objects(index), source.read(index).size
        expected = given.boxes * np.array([300 / width, 300 / height] * 2)
        np.testing.assert_allclose(objects[:, 1:], expected, rtol=1e-5)
        assert objects[:, 0].tolist() == given.labels.tolist()
        bright = pixels.amax(0) > 128
        for _, left, top, right, bottom in objects.tolist():
            assert bright[int(top + bottom) // 2, int(left + right) // 2]
        for _, left, top, right, bottom in objects.tolist():
            bright[max(0, int(top) - 5) : int(bottom) + 6, max(0, int(left) - 5) : int(right) + 6] = False  # blended
        assert not bright.any()
    seen = set()
    for epoch in range(6):
        for index in range(len(source)):
            view = ssd_augmented(source.open(index), source.objects(index), epoch, index, preprocess=STRETCHED, seed=0)
            pixels, objects = view
            assert pixels.shape == (3, 300, 300)
            seen.add(tuple(objects.flatten().tolist()))
            for _, left, top, right, bottom in objects.tolist():
                assert 0 <= left < right <= 300 + 1e-3
                assert 0 <= top < bottom <= 300 + 1e-3
                count += 1
                dark += int(pixels[:, int(top + bottom) // 2, int(left + right) // 2].max() < 100)
    assert count > 50
    assert dark <= 0.05 * count  # another object covers it, or colors are darkened
    assert len(seen) > 20


def test_a_view_depends_on_its_seed_alone(data):
    """Oracle: the contract of resuming: the same again, whatever was drawn before, and the global state untouched."""
    source = open_source(data, "train")
    give = {"preprocess": STRETCHED, "seed": 3}
    first = ssd_augmented(source.open(1), source.objects(1), 2, 1, **give)
    before = torch.random.get_rng_state()
    again = ssd_augmented(source.open(1), source.objects(1), 2, 1, **give)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    other = ssd_augmented(source.open(1), source.objects(1), 3, 1, **give)
    assert not torch.equal(first[0], other[0])
    nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    pixels, objects = ssd_augmented(source.open(1), nothing, 0, 1, **give)
    assert (pixels.shape, objects.shape) == ((3, 300, 300), (0, 5))
    crowd = source.objects(1)._replace(crowd=np.array([True, False, True]))
    assert len(stretched(source.open(1), crowd, 0, 1, preprocess=STRETCHED)[1]) == 1


def test_objects_are_mirrored_with_their_image():
    """Oracle: by hand."""
    augmented = Augmented(
        augment=BatchAugment(flip="alternating"), indices=torch.arange(40), seed=0, epoch=0, height=10, width=20
    )
    objects = [torch.tensor([[1.0, 2, 3, 8, 9]])] * 40
    found = Detect().follow(objects, augmented)
    for one, flipped in zip(found, augmented.draws.flipped.tolist(), strict=True):
        assert one.tolist() == [[1, 12, 3, 18, 9] if flipped else [1, 2, 3, 8, 9]]
    assert 5 < augmented.draws.flipped.sum() < 35


def test_a_run_resumes_bit_for_bit_and_predicts(data, tmp_path):
    """Oracle: the run that was not interrupted; the network's own outputs for what it predicts."""
    whole = train(data, out=tmp_path / "whole", **TINY)

    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(data, out=tmp_path / "parts", progress=stop, checkpoint_minutes=0.0, **TINY)
    parts = vggnet.resume(tmp_path / "parts")
    for name, tensor in load_file(whole.weights).items():
        assert torch.equal(load_file(parts.weights)[name], tensor), name
    expected, found = ([{**row, "seconds": 0} for row in run.history] for run in (whole, parts))
    assert found == expected
    assert {"val_map_50", "val_loss", "val_box_loss", "train_map_50"} <= found[0].keys()
    assert whole.config.task.name == "detect"

    network, file = vggnet.load(whole.folder), data / "val" / "1.png"
    assert (network.task, network.preprocess.stretch, network.preprocess.resize) == ("detect", True, 300)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    seen = vggnet.predict(network, [file, tmp_path / "bad.jpg", file])
    assert [one.error is None for one in seen] == [True, False, True]
    assert seen[0].objects == seen[2].objects
    pixels = torch.from_numpy(np.array(Image.open(file).resize((300, 300), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    with torch.inference_mode():
        (direct,) = detect(network(network.preprocess.normalize(pixels[None])), "ssd300")
    boxes = direct.boxes * torch.tensor([36 / 300, 48 / 300] * 2)
    count = len(direct.scores)
    assert len(seen[0].objects) == count
    torch.testing.assert_close(
        torch.tensor([one.box for one in seen[0].objects]).view(-1, 4), boxes, rtol=1e-3, atol=0.1
    )
    assert len(vggnet.predict(network, file, top=2)[0].objects) == min(2, count)
    drawn = Detect().write_predictions([file, tmp_path / "bad.jpg", file], seen, tmp_path / "objects.png")
    assert "2 of 3 pictures" in drawn
    assert (tmp_path / "objects.png").is_file()
    result = vggnet.evaluate(whole.folder, data, split="val", out=whole.folder)
    assert result.images == 3
    from vggnet.run_report import write_report

    page = write_report(whole.folder).path.read_text()
    assert "average precision of white" in page
    assert "validation mAP at IoU 0.5" in page


def test_bad_objects_stop_a_training_or_are_skipped(data, tmp_path):
    """Oracle: the contract of --on-bad-image."""
    for split, place in (("train", 0), ("val", 1)):
        file = data / split / "_annotations.coco.json"
        content = json.loads(file.read_text())
        content["annotations"][3 * place]["bbox"] = [1, 1, 0, 4]
        file.write_text(json.dumps(content))
    with pytest.raises(ImageError, match=r"train/0\.png: the box of .* has no area"):
        train(data, out=tmp_path / "run", **{**TINY, "epochs": 1})
    run = train(data, out=tmp_path / "run", on_bad_image="skip", augment="batch", **{**TINY, "epochs": 1})
    assert len(run.skipped) == 2
    with pytest.raises(ImageError, match="has no area"):
        vggnet.evaluate(run.folder, data, split="val")
    assert list(vggnet.evaluate(run.folder, data, split="val", on_error="return").unreadable) == [1]


def test_data_and_task_must_fit(data, tmp_path):
    """Oracle: the contract: one line that says which task to give."""
    with pytest.raises(DataError, match=r"has objects for each .* the task classify needs a label.*--task detect"):
        train(data, out=tmp_path / "run", preset="photos")
    with pytest.raises(DataError, match=r"digits has a label .* the task detect needs objects"):
        train("digits", out=tmp_path / "run", **TINY)
    with pytest.raises(ConfigError, match=r'head is gap, but with task "detect" it must be ssd300 or ssd512'):
        TrainConfig().override(task="detect", head="gap")
    with pytest.raises(ConfigError, match=r'augment is ssd, but with task "classify" it must be batch or torchvision'):
        TrainConfig().override(augment="ssd")
    with pytest.raises(ConfigError, match=r'shift is 4, but with task "detect" it must be 0'):
        TrainConfig().override(task="detect", head="ssd300", augment="batch", shift=4)
    network = build("vgg11", num_classes=2, head="ssd300", width=0.05).eval()
    network.preprocess, network.classes = STRETCHED, ("red", "white")
    with pytest.raises(ConfigError, match="leave out protocol, scales, flip"):
        vggnet.evaluate(network, data, split="val", flip=True)
    with pytest.raises(ConfigError, match="leave out classifier"):
        vggnet.predict(network, data / "val" / "0.png", classifier=network)
    with pytest.raises(ConfigError, match="so resize must be 300, not 320"):
        Preprocess(resize=320, crop=300, stretch=True)


def test_a_stretched_image(data):
    """Oracle: Pillow; the settings survive JSON, and files of older versions have none."""
    image = open_image(data / "val" / "1.png").decode()
    expected = np.array(image.resize((300, 300), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(STRETCHED.pixels(image).numpy(), expected)
    assert np.array_equal(STRETCHED.whole(image).numpy(), expected)
    assert Preprocess.from_dict(STRETCHED.as_dict()) == STRETCHED
    assert "stretch" not in Preprocess().as_dict()
    assert STRETCHED.as_timm()["crop_mode"] == "squash"
