"""The loop and the step: against plain PyTorch, hand-worked schedules, and poisoned gradients."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import vggnet
from vggnet.data.decoding import StoredImage
from vggnet.data.loading import EvalBatches, TrainBatches
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError, NonFiniteError, RunError, StorageError
from vggnet.models.vgg import build
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.config import ARTICLE, DIGITS, FAST, PAPER, PRESETS, TrainConfig
from vggnet.training.learner import build_model, make_learner
from vggnet.training.loop import Position
from vggnet.training.run import Run, best_row, has_ended
from vggnet.training.schedules import drops, lr_factor, one_cycle
from vggnet.weights.checkpoint import save

TINY = replace(DIGITS, model="vgg11", width=0.05, batch_size=16, init="he", lr=0.05)


class Noise(Source):
    """Random 32x32 images whose value at (0, 0) is their index."""

    def __init__(self, count, num_classes=3):
        labels = np.arange(count, dtype=np.int64) % num_classes
        super().__init__(name="noise", split="train", classes=[*map(str, range(num_classes))], labels=labels)

    def open(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pixels[0, 0, 0] = index
        return StoredImage(Image.fromarray(pixels), f"noise {index}")

    def describe(self, index):
        return f"noise {index}"

    @property
    def fingerprint(self):
        return f"noise-{len(self)}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


def batch(count=16):
    torch.manual_seed(3)
    return torch.randn(count, 3, 32, 32), torch.arange(count) % 3


def test_step_equals_plain_pytorch():
    """Oracle: three steps of torch's SGD with the weights and the biases typed out as two groups."""
    images, labels = batch()
    config = replace(TINY, label_smoothing=0.1, momentum=0.9, weight_decay=0.01)
    learner = make_learner(config, build_model(config, 3))
    model = copy.deepcopy(learner.model)
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    plain = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0}],
        lr=0.05, momentum=0.9, nesterov=True,
    )  # fmt: skip
    for _ in range(3):
        (loss_sum, correct), count = learner.train_step(images, labels)
        assert count == 16
        logits = model(images)
        assert loss_sum == pytest.approx(F.cross_entropy(logits, labels).item() * 16, rel=1e-5)
        assert correct == sum(int(logits[i].argmax() == labels[i]) for i in range(16))
        plain.zero_grad()
        F.cross_entropy(logits, labels, label_smoothing=0.1).backward()
        plain.step()
    for found, expected in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_accumulated_parts_equal_the_whole_batch():
    """Oracle: the same step without accumulation, on a network without batch norm; 16 images in parts of 5 or 6."""
    images, labels = batch()
    whole = make_learner(TINY, build_model(TINY, 3))
    parts = make_learner(replace(TINY, accumulate=3), build_model(TINY, 3))
    for _ in range(2):
        sums, count = whole.train_step(images, labels)
        assert (pytest.approx(sums, rel=1e-5), count) == parts.train_step(images, labels)
    for found, expected in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_without_images_changes_nothing():
    """Oracle: the weights before the step."""
    images, labels = batch()
    learner = make_learner(replace(TINY, momentum=0.9), build_model(TINY, 3))
    learner.train_step(images, labels)
    before = copy.deepcopy(learner.model.state_dict())
    assert learner.train_step(images[:0], labels[:0]) == ([0.0, 0.0], 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.model.state_dict().items())


def test_average_follows_its_formula():
    """Oracle: average = decay * average + (1 - decay) * weights, in a loop; it starts at the first weights."""
    images, labels = batch()
    learner = make_learner(replace(TINY, ema=0.8), build_model(TINY, 3))
    expected = None
    for _ in range(4):
        learner.train_step(images, labels)
        weights = learner.model.head.fc.weight.detach().clone()
        expected = weights if expected is None else 0.8 * expected + 0.2 * weights
    torch.testing.assert_close(learner.kept.head.fc.weight, expected)


@pytest.mark.parametrize(("progress", "factor"), [(0, 0.2), (0.1, 0.6), (0.2, 1), (0.6, 0.5), (1, 0)])
def test_one_cycle_by_hand(progress, factor):
    """Oracle: up from 0.2 to 1 in the first fifth, straight down to 0 in the other four."""
    assert one_cycle(progress, 0.2) == pytest.approx(factor)


