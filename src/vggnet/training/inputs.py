"""From a source to what a training step sees, as the configuration says."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.augmentation import Augmented, BatchAugment
from vggnet.data.crops import random_resized_crop, scale_jittered_crop
from vggnet.data.decoded import decode_all, decoded
from vggnet.data.decoding import StoredImage
from vggnet.data.loading import (
    BalancedBatches,
    Batch,
    EvalBatches,
    Skip,
    StreamBatches,
    TrainBatches,
    default_workers,
)
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import BY_NAME, Columns, Source, same_split, with_classes
from vggnet.data.sources.stream import Stream
from vggnet.data.splits import Rule, carve, divide_for_validation
from vggnet.data.workers import AnyView, CropView, ObjectsView
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.progress import Progress
from vggnet.tasks import get_task
from vggnet.tasks.task import Targets, Task, to_device
from vggnet.training.config import TrainConfig
from vggnet.training.distributed import ALONE, Ranks

COLOR_IMAGES = 1000  # from which the principal components of colors are measured, at most


def open_validation(data: str | Path | Source, source: Source, columns: Columns = BY_NAME) -> Source | None:
    """The validation split of a data set, with the classes of `source`; None if it has none.

    Raises: DataError if it cannot be used.
    """
    split = same_split("val", source_splits(data))
    if split is None:
        return None
    try:
        return with_classes(open_source(data, split, columns=columns), source.classes)
    except DataError as error:
        raise DataError(f"{error} To train without a validation split: val_fraction 0.") from error


def configured_task(config: TrainConfig) -> Task:
    """The task of a run, with the run's options."""
    return get_task(config.task.name).configured(config.as_options())


def configured_columns(config: TrainConfig) -> Columns:
    """How a run was told to read its data."""
    return Columns(config.data.image_column, config.data.label_column, config.data.ignore_index)


