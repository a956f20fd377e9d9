"""From a source to the tensors that a training step sees, as the configuration says."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.augmentation import BatchAugment
from vggnet.data.crops import random_resized_crop, scale_jittered_crop
from vggnet.data.decoded import decode_all, decoded
from vggnet.data.decoding import StoredImage
from vggnet.data.loading import Batch, CropView, EvalBatches, Skip, StreamBatches, TrainBatches, View, default_workers
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.data.sources.stream import Stream
from vggnet.data.tutorial_augmentation import article_augment
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.tasks.task import Targets, Task, to_device
from vggnet.training.config import TrainConfig
from vggnet.training.distributed import ALONE, Ranks

EVAL_BATCH = 4  # times the training batch, for small images: no memory is held for a backward pass
COLOR_IMAGES = 1000  # from which the principal components of colors are measured, at most


def make_preprocess(config: TrainConfig, source: Source) -> Preprocess:
    """The preprocessing of a run.

    Statistics not given are measured if the images are small and not streamed, else ImageNet's.
    Between the scales of scale jitter, tests see the middle one (paper, section 4.1).
    """
    config = replace(config, resize=(config.resize + (config.max_resize or config.resize)) // 2, max_resize=None)
    if config.mean is not None and config.std is not None:
        if len(config.mean) != config.in_channels:
            raise ConfigError(
                f"mean has {len(config.mean)} values, but in_channels is {config.in_channels}; give mean and std with "
                "one value a channel."
            )
        return Preprocess(resize=config.resize, crop=config.crop, mean=config.mean, std=config.std)
    photos = Preprocess.imagenet(config.in_channels, resize=config.resize, crop=config.crop)
    if not photos.is_small or isinstance(source, Stream):
        return photos
    if config.on_bad_image == "stop":
        decoded(source, photos)  # raises
    pixels, bad = decode_all(source, photos)
    readable = [index for index in range(len(pixels)) if index not in bad]
    return Preprocess.measured(pixels[readable] if bad else pixels, resize=config.resize, crop=config.crop)


def with_color_axes(config: TrainConfig, source: Source, preprocess: Preprocess) -> TrainConfig:
    """The configuration with the axes of its color shift, measured on up to COLOR_IMAGES of the images if need be.

    They are the eigenvectors of the covariance of the pixels' colors in [0, 1], each times its eigenvalue.
    """
    if not config.color_shift or config.color_axes is not None:
        return config
    if isinstance(source, Stream):  # those of few groups
        places = np.sort(source.order(np.arange(len(source)), seed=config.seed, epoch=0)[:COLOR_IMAGES])
    else:
        places = np.unique(np.linspace(0, len(source) - 1, COLOR_IMAGES).round().astype(np.int64))
    count, total, square = 0, torch.zeros(config.in_channels).double(), torch.zeros(()).double()
    for pixels in _readable(config, source, preprocess, places.tolist()):
        colors = pixels.flatten(1).double() / 255  # (C, pixels)
        count, total, square = count + colors.shape[1], total + colors.sum(1), square + colors @ colors.T
    if not count:
        raise DataError(f"{source.name}: none of the {len(places)} images that were tried can be read.")
    covariance = square / count - torch.outer(total, total) / count**2
    values, vectors = torch.linalg.eigh(covariance)
    return replace(config, color_axes=tuple((vectors * values.clamp(min=0)).flatten().tolist()))


def _readable(config: TrainConfig, source: Source, preprocess: Preprocess, places: Iterable[int]) -> Iterator[Tensor]:
    """The images at these places, uint8 (C, H, W); without those that cannot be read if the configuration says so."""
    for place in places:
        try:
            yield preprocess.pixels(source.read(place))
        except ImageError as error:
            if config.on_bad_image == "stop":
                raise error.named(source.describe(place)) from error


def make_train_batches(
    config: TrainConfig,
    source: Source,
    preprocess: Preprocess,
    indices: NDArray[np.int64],
    ranks: Ranks = ALONE,
    skip: Skip | None = None,
) -> TrainBatches:
    """The shuffled batches of the images at `indices`, of each the share of this process.

    skip: called with each image that cannot be read; without it ImageError is raised.
    """
    kind: Callable[..., TrainBatches] = partial(TrainBatches, share=ranks.share)
    if isinstance(source, Stream):
        kind = partial(StreamBatches, rank=ranks.rank, size=ranks.size)
    return kind(
        source,
        preprocess,
        config.batch_size,
        indices=indices,
        seed=config.seed,
        view=_view(config),
        workers=_workers(config, preprocess, ranks),
        skip=skip,
    )


def make_val_batches(
    config: TrainConfig,
    source: Source,
    preprocess: Preprocess,
    indices: NDArray[np.int64],
    ranks: Ranks = ALONE,
    skip: Skip | None = None,
) -> EvalBatches:
    """The images at `indices`, each once, in one of the processes. `skip`: as in make_train_batches."""
    batch_size = config.batch_size * (EVAL_BATCH if preprocess.is_small else 1)
    return EvalBatches(source, preprocess, batch_size, _workers(config, preprocess, ranks), ranks.share(indices), skip)


def make_prepare(config: TrainConfig, preprocess: Preprocess) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A function of uint8 pixels on the device, their indices and the epoch: augmented and normalized float images."""
    done = config.augment == "article"  # by the view
    augment = BatchAugment() if done else make_augment(config, preprocess)

    def prepare(pixels: Tensor, indices: Tensor, epoch: int) -> Tensor:
        images = torch.empty(pixels.shape, device=pixels.device, memory_format=torch.channels_last)
        first = 0
        for piece in augment.pieces(pixels, indices, seed=config.seed, epoch=epoch):
            images[first : first + len(piece)] = preprocess.normalize(piece)
            first += len(piece)
        return images

    return prepare