def test_article_rate_drops_every_thirty_epochs():
    """Oracle: the tutorial: 0.01, times 0.1 every 30 epochs."""
    steps = 352
    rates = [ARTICLE.lr * lr_factor(ARTICLE, steps, epoch * steps) for epoch in (0, 29, 30, 49)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert lr_factor(ARTICLE, steps, 30 * steps - 1) == 1


def test_plateau_by_hand():
    """Oracle: by hand, with patience 2: epochs 3 and 4 are no better than epoch 2, 5 and 6 neither, and so on."""
    accuracies = [0.3, 0.5, 0.5, 0.4, 0.45, 0.5, 0.6, 0.6, 0.1, 0.2, 0.2, 0.2]
    assert [drops(accuracies[:epochs], 2) for epochs in range(13)] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    config = replace(PAPER, plateau_epochs=2)
    rows = [{"val_accuracy": accuracy} for accuracy in accuracies]
    assert PAPER.lr * lr_factor(config, 10, 1, rows[:6]) == pytest.approx(1e-4)


def test_paper_preset_is_the_papers_recipe():
    """Oracle: section 3.1 of the paper, typed by hand."""
    assert (PAPER.batch_size, PAPER.momentum, PAPER.nesterov, PAPER.weight_decay) == (256, 0.9, False, 5e-4)
    assert (PAPER.dropout, PAPER.lr, PAPER.epochs, PAPER.crop, PAPER.color_shift) == (0.5, 1e-2, 74, 224, 0.1)
    assert (PAPER.resize, PAPER.max_resize, PAPER.flip, PAPER.schedule) == (256, 256, "random", "plateau")


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_frozen_blocks_stay_as_they_are(tmp_path, optimizer):
    """Oracle: the weights and statistics before training, tensor by tensor; all others have moved."""
    given = build("vgg11_bn", num_classes=10, head="cifar", width=0.05)
    given.classes = tuple(map(str, range(10)))
    save(given, tmp_path / "given.safetensors", preprocess=Preprocess.cifar10())
    options = {"preset": "digits", "epochs": 1, "optimizer": optimizer, "init_from": tmp_path / "given.safetensors"}
    run = vggnet.train("digits", out=tmp_path / "run", freeze=2, **options)
    before, after = given.state_dict(), vggnet.load(run.folder).state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {
        name for name in before if name.split("_")[0] in {f"features.{k}{b}" for k in ("conv", "bn") for b in (1, 2)}
    }


def test_article_preset_is_the_articles_recipe():
    """Oracle: the facts of the tutorial, typed by hand."""
    assert (ARTICLE.model, ARTICLE.head, ARTICLE.init, ARTICLE.dropout) == ("vgg16_bn", "paper", "he", 0.5)
    assert (ARTICLE.lr, ARTICLE.momentum, ARTICLE.weight_decay, ARTICLE.nesterov) == (0.01, 0.9, 5e-4, False)
    assert (ARTICLE.epochs, ARTICLE.batch_size, ARTICLE.label_smoothing, ARTICLE.decay_norms) == (50, 128, 0, True)
    learner = make_learner(replace(ARTICLE, width=0.05), build_model(replace(ARTICLE, width=0.05), 10))
    assert {group["weight_decay"] for group in learner.optimizer.param_groups} == {5e-4}


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_each_parameter_has_its_rate(optimizer):
    """Oracle: the documentation of the options lr, kernel_lr and norm_bias_lr, name by name."""
    config = replace(FAST, width=0.05, lr=1.0, kernel_lr=2.0, norm_bias_lr=3.0, optimizer=optimizer)
    learner = make_learner(config, build_model(config, 3))
    rates = {p: group["base_lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    names = dict(learner.model.named_parameters())
    assert len(rates) == len(names)
    muons = {"conv.weight": 2.0, "bn.bias": 3.0} if optimizer == "muon" else {}
    for name, parameter in names.items():
        kind, _, which = name.removeprefix("features.").partition(".")
        assert rates[parameter] == muons.get(f"{kind.rstrip('_1234')}.{which}", 1.0), name


@pytest.mark.parametrize("poison", ["image", "weight"])
def test_non_finite_values_stop_before_the_update(poison):
    """Oracle: the weights before the step."""
    images, labels = batch()
    learner = make_learner(TINY, build_model(TINY, 3))
    if poison == "image":
        images[3, 0, 5, 5] = torch.nan
    else:
        with torch.no_grad():
            learner.model.head.fc.weight[0, 0] = torch.inf
    before = copy.deepcopy(learner.model.state_dict())
    with pytest.raises(NonFiniteError):
        learner.train_step(images, labels)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.model.state_dict().items())


def test_divergence_names_step_and_advice_and_keeps_the_checkpoint(tmp_path):
    """Oracle: a learning rate that must diverge; what is on the disk is finite and no later than the message says."""
    with pytest.raises(NonFiniteError, match=r"step \d+ of epoch 1 .*lower lr.* The last checkpoint is sound\."):
        vggnet.train(
            "digits", out=tmp_path / "run", model="vgg11", width=0.05, epochs=2, lr=1e6, checkpoint_minutes=0.0
        )
    learner = make_learner(DIGITS, build_model(replace(DIGITS, model="vgg11", width=0.05), 10))
    Checkpoints(tmp_path / "run" / "state").restore(learner)
    assert all(torch.isfinite(tensor).all() for tensor in learner.model.state_dict().values())


@pytest.mark.parametrize("before", [(), ("runs",), ("runs", "runs/mine")], ids=["nothing", "runs", "empty folder"])
def test_divergence_before_the_first_checkpoint_leaves_no_trace(tmp_path, before):
    """Oracle: the folders before; nothing is said of a checkpoint."""
    for folder in before:
        (tmp_path / folder).mkdir()
    with pytest.raises(NonFiniteError, match="lower lr") as raised:
        vggnet.train("digits", out=tmp_path / "runs" / "mine", model="vgg11", width=0.05, epochs=2, lr=1e6)
    assert "checkpoint" not in str(raised.value)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert {path for path in found if not path.startswith("cache")} == set(before)


def test_what_others_put_into_a_failed_run_stays(tmp_path, monkeypatch):
    """Oracle: a file that is written there while the first step runs."""

    def fail(self, *arguments):
        (tmp_path / "run" / "mine.txt").write_text("mine")
        raise ZeroDivisionError

    monkeypatch.setattr(Position, "count", fail)
    with pytest.raises(ZeroDivisionError):
        vggnet.train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_second_ctrl_c_leaves_a_run_that_starts_again(tmp_path, monkeypatch):
    """Oracle: the training that was not interrupted."""
    options = {"width": 0.05, "epochs": 1, "batch_size": 512}
    whole = vggnet.train("digits", out=tmp_path / "whole", **options)

    def interrupt(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Position, "count", interrupt)
    with pytest.raises(KeyboardInterrupt):
        vggnet.train("digits", out=tmp_path / "run", **options)
    monkeypatch.undo()
    assert vggnet.resume(tmp_path / "run").history[0]["train_loss"] == whole.history[0]["train_loss"]


def test_checkpoints_refuse_non_finite_buffers(tmp_path):
    """Oracle: a batch-norm buffer poisoned by hand; the older checkpoint stays."""
    learner = make_learner(DIGITS, build_model(replace(DIGITS, width=0.05), 3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(learner, Position(step=1))
    learner.model.features.bn2_1.running_var[0] = torch.inf
    with pytest.raises(NonFiniteError, match="bn2_1.running_var"):
        checkpoints.save(learner, Position(step=2))
    assert Checkpoints(tmp_path).newest_position().step == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path, damage):
    """Oracle: the older checkpoint's weights."""
    learner = make_learner(TINY, build_model(TINY, 3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(learner, Position(step=1))
    older = copy.deepcopy(learner.model.state_dict())
    learner.train_step(*batch())
    checkpoints.save(learner, Position(step=2))
    newest = tmp_path / "epoch-0000-step-000002.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: newest.write_bytes(content),
        "truncate": lambda: newest.write_bytes(content[:-1]),
        "remove": newest.unlink,
    }[damage]()
    again = make_learner(TINY, build_model(TINY, 3))
    position, notes = Checkpoints(tmp_path).restore(again)
    assert position.step == 1
    assert len(notes) == 1
    assert newest.name in notes[0]
    assert all(torch.equal(older[name], tensor) for name, tensor in again.model.state_dict().items())
    Checkpoints(tmp_path).save(again, Position(step=2))
    assert Checkpoints(tmp_path).restore(again)[0].step == 2


def test_when_every_checkpoint_is_damaged_the_run_stops(tmp_path):
    """Oracle: the only checkpoint, emptied."""
    learner = make_learner(TINY, build_model(TINY, 3))
    Checkpoints(tmp_path).save(learner, Position(step=1))
    (tmp_path / "epoch-0000-step-000001.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="epoch-0000-step-000001"):
        Checkpoints(tmp_path).restore(learner)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """Oracle: the older checkpoint, found whole by a fresh reader; the disk fails while the tensors are written."""
    learner = make_learner(TINY, build_model(TINY, 3))
    Checkpoints(tmp_path).save(learner, Position(step=1))

    def full(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vggnet.training.checkpoints.save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        Checkpoints(tmp_path).save(learner, Position(step=2))
    monkeypatch.undo()
    assert Checkpoints(tmp_path).restore(learner)[0].step == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checkpoints.json",
        "epoch-0000-step-000001.safetensors",
    ]


@pytest.mark.parametrize(("count", "size", "batches"), [(10, 4, 3), (9, 4, 3), (8, 4, 2), (1, 4, 1), (5, 1, 5)])
def test_an_epoch_sees_every_image_once(count, size, batches):
    """Oracle: the set of indices; the pixels are the indexed image's."""
    source, preprocess = Noise(count), Preprocess(resize=32, crop=32)
    train = TrainBatches(source, preprocess, size, indices=np.arange(count), seed=1)
    seen = list(train.epoch(0))
    assert len(seen) == len(train) == batches
    sizes = [len(item.indices) for item in seen]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    indices = torch.cat([item.indices for item in seen])
    assert sorted(indices.tolist()) == list(range(count))
    for item in seen:
        assert torch.equal(item.images[:, 0, 0, 0].long(), item.indices)
        assert torch.equal(item.labels, item.indices % 3)


def test_the_order_is_a_function_of_seed_and_epoch():
    """Oracle: the tail of the whole epoch; other seeds and epochs give other orders."""
    source, preprocess = Noise(40), Preprocess(resize=32, crop=32)

    def order(seed, epoch, start=0):
        train = TrainBatches(source, preprocess, 8, indices=np.arange(40), seed=seed)
        return [item.indices.tolist() for item in train.epoch(epoch, start)]

    assert order(1, 2, start=3) == order(1, 2)[3:]
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_worker_batches_equal_the_batches_of_one_process():
    """Oracle: no workers. Larger images go through the loader."""
    source, preprocess = Noise(7), Preprocess(resize=80, crop=72)
    alone, workers = (list(EvalBatches(source, preprocess, 3, workers=n)) for n in (0, 2))
    assert [len(item.images) for item in alone] == [3, 2, 2]
    for one, other in zip(alone, workers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_best_epoch_and_early_stop_by_hand():
    """Oracle: five rows typed by hand. Of equals the last is kept, but patience is counted from the first."""
    rows = [{"epoch": n + 1, "val_accuracy": value} for n, value in enumerate([0.5, 0.7, 0.7, 0.6, 0.65])]
    assert best_row(rows)["epoch"] == 3
    assert has_ended(replace(FAST, epochs=9, patience=3), rows)
    assert not has_ended(replace(FAST, epochs=9, patience=4), rows)
    assert has_ended(replace(FAST, epochs=5), rows)
    assert best_row([{"epoch": 1}, {"epoch": 2}])["epoch"] == 2


def test_of_equal_epochs_the_last_is_kept(tmp_path, monkeypatch):
    """Oracle: validation that gives 0.5, 0.7, 0.7 and 0.6, so the third epoch is noted in the weights."""
    accuracies = iter([0.5, 0.7, 0.7, 0.6])
    monkeypatch.setattr(
        "vggnet.training.train.make_validator",
        lambda *_, **__: lambda _: {"val_loss": 1.0, "val_accuracy": next(accuracies)},
    )
    run = vggnet.train("digits", out=tmp_path / "run", width=0.05, epochs=4, batch_size=1024)
    from safetensors import safe_open

    with safe_open(run.weights, framework="pt") as file:
        assert json.loads(file.metadata()["notes"])["epoch"]["epoch"] == 3


def test_a_finished_run_without_its_weights_is_not_called_fine(tmp_path):
    """Oracle: the missing file is named."""
    run = vggnet.train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512)
    run.weights.unlink()
    with pytest.raises(RunError, match=r"weights\.safetensors is missing.*another folder"):
        vggnet.resume(run.folder)


def test_training_without_validation_keeps_the_last_epoch(tmp_path):
    """Oracle: the run folder: history without validation, and the weights note the last epoch."""
    run = vggnet.train("digits", out=tmp_path / "run", width=0.05, epochs=2, batch_size=256, val_fraction=0.0)
    assert run.finished
    assert all("val_accuracy" not in row for row in run.history)
    from safetensors import safe_open

    with safe_open(run.weights, framework="pt") as file:
        assert json.loads(file.metadata()["notes"])["epoch"]["epoch"] == 2
    assert vggnet.load(run.folder).preprocess == run.preprocess
    assert vggnet.resume(run.folder).history == run.history


def test_statistics_of_digits_are_measured(tmp_path):
    """Oracle: numpy over the decoded training images."""
    from vggnet.data.sources.opening import open_source

    run = vggnet.train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512)
    source = open_source("digits", "train")
    pixels = np.stack([np.asarray(source.read(index)) for index in range(len(source))]) / 255
    assert run.preprocess.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-4)
    assert run.preprocess.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-4)


def test_a_run_folder_tells_which_convolutions_were_used(tmp_path):
    """Oracle: the shapes of VGG-11 with 32 channels in block 2, by hand; both passes of the gradient and validation."""
    run = vggnet.train("digits", out=tmp_path / "run", model="vgg11_bn", width=0.25, epochs=1, batch_size=256)
    found = json.loads((run.folder / "choices.json").read_text())
    for key in ("forward n<=256 16x16 16->32", "grad_input n<=256 16x16 16->32", "grad_weight n<=256 16x16 16->32"):
        assert found[key]["algorithm"] in found[key]["ms"]
    assert any(key.startswith("answer relu pool n<=") and key.endswith(" 16x16 16->32") for key in found)


def test_a_run_folder_is_never_overwritten(tmp_path):
    """Oracle: the file that was there."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        vggnet.train("digits", out=tmp_path, epochs=1)
    assert [file.name for file in tmp_path.iterdir() if file.name != "cache"] == ["mine.txt"]


def test_what_is_not_a_run_folder_is_refused(tmp_path):
    """Oracle: an empty folder, a missing one, a damaged config."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match="not a run folder"):
            Run.open(folder)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        Run.open(tmp_path).description  # noqa: B018 (the property raises)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("epochs", 0),
        ("val_fraction", 1.0),
        ("momentum", -0.1),
        ("accumulate", 5000),
        ("min_area", 0.0),
        ("epochs", 1.5),
        ("epochs", True),
        ("lr", "fast"),
        ("device", 3),
        ("compile", "yes"),
    ],
)
def test_impossible_values_name_their_field(field, value):
    """Oracle: the name of the field."""
    with pytest.raises(ConfigError, match=field):
        replace(FAST, **{field: value})


def test_config_survives_json():
    """Oracle: equality for every preset."""
    for config in PRESETS.values():
        assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    with pytest.raises(ConfigError, match="color"):
        TrainConfig.from_dict({"color": 1})
