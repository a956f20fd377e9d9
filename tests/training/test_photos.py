"""Folders of photos, and fine-tuning: workers change nothing, given weights arrive, resumption is exact."""

import shlex
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as tv
from trainings import train

import vggnet
from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.image_folder import open_folder
from vggnet.errors import ConfigError, DataError, ImageError, RunError
from vggnet.models.vgg import build
from vggnet.training.inputs import make_augment, make_prepare, make_preprocess, make_train_batches
from vggnet.training.loop import Position
from vggnet.training.presets import preset
from vggnet.weights.checkpoint import load, save

PHOTOS = preset("photos")

TINY = {
    "preset": "photos", "model": "vgg11_bn", "width": 0.05, "resize": 80, "crop": 72, "epochs": 2, "batch_size": 4,
}  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    """Ten photos, two of each of five colors, in training and as many for testing."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(2):
            folder = tmp_path / "photos" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 128, (90, 110, 3), dtype=np.uint8)
                pixels[..., label] += 127
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return tmp_path / "photos"


def tensors(run):
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(run.weights).items()}


def test_workers_change_nothing(photos, tmp_path):
    """Oracle: the same training in one process."""
    alone = train(photos, out=tmp_path / "alone", workers=0, **TINY)
    beside = train(photos, out=tmp_path / "beside", workers=2, **TINY)
    assert tensors(alone) == tensors(beside)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("changes", [{"jitter": 0.0}, {"jitter": 0.0, "cutout": 9}, {"min_area": 1.0, "shift": 3}])
def test_what_the_network_sees(photos, changes, workers, monkeypatch):
    """Oracle: torchvision normalizes what the augmentation gives, which has tests of its own, image by image."""
    monkeypatch.setattr("vggnet.data.augmentation.CACHED_IMAGES", 2)
    monkeypatch.setattr("vggnet.data.augmentation.CACHED_PIXELS", 2 * 72 * 72)  # pieces of two images
    config = PHOTOS.override(resize=80, crop=72, batch_size=4, workers=workers, **changes)
    source = open_folder(photos, "train")
    preprocess = make_preprocess(config, source)
    augment, prepare = make_augment(config, preprocess), make_prepare(config, preprocess)
    for batch in make_train_batches(config, source, preprocess, np.arange(7)).epoch(3):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        images = prepare(batch.images, batch.indices, 3)
        assert images.is_contiguous(memory_format=torch.channels_last)
        for image, pixels, index in zip(images, batch.images, batch.indices, strict=True):
            augmented = augment(pixels[None].contiguous(), index[None], seed=0, epoch=3)
            expected = tv.normalize(augmented[0], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


def test_gray_photos(photos, tmp_path):
    """Oracle: the first layer has one channel, and so have mean and deviation; testing and predicting follow."""
    run = train(photos, out=tmp_path / "run", workers=0, in_channels=1, **TINY)
    model = vggnet.load(run.folder)
    assert model.features.conv1_1.weight.shape[1] == 1
    assert len(model.preprocess.mean) == len(model.preprocess.std) == 1
    assert vggnet.evaluate(run.folder, data=photos, workers=0).images == 12
    (answer,) = vggnet.predict(run.folder, photos / "test" / "class0" / "0.jpg")
    assert answer.error is None


def test_an_interrupted_run_on_photos_goes_on_exactly(photos, tmp_path, monkeypatch):
    """Oracle: the uninterrupted run. Interrupted in the middle of an epoch, by an error of ours."""
    whole = train(photos, out=tmp_path / "whole", workers=0, **TINY)
    count = Position.count

    def interrupt(self, *arguments):
        count(self, *arguments)
        if (self.epoch, self.step) == (1, 1):
            raise ZeroDivisionError

    monkeypatch.setattr(Position, "count", interrupt)
    with pytest.raises(ZeroDivisionError):
        train(photos, out=tmp_path / "run", workers=0, checkpoint_minutes=0, **TINY)
    monkeypatch.undo()
    assert tensors(vggnet.resume(tmp_path / "run")) == tensors(whole)


def test_the_papers_training(photos, tmp_path):
    """Oracle: numpy's covariance of all pixels; a run resumed from its first checkpoint; the middle of both scales."""
    options = {**TINY, "preset": "paper", "head": "gap", "resize": 72, "max_resize": 100, "accumulate": 2}
    run = train(photos, out=tmp_path / "run", workers=0, checkpoint_minutes=0, **options)
    assert run.preprocess.resize == 86
    axes = np.array(run.config.augment.color_axes).reshape(3, 3)
    files = sorted((photos / "train").rglob("*.jpg"))
    colors = np.concatenate([np.asarray(seen(file, 86, 72)).reshape(-1, 3) for file in files]) / 255
    covariance = np.cov(colors.T, bias=True)
    np.testing.assert_allclose(axes @ axes.T, covariance @ covariance, rtol=1e-3, atol=1e-9)
    again = train(photos, out=tmp_path / "again", workers=2, **options)
    assert tensors(run) == tensors(again)