@dataclass(frozen=True, kw_only=True)
class Division:
    """Which images are trained on, and which choose the best epoch."""

    source: Source
    train_indices: NDArray[np.int64]
    val_source: Source  # the same source, or the validation split of the data
    val_indices: NDArray[np.int64]

    @classmethod
    def of(cls, config: TrainConfig, source: Source, val_source: Source | None, *, rule: Rule = "content") -> Self:
        """Divide the images of `source`, unless there is a `val_source`.

        Args:
            config: of the training.
            source: the images to train on, and to validate on if there are no others.
            val_source: the validation split of the data, if it has one; with the classes of `source`.
            rule: how they are divided, see `vggnet.data.splits`.

        Raises:
            ConfigError: the images cannot be divided.
        """
        fraction, seed = config.data.val_fraction, config.run.seed
        if val_source is not None:
            parts = np.arange(len(source)), np.arange(len(val_source))
        elif source.is_fixed or rule == "stratified":
            parts = carve(source.labels, fraction, seed)
        else:
            parts = divide_for_validation(source.image_hashes, source.labels, fraction, seed)
        return cls(source=source, train_indices=parts[0], val_source=val_source or source, val_indices=parts[1])


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The images of a training and their targets, opened and split once."""

    config: TrainConfig
    source: Source
    preprocess: Preprocess
    task: Task
    targets: Targets  # of all images of the source
    train_indices: NDArray[np.int64]
    val_source: Source
    val_targets: Targets  # of all images of the val_source
    val_indices: NDArray[np.int64]

    @classmethod
    def of(
        cls, config: TrainConfig, division: Division, preprocess: Preprocess, *, progress: Progress = False
    ) -> "Inputs":
        """Read the targets of the images, and decode what is kept decoded.

        Raises: DataError for targets that cannot be; ImageError.
        """
        source, val_source = division.source, division.val_source
        task = configured_task(config)
        is_kept = preprocess.is_small and not isinstance(source, Stream) and task.keeps_decoded
        if is_kept and not _sees_whole_images(config):
            for kept in dict.fromkeys((source, val_source)):
                decode_all(kept, preprocess, progress=progress)
        targets = task.read_targets(source, preprocess, progress=progress)
        is_same = val_source is source
        return cls(
            config=config,
            source=source,
            preprocess=preprocess,
            task=task.fitted(task.take(targets, torch.from_numpy(division.train_indices)), len(source.classes)),
            targets=targets,
            train_indices=division.train_indices,
            val_source=val_source,
            val_targets=targets if is_same else task.read_targets(val_source, preprocess, progress=progress),
            val_indices=division.val_indices,
        )

    def train_batches(self, ranks: Ranks = ALONE, skip: Skip | None = None) -> TrainBatches:
        """See `make_train_batches`."""
        return make_train_batches(self.config, self.source, self.preprocess, self.train_indices, ranks, skip)

    def val_batches(self, ranks: Ranks = ALONE, skip: Skip | None = None) -> EvalBatches:
        """See `make_val_batches`."""
        return make_val_batches(self.config, self.val_source, self.preprocess, self.val_indices, ranks, skip)

    def prepare(self, device: torch.device) -> Callable[[Batch, int], tuple[Tensor, Targets]]:
        """A function of a batch and the epoch: float images and their targets, on the device, after augmentation."""
        transform, augment = make_prepare(self.config, self.preprocess), make_augment(self.config, self.preprocess)
        seed = self.config.run.seed

        def prepare(batch: Batch, epoch: int) -> tuple[Tensor, Targets]:
            images = transform(batch.images.to(device, non_blocking=True), batch.indices, epoch)
            height, width = images.shape[2:]
            augmented = Augmented(
                augment=augment, indices=batch.indices, seed=seed, epoch=epoch, height=height, width=width
            )
            targets = self.task.follow(self.task.of_batch(self.targets, batch), augmented)
            return images, to_device(targets, device)

        return prepare


def make_preprocess(config: TrainConfig, source: Source, *, progress: Progress = False) -> Preprocess:
    """The preprocessing of a run.

    Statistics not given are measured if the images are small and not streamed, else ImageNet's.
    Between the scales of scale jitter, tests see the middle one (paper, section 4.1).
    """
    data, channels = config.data, config.model.in_channels
    middle = (data.resize + (config.augment.max_resize or data.resize)) // 2
    stretch = configured_task(config).stretches
    sizes: dict[str, Any] = {"resize": data.crop if stretch else middle, "crop": data.crop}
    if data.mean is not None and data.std is not None:
        if len(data.mean) != channels:
            raise ConfigError(
                f"mean has {len(data.mean)} values, but in_channels is {channels}; give mean and std with one value a "
                "channel."
            )
        return Preprocess(mean=data.mean, std=data.std, stretch=stretch, **sizes)
    photos = replace(Preprocess.imagenet(channels, **sizes), stretch=stretch)
    if not photos.is_small or isinstance(source, Stream):
        return photos
    if data.on_bad_image == "stop":
        decoded(source, photos, progress=progress)  # raises
    pixels, bad = decode_all(source, photos, progress=progress)
    readable = [index for index in range(len(pixels)) if index not in bad]
    return replace(Preprocess.measured(pixels[readable] if bad else pixels, **sizes), stretch=stretch)


def with_color_axes(config: TrainConfig, source: Source, preprocess: Preprocess) -> TrainConfig:
    """The configuration with the axes of its color shift, measured on up to COLOR_IMAGES of the images if need be.

    They are the eigenvectors of the covariance of the pixels' colors in [0, 1], each times its eigenvalue.
    """
    if not config.augment.color_shift or config.augment.color_axes is not None:
        return config
    if isinstance(source, Stream):  # those of few groups
        places = np.sort(source.order(np.arange(len(source)), seed=config.run.seed, epoch=0)[:COLOR_IMAGES])
    else:
        places = np.unique(np.linspace(0, len(source) - 1, COLOR_IMAGES).round().astype(np.int64))
    count, total, square = 0, torch.zeros(config.model.in_channels).double(), torch.zeros(()).double()
    for pixels in _readable(config, source, preprocess, places.tolist()):
        colors = pixels.flatten(1).double() / 255  # (C, pixels)
        count, total, square = count + colors.shape[1], total + colors.sum(1), square + colors @ colors.T
    if not count:
        raise DataError(f"{source.name}: none of the {len(places)} images that were tried can be read.")
    covariance = square / count - torch.outer(total, total) / count**2
    values, vectors = torch.linalg.eigh(covariance)
    return config.override(color_axes=tuple((vectors * values.clamp(min=0)).flatten().tolist()))


def _readable(config: TrainConfig, source: Source, preprocess: Preprocess, places: Iterable[int]) -> Iterator[Tensor]:
    """The images at these places, uint8 (C, H, W); without those that cannot be read if the configuration says so."""
    for place in places:
        try:
            yield preprocess.pixels(source.read(place))
        except ImageError as error:
            if config.data.on_bad_image == "stop":
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
    task = configured_task(config)
    kind: Callable[..., TrainBatches] = partial(TrainBatches, share=ranks.share)
    if config.data.sampling == "balanced":
        kind = partial(BalancedBatches, share=ranks.share)
    if isinstance(source, Stream):
        if config.data.sampling == "balanced":
            raise ConfigError(
                "sampling is balanced, but a stream is read in its own order; leave it out, or leave out stream:."
            )
        kind = partial(StreamBatches, rank=ranks.rank, size=ranks.size)
    return kind(
        source,
        preprocess,
        config.optimizer.batch_size,
        indices=indices,
        seed=config.run.seed,
        view=task.train_view(_view(config, preprocess), preprocess),
        workers=_workers(config, preprocess, ranks),
        skip=skip,
        masks=task.masks,
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
    task = configured_task(config)
    batch_size = task.val_batch_size(config.optimizer.batch_size, preprocess)
    workers, share, view = _workers(config, preprocess, ranks), ranks.share(indices), task.val_view(preprocess)
    return EvalBatches(source, preprocess, batch_size, workers, share, skip, view=view, masks=task.masks)


def make_prepare(config: TrainConfig, preprocess: Preprocess) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A function of uint8 pixels on the device, their indices and the epoch: augmented and normalized float images."""
    augment, seed = make_augment(config, preprocess), config.run.seed

    def prepare(pixels: Tensor, indices: Tensor, epoch: int) -> Tensor:
        images = torch.empty(pixels.shape, device=pixels.device, memory_format=torch.channels_last)
        first = 0
        for piece in augment.pieces(pixels, indices, seed=seed, epoch=epoch):
            images[first : first + len(piece)] = preprocess.normalize(piece)
            first += len(piece)
        return images

    return prepare


