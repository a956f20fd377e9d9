"""Presets: recipes as changes of the neutral options, each with its command, hardware, time and accuracy.

Accuracies are means over seeds, on test images that are touched once; docs/results.md has the runs.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggnet.errors import ConfigError
from vggnet.tasks import DEFAULT, get_task, suggest_task
from vggnet.training.config import TrainConfig

if TYPE_CHECKING:
    from vggnet.data.sources.source import Source


def preset(name: str, *, init_from: str | Path | None = None) -> TrainConfig:
    """The configuration of a preset.

    Args:
        name: a key of `PRESETS`.
        init_from: weights to start from; the network, its width and channels, mean and deviation are then theirs, and
            so is the head if it serves the task and works on images of the preset's size.

    Raises:
        ConfigError: there is no such preset.
        WeightsError: the weights cannot be read.

    Example:
        >>> preset("fast").override(epochs=3).schedule.epochs
        3
        >>> preset("photos", init_from="vgg8_bn-cifar10-fast").model.name
        'vgg8_bn'
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}. The presets are {', '.join(PRESETS)}.")
    config = PRESETS[name]()
    if init_from is None:
        return config
    from vggnet.models.heads import takes  # these import PyTorch
    from vggnet.weights.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(init_from)
    given = checkpoint.architecture
    options: dict[str, Any] = {"model": given.name, "width": given.width, "in_channels": given.in_channels}
    options["channels"] = given.channels
    if get_task(config.task.name).keeps_head(given) and takes(given.head, config.data.crop):
        options |= {"head": given.head, "ranks": given.ranks}
    if checkpoint.preprocess is not None:
        options |= checkpoint.preprocess.statistics()
    return config.override(**options)


def suggest_preset(source: "Source", *, init_from: str | Path | None = None, task: str | None = None) -> str:
    """The preset for images: "digits" for the digits, "fast" for small ones, else "photos".

    The size is the typical one of the set, not that of its first image.

    From weights "finetune" instead of "photos"; for a task other than classification the preset of that task.

    Args:
        source: of the training images.
        init_from: the weights to start from, if any.
        task: what is to be predicted; by default what the images are annotated for.

    Raises:
        DataError: no image can be read.
    """
    from vggnet.data.inspection import typical_size
    from vggnet.data.preprocess import is_small

    task = task or suggest_task(source)
    if task != DEFAULT and (init_from is not None or source.annotation != get_task(DEFAULT).annotation):
        return next(name for name, make in PRESETS.items() if make().task.name == task)
    if source.name == "digits":
        return "digits"
    if is_small(min(typical_size(source))):
        return "fast"
    return "photos" if init_from is None else "finetune"


def fast() -> TrainConfig:
    """Small images such as CIFAR-10's, by our own network.

    Command: vgg train --data cifar10 --preset fast
    Hardware: 2 cores of AMD EPYC (Zen 5).
    Time: 22.5 minutes for 10 epochs of 50,000 images.
    Accuracy: 93.35 % on test, 94.15 % by six views (3 seeds).
    """
    return TrainConfig().override(
        model="vgg8_bn",
        head="cifar",
        width=1.5,
        init="dirac",
        resize=32,
        crop=32,
        val_fraction=0.05,
        shift=2,
        flip="alternating",
        epochs=10,
        batch_size=512,
        optimizer="muon",
        momentum=0.85,
        nesterov=True,
        weight_decay=0.1,
        label_smoothing=0.2,
    )


def quick() -> TrainConfig:
    """As `fast`, at half its width and 4 epochs.

    Command: vgg train --data cifar10 --preset quick
    Hardware: 2 cores of AMD EPYC (Zen 3).
    Time: 8.0 minutes.
    Accuracy: 90.40 % on test, 91.11 % by six views (3 seeds).
    """
    return fast().override(width=0.75, epochs=4)


def best() -> TrainConfig:
    """As `fast`, wider and 12 epochs: width improves accuracy more than further epochs do.

    Command: vgg train --data cifar10 --preset best
    Hardware: 2 cores of AMD EPYC (Zen 5).
    Time: 50.2 minutes.
    Accuracy: 94.20 % on test, 94.54 % by six views (1 seed).
    """
    return fast().override(width=2.0, epochs=12)


def article() -> TrainConfig:
    """The tutorial that this project started from: VGG-16-BN with the paper's head on 32x32 images.

    It divides the learning rate by 10 after 30 epochs, decays every parameter, and normalizes by a deviation that is
    not that of CIFAR-10's pixels.

    Command: vgg train --data cifar10 --preset article
    Hardware: 2 cores of AMD EPYC (Zen 3).
    Time: 12.8 hours, estimated from the first 112 steps.
    Accuracy: not measured.
    """
    return TrainConfig().override(
        model="vgg16_bn",
        head="paper",
        init="he",
        resize=32,
        crop=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        val_fraction=0.1,
        augment="torchvision",
        epochs=50,
        batch_size=128,
        optimizer="sgd",
        lr=0.01,
        schedule="step",
        step_epochs=30,
        momentum=0.9,
        weight_decay=5e-4,
        decay_norms=True,
    )


def photos() -> TrainConfig:
    """Folders of photos at 224 pixels, from random weights.

    Command: vgg train --data photos/ --preset photos
    Hardware, time and accuracy: not measured from random weights; see `finetune`.
    """
    return TrainConfig().override(
        model="vgg16_bn",
        head="gap",
        init="he",
        resize=256,
        crop=224,
        val_fraction=0.1,
        flip="random",
        jitter=0.2,
        min_area=0.25,
        epochs=30,
        batch_size=32,
        optimizer="sgd",
        lr=0.05,
        warmup=0.2,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        label_smoothing=0.1,
    )