def seen(file, resize, crop):
    """Pillow's bilinear resizing, and its center."""
    image = Image.open(file)
    image = image.resize([int(resize * side / min(image.size)) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (round((side - crop) / 2) for side in image.size)
    return image.crop((left, top, left + crop, top + crop))


@pytest.mark.parametrize("fields", [{"max_resize": 64}, {"min_area": 0.5}])
def test_random_crops_of_small_images_reach_their_borders(tmp_path, fields):
    """Oracle: images with a bright border that a center crop does not show: it is in most random ones."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for number in range(20):
            pixels[:8] = pixels[-8:] = pixels[:, :8] = pixels[:, -8:] = 255
            Image.fromarray(pixels).save(tmp_path / "photos" / "train" / name / f"{number}.png")
    config = PHOTOS.override(resize=64, crop=48, **{"min_area": 1.0, "max_resize": None, **fields})
    source = open_folder(tmp_path / "photos", "train")
    batches = make_train_batches(config, source, make_preprocess(config, source), np.arange(40))
    images = torch.cat([batch.images for batch in batches.epoch(0)])
    assert (images.amax((1, 2, 3)) > 200).sum() > 30


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_photo_leaves_room_for_the_next_try(photos, tmp_path, workers):
    """Oracle: no folder is left, and once the photo is mended the same command trains."""
    broken = photos / "train" / "class1" / "3.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:1000])
    options = {"out": tmp_path / "runs" / "mine", "workers": workers, **TINY, "epochs": 1}
    with pytest.raises(ImageError, match=r"3\.jpg"):
        train(photos, **options)
    assert not (tmp_path / "runs").exists()
    broken.write_bytes(whole)
    assert train(photos, **options).finished


def test_a_few_photos_are_enough(photos, tmp_path):
    """Oracle: by hand: a twentieth of twelve is less than two classes, so one photo of each is validated on."""
    run = train(photos, out=tmp_path / "run", workers=0, val_fraction=0.05, **TINY)
    assert all(row["val_accuracy"] in (0, 0.5, 1) for row in run.history)


def filled(value, **architecture):
    """A network whose every parameter and statistic is `value`."""
    model = build("vgg11_bn", width=0.05, **architecture)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


def test_fine_tuning_starts_from_the_given_weights(photos, tmp_path):
    """Oracle: with a rate of almost nothing, the convolutions end as they were given; network and statistics follow."""
    model = build("vgg13_bn", num_classes=7, head="cifar", width=0.05)
    save(model, tmp_path / "given.safetensors", preprocess=Preprocess.imagenet())
    fields = {name: value for name, value in TINY.items() if name not in ("model", "width")}
    run = train(photos, init_from=tmp_path / "given.safetensors", out=tmp_path / "run", workers=0, lr=1e-12, **fields)
    trained = load(run.folder)
    assert trained.architecture.name == "vgg13_bn"
    assert trained.preprocess.mean == load(tmp_path / "given.safetensors").preprocess.mean
    for name, parameter in model.features.named_parameters():
        torch.testing.assert_close(trained.features.get_parameter(name), parameter, rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [None, "vgg11"])
def test_what_is_random_is_not_frozen(photos, tmp_path, given):
    """Oracle: by hand: column A has no conv1_2, which the paper's deeper columns start at random."""
    fields = {**TINY, "model": "vgg16", "freeze": 2}
    if given:
        save(
            build(given, num_classes=2, head="gap", width=0.05),
            tmp_path / "given.safetensors",
            preprocess=Preprocess.imagenet(),
        )
        fields["init_from"] = tmp_path / "given.safetensors"
    first = "conv1_2" if given else "conv1_1"
    with pytest.raises(ConfigError, match=f"freeze is 2, but .* features.{first}.weight, are random"):
        train(photos, out=tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


def test_the_command_fine_tunes_by_its_preset(photos, tmp_path, monkeypatch):
    """Oracle: the preset, written down here; the network is that of the weights."""
    save(
        build("vgg11_bn", num_classes=7, head="gap", width=0.05),
        tmp_path / "given.safetensors",
        preprocess=Preprocess.imagenet(),
    )
    told = {}

    def stop(run, model, inputs, *others):
        told.update(inputs.config.as_options())
        raise ZeroDivisionError

    monkeypatch.setattr("vggnet.training.train._run", stop)
    with pytest.raises(ZeroDivisionError):
        main(["train", "--data", str(photos), "--init-from", str(tmp_path / "given.safetensors"), "--epochs", "3",
              "--out", str(tmp_path / "run")])  # fmt: skip
    assert {name: told[name] for name in ("model", "width", "freeze", "lr", "epochs", "crop")} == {
        "model": "vgg11_bn", "width": 0.05, "freeze": 4, "lr": 0.01, "epochs": 3, "crop": 224,
    }  # fmt: skip


def test_fine_tuning_at_another_width_from_features_alone(photos, tmp_path):
    """Oracle: with a rate of almost nothing, the first channels of the given convolutions."""
    model = build("vgg11_bn", head="none", width=0.1)
    save(model, tmp_path / "given.safetensors", preprocess=Preprocess.imagenet())
    run = train(photos, init_from=tmp_path / "given.safetensors", out=tmp_path / "run", workers=0, lr=1e-12, **TINY)
    trained = load(run.folder)
    assert trained.architecture.width == 0.05
    for name, parameter in trained.features.named_parameters():
        given = model.features.get_parameter(name)[tuple(map(slice, parameter.shape))]
        torch.testing.assert_close(parameter, given, rtol=0, atol=1e-6)


def test_fine_tuning_is_resumed_from_the_given_weights(photos, tmp_path, monkeypatch):
    """Oracle: the uninterrupted run. Interrupted before its first step, when no seed can give these weights again."""
    save(filled(0.01, num_classes=2, head="gap"), tmp_path / "given.safetensors", preprocess=Preprocess.imagenet())
    options = {"init_from": tmp_path / "given.safetensors", "workers": 0, **TINY}
    whole = train(photos, out=tmp_path / "whole", **options)

    def interrupt(*arguments, **fields):
        raise ZeroDivisionError

    monkeypatch.setattr("vggnet.training.session.fit", interrupt)
    with pytest.raises(ZeroDivisionError):
        train(photos, out=tmp_path / "run", **options)
    monkeypatch.undo()
    (tmp_path / "given.safetensors").unlink()
    assert tensors(vggnet.resume(tmp_path / "run")) == tensors(whole)


@pytest.fixture
def stopped(photos, tmp_path, monkeypatch):
    """A run that Ctrl-C ended in its second step; its name has a space."""
    count = Position.count

    def interrupt(self, *arguments):
        count(self, *arguments)
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Position, "count", interrupt)
        run = train(photos, out=tmp_path / "my run", workers=0, **TINY)
    assert not run.finished
    return run


def test_a_run_goes_on_with_a_copy_of_its_images(stopped, photos, tmp_path):
    """Oracle: the uninterrupted run. Times of files are another's, names and sizes the same."""
    whole = train(photos, out=tmp_path / "whole", workers=0, **TINY)
    shutil.copytree(photos, tmp_path / "elsewhere", copy_function=shutil.copy)
    shutil.rmtree(photos)
    with pytest.raises(DataError, match="say where they are now"):
        vggnet.resume(stopped.folder)
    assert tensors(vggnet.resume(stopped.folder, data=tmp_path / "elsewhere")) == tensors(whole)


def test_a_run_does_not_go_on_with_other_images(stopped, photos, tmp_path):
    """Oracle: one of them is another picture."""
    shutil.copytree(photos, tmp_path / "other")
    Image.new("RGB", (90, 110)).save(tmp_path / "other" / "train" / "class0" / "3.jpg")
    with pytest.raises(RunError, match="is not what"):
        vggnet.resume(stopped.folder, data=tmp_path / "other")


def test_what_is_to_be_typed_can_be_typed(stopped, photos, tmp_path, capsys):
    """Oracle: the shell's rules: what the command says to type is typed, word by word."""
    with pytest.raises(SystemExit, match="^0$"):
        main(["train", "--resume", str(stopped.folder)])
    typed = capsys.readouterr().out.splitlines()[-1].removeprefix("next: vgg ")
    with pytest.raises(SystemExit, match="^0$"):
        main([*shlex.split(typed), "--data", str(photos)])