def make_augment(config: TrainConfig, preprocess: Preprocess) -> BatchAugment:
    """The augmentation of whole batches, which does nothing where torchvision's transforms have done it before."""
    options = config.augment
    return BatchAugment(
        shift=options.shift,
        flip=options.flip,
        rotation=options.rotation,
        jitter=options.jitter,
        color_shift=options.color_shift,
        color_axes=options.color_axes or (0.0,) * config.model.in_channels**2,
        cutout=options.cutout,
        fill=preprocess.fill,
        padding=options.padding,
    )


def _workers(config: TrainConfig, preprocess: Preprocess, ranks: Ranks) -> int:
    workers = config.data.workers
    return -(-default_workers(preprocess) // ranks.on_this_machine) if workers is None else workers


def _sees_whole_images(config: TrainConfig) -> bool:
    return config.augment.max_resize is not None or config.augment.min_area < 1


def _view(config: TrainConfig, preprocess: Preprocess) -> AnyView | None:
    """What the options of augmentation make of an image, where that is not the preprocessing itself."""
    augment, seed, crop = config.augment, config.run.seed, config.data.crop
    if augment.name == "ssd":
        from vggnet.data.object_views import ssd_augmented  # imports torchvision, which takes a second

        return ObjectsView(partial(ssd_augmented, preprocess=preprocess, seed=seed))
    if augment.name == "torchvision":
        return CropView(partial(_tutorial_view, seed=seed))
    if augment.max_resize is not None:
        return partial(_jittered_view, seed=seed, size=crop, scales=(config.data.resize, augment.max_resize))
    if augment.min_area < 1:
        return partial(_crop_view, seed=seed, size=crop, min_area=augment.min_area)
    return None


def _tutorial_view(image: StoredImage, epoch: int, index: int, *, seed: int) -> Tensor:
    from vggnet.data.tutorial_augmentation import article_augment  # imports torchvision

    return article_augment(image.decode(), seed=seed, epoch=epoch, index=index)


def _crop_view(image: StoredImage, epoch: int, index: int, **options: Any) -> Tensor:
    return random_resized_crop(image, epoch=epoch, index=index, **options)


def _jittered_view(image: StoredImage, epoch: int, index: int, **options: Any) -> Tensor:
    return scale_jittered_crop(image, epoch=epoch, index=index, **options)