def make_step_inputs(
    config: TrainConfig, preprocess: Preprocess, task: Task, targets: Targets, device: torch.device
) -> Callable[[Batch, int], tuple[Tensor, Targets]]:
    """A function of a batch and the epoch: float images and their targets, on the device, after the augmentation.

    targets: of all images of the source.
    """
    prepare, augment = make_prepare(config, preprocess), make_augment(config, preprocess)

    def step_inputs(batch: Batch, epoch: int) -> tuple[Tensor, Targets]:
        images = prepare(batch.images.to(device, non_blocking=True), batch.indices, epoch)
        height, width = images.shape[2:]
        draw = partial(augment.draw, batch.indices, seed=config.seed, epoch=epoch, height=height, width=width)
        followed = task.follow(task.take(targets, batch.indices), draw, width)
        return images, to_device(followed, device)

    return step_inputs


def make_augment(config: TrainConfig, preprocess: Preprocess) -> BatchAugment:
    """The augmentation of whole batches."""
    return BatchAugment(
        shift=config.shift,
        flip=config.flip,
        rotation=config.rotation,
        jitter=config.jitter,
        color_shift=config.color_shift,
        color_axes=config.color_axes or (0.0,) * config.in_channels**2,
        cutout=config.cutout,
        fill=preprocess.fill,
        padding=config.padding,
    )


def _workers(config: TrainConfig, preprocess: Preprocess, ranks: Ranks) -> int:
    return -(-default_workers(preprocess) // ranks.on_this_machine) if config.workers is None else config.workers


def _view(config: TrainConfig) -> View | CropView | None:
    """What loader workers make of an image, where that is not the preprocessing itself."""
    if config.augment == "article":
        return CropView(partial(_article_view, seed=config.seed))
    if config.max_resize is not None:
        scales = config.resize, config.max_resize
        return partial(_jittered_view, seed=config.seed, size=config.crop, scales=scales)
    if config.min_area < 1:
        return partial(_crop_view, seed=config.seed, size=config.crop, min_area=config.min_area)
    return None


def _article_view(image: StoredImage, epoch: int, index: int, *, seed: int) -> Tensor:
    return article_augment(image.decode(), seed=seed, epoch=epoch, index=index)


def _crop_view(image: StoredImage, epoch: int, index: int, *, seed: int, size: int, min_area: float) -> Tensor:
    return random_resized_crop(image, size=size, min_area=min_area, seed=seed, epoch=epoch, index=index)


def _jittered_view(
    image: StoredImage, epoch: int, index: int, *, seed: int, size: int, scales: tuple[int, int]
) -> Tensor:
    return scale_jittered_crop(image, size=size, scales=scales, seed=seed, epoch=epoch, index=index)