def finetune() -> TrainConfig:
    """Photos, from weights that were trained on photos: block 5 and the head are trained, in small steps.

    Command: vgg train --data flowers17/ --init-from vgg16:features --val-fraction 0
    Hardware: 2 cores of AMD EPYC (Zen 4).
    Time: 36 minutes for 8 epochs of 1,020 images.
    Accuracy: 90.6 % on 340 test images of flowers17, with mirror images (2 seeds).
    """
    return photos().override(model="vgg16", freeze=4, epochs=8, lr=0.01)


def paper() -> TrainConfig:
    """The paper's own training (section 3.1), of column A at one scale.

    Deeper columns start from it: --model vgg16 --init-from RUN; --max-resize 512 is the paper's scale jitter. Pixels
    are in 0..255 and only their mean color is subtracted.

    Command: vgg train --data imagenet/ --preset paper
    Hardware, time and accuracy: not measured here; the paper reports 2 to 3 weeks on four GPUs for the deeper columns.
    """
    return TrainConfig().override(
        model="vgg11",
        head="paper",
        dropout=0.5,
        init="glorot",
        resize=256,
        crop=224,
        max_resize=256,
        mean=(0.485, 0.456, 0.406),
        std=(1 / 255, 1 / 255, 1 / 255),
        val_fraction=0.1,
        flip="random",
        color_shift=0.1,
        epochs=74,
        batch_size=256,
        accumulate=8,
        optimizer="sgd",
        lr=0.01,
        schedule="plateau",
        momentum=0.9,
        weight_decay=5e-4,
        decay_norms=True,
    )


def boxes() -> TrainConfig:
    """Boxes in small images from ImageNet's features; images are enlarged, so that the last map has 3x3 cells.

    The learning rate is that of vectors of length 1, which the head "grid" makes of the map.

    Command: vgg train --data tiny-imagenet-boxes/ --preset boxes --init-from vgg16:features
    Hardware: 2 cores of AMD EPYC (Zen 3), 1 thread.
    Time: 27 minutes for 8 epochs of 6,000 images.
    Accuracy: localization error 22.9 % with the class given, with mirror images (1 seed).
    """
    return TrainConfig().override(
        task="localize",
        model="vgg16",
        head="grid",
        init="he",
        freeze=4,
        resize=96,
        crop=96,
        val_fraction=0.05,
        shift=6,
        flip="alternating",
        epochs=8,
        batch_size=64,
        optimizer="sgd",
        lr=2.5,
        warmup=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0,
    )


def segment() -> TrainConfig:
    """Classes of pixels in photos, from ImageNet's features; random crops at 0.8 to 1.2 times the size of the tests.

    Muon trains the decoder, SGD the features. With SGD for both, held-out frames of CamVid have a mean IoU of 16 %
    after an epoch instead of 42.

    Command: vgg train --data camvid/ --preset segment --init-from vgg16:features --ignore-index 11
    Hardware: one core of a Xeon with AMX, 1 thread.
    Time: 78 minutes for 22 epochs of 367 images.
    Accuracy: mean IoU of 72.7 % (CamVid, trained on all of train by --val-fraction 0, 1 seed).
    """
    return TrainConfig().override(
        task="segment",
        model="vgg16",
        head="unet",
        init="he",
        freeze=2,
        resize=288,
        crop=288,
        max_resize=432,
        val_fraction=0.1,
        flip="random",
        jitter=0.2,
        epochs=22,
        batch_size=8,
        optimizer="muon",
        kernel_lr=0.05,
        norm_bias_lr=0.1,
        lr=0.01,
        warmup=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        class_weights="balanced",
    )


def detect() -> TrainConfig:
    """Objects on photos by SSD300, from ImageNet's features; few images a step, as a higher rate than this diverges.

    Command: vgg train --data bccd/ --preset detect --init-from vgg16:features --on-bad-image skip
    Hardware: one core of a Xeon with AMX, 1 thread.
    Time: 67 minutes for 40 epochs of 205 images.
    Accuracy: mean average precision at IoU 0.5 of 88.2 % (BCCD, trained on all of train by --val-fraction 0, 3 seeds).
    """
    return TrainConfig().override(
        task="detect",
        model="vgg16",
        head="ssd300",
        init="he",
        freeze=2,
        resize=300,
        crop=300,
        val_fraction=0.1,
        augment="ssd",
        epochs=40,
        batch_size=4,
        optimizer="sgd",
        lr=0.002,
        warmup=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )


def digits() -> TrainConfig:
    """scikit-learn's 8x8 digits, enlarged to 32x32 pixels.

    Command: vgg train --data digits
    Hardware: 2 cores of AMD EPYC.
    Time: about a minute.
    Accuracy: 98 % or more on test.
    """
    return TrainConfig().override(
        model="vgg11_bn",
        head="cifar",
        width=0.25,
        init="dirac",
        resize=32,
        crop=32,
        val_fraction=0.1,
        shift=3,
        rotation=10,
        epochs=20,
        batch_size=64,
        optimizer="sgd",
        lr=0.1,
        warmup=0.2,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        label_smoothing=0.1,
    )


PRESETS: Mapping[str, Callable[[], TrainConfig]] = {
    make.__name__: make
    for make in (quick, fast, best, article, photos, finetune, paper, boxes, segment, detect, digits)
}
