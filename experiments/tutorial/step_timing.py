"""A training step with its loading: ours against the tutorial's script as it stands."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from vggnet.accel.api import accelerate
from vggnet.benchmarking.timing import OURS, Bench, cpu_environment, in_turns
from vggnet.data.augmentation import BatchAugment
from vggnet.data.preprocess import Preprocess
from vggnet.data.tutorial_augmentation import article_pipeline
from vggnet.models.vgg import build
from vggnet.training.presets import preset

ARTICLE = preset("article")

TUTORIAL = "the tutorial's script"
BATCH = 128
IMAGES = 512  # made at random; 32x32


def bench_tutorial(*, rounds: int = 5) -> Bench:
    """Time whole steps of VGG-16 with batch norm on 128 CIFAR-10-sized images, loading and augmentation included.

    The tutorial's: torchvision's transforms image by image in a DataLoader, the three-layer head on a map pooled to
    7x7, PyTorch's default memory format. Ours: the same augmentation of the whole batch, the `cifar` head, our
    convolutions. Both: the SGD of the preset `article`. Both load in the process itself: on two cores, worker processes
    only take turns with the step, and what they prepare would count for whichever way is measured next.
    """
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = torch.arange(IMAGES) % 10
    ways = {OURS: _our_step(pixels, labels), TUTORIAL: _tutorial_step(pixels, labels)}
    work = f"training step with loading, vgg16_bn, 32x32, batch {BATCH}"
    return Bench(work=work, batch=BATCH, seconds=in_turns(ways, rounds, True), environment=cpu_environment())


def _our_step(pixels: np.ndarray, labels: Tensor) -> Callable[[], object]:
    network = accelerate(build("vgg16_bn", num_classes=10, head="cifar").train())
    augment = BatchAugment(shift=4, flip="random", rotation=15, jitter=0.2, padding="zero")
    assert ARTICLE.data.mean is not None
    assert ARTICLE.data.std is not None
    normalize = Preprocess(resize=32, crop=32, mean=ARTICLE.data.mean, std=ARTICLE.data.std).normalize
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            for indices in torch.split(torch.randperm(IMAGES), BATCH):
                augmented = augment(images[indices], indices, seed=0, epoch=epoch)
                yield normalize(augmented).contiguous(memory_format=torch.channels_last), labels[indices]
            epoch += 1

    return _step(network, batches())


def _tutorial_step(pixels: np.ndarray, labels: Tensor) -> Callable[[], object]:
    network = build("vgg16_bn", num_classes=10, head="paper").train()
    normalize = transforms.Normalize(ARTICLE.data.mean, ARTICLE.data.std)
    transform = transforms.Compose([article_pipeline(32, 32), transforms.ConvertImageDtype(torch.float32), normalize])
    images = [Image.fromarray(array) for array in pixels]

    class Transformed(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
        """The images, augmented when they are read."""

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return transform(images[index]), labels[index]

    loader = DataLoader(Transformed(), batch_size=BATCH, shuffle=True)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    return _step(network, batches())


def _step(network: torch.nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    options = ARTICLE.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
    loss_of = torch.nn.CrossEntropyLoss()

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        loss_of(network(images), labels).backward()
        optimizer.step()

    return step
