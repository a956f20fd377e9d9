"""VGGs beside AlexNet, GoogLeNet, ResNet, MobileNet and SqueezeNet: costs, speed on this CPU, published accuracy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchvision
from torchvision.models import get_model_weights, list_models

from vggnet.benchmarking.timing import OURS, bench_infer, build_network, cpu_environment
from vggnet.errors import ConfigError, check_at_least
from vggnet.interpret.costs import count_costs
from vggnet.models.table1 import MODEL_NAMES, resolve
from vggnet.progress import Progress, report_progress

VGGS = ("vgg11_bn", "vgg16", "vgg16_bn", "vgg19_bn")
OTHERS = (
    "alexnet", "googlenet", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "squeezenet1_1",
)  # fmt: skip
PUBLISHED = "IMAGENET1K_V1"  # the weights of which every network has some, trained by the older recipes


@dataclass(frozen=True, kw_only=True)
class NetworkSpeed:
    """One network: what it costs, and how fast it infers on this CPU."""

    model: str
    size: int  # pixels of both sides of the images
    batch: int  # images at a time, of `throughput`
    rounds: int
    parameters: int
    fully_connected: int  # of the parameters, those of fully connected layers
    macs: int  # multiply-adds for one image
    file_bytes: int  # in float32
    activation_bytes: int  # what training keeps of an image for the backward pass
    latency: dict[str, list[float]]  # way -> seconds for one image, a value for each round
    throughput: dict[str, list[float]]  # way -> seconds for `batch` images
    accuracy: dict[str, float]  # name of torchvision's weights -> top-1 accuracy on ImageNet (%), not measured here
    environment: dict[str, Any]  # versions and hardware

    @property
    def fastest(self) -> str:
        """The way with the least median latency."""
        return min(self.latency, key=lambda way: median(self.latency[way]))

    @property
    def images_per_second(self) -> float:
        """In batches, by the fastest way."""
        return self.batch / min(map(median, self.throughput.values()))


def compare_speed(
    models: Sequence[str] = (*VGGS, *OTHERS),
    *,
    size: int = 224,
    batch: int = 16,
    rounds: int = 9,
    progress: Progress = False,
) -> Iterator[NetworkSpeed]:
    """Count what each network costs, and time its inference for one image and for a batch.

    Networks are timed with random weights, on which speed does not depend, in three ways that take turns: our engine,
    and stock PyTorch in both memory formats.

    Args:
        models: VGGs, or names of torchvision's networks.
        size: pixels of both sides of the images, at least 32.
        batch: images at a time, for the throughput.
        rounds: batches that are timed for each way.
        progress: see `vggnet.progress.Progress`.

    Yields:
        The result of each network as soon as it is measured.

    Raises:
        ConfigError: a network does not exist, or a number cannot work.
    """
    names = full_names(models)
    check_at_least(32, size=size)
    check_at_least(1, batch=batch, rounds=rounds)
    return _measured(names, size, batch, rounds, progress)


def full_names(models: Sequence[str]) -> list[str]:
    """The networks' full names, each once.  Raises: ConfigError for a network that does not exist, or for none."""
    names = []
    for name in models:
        if name in list_models(torchvision.models):
            names.append(name)
            continue
        try:
            names.append(resolve(name).name)
        except ConfigError as error:
            raise ConfigError(f"{error} Networks of torchvision, such as resnet18, can be compared as well.") from error
    if not names:
        raise ConfigError("no network was named; name one or more, such as vgg16 resnet18.")
    return list(dict.fromkeys(names))


def published_accuracy(model: str) -> dict[str, float]:
    """Top-1 accuracy (%) on ImageNet's validation images as torchvision states it, by the name of the weights."""
    if model not in list_models(torchvision.models):
        return {}
    stated = {weights.name: weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] for weights in get_model_weights(model)}
    return {name: accuracy for name, accuracy in stated.items() if not isnan(accuracy)}


def draw_comparison(networks: Sequence[NetworkSpeed], path: Path) -> None:
    """Draw published accuracy against latency; networks without a published accuracy are left out.

    Raises:
        StorageError: `path` cannot be written.
        ConfigError: no network has a published accuracy.
    """
    from vggnet.report.latency_figure import Point, draw_accuracy_against_latency

    points = [
        Point(
            name=network.model,
            is_vgg=network.model in MODEL_NAMES,
            accuracy=network.accuracy[PUBLISHED],
            seconds=network.latency[network.fastest],
            stock_seconds=min((network.latency[way] for way in network.latency if way != OURS), key=median),
        )
        for network in networks
        if PUBLISHED in network.accuracy
    ]
    if not points:
        raise ConfigError("no network has a published accuracy to draw; name one that torchvision has weights of.")
    one, facts = networks[0], networks[0].environment
    title = (
        f"one image of {one.size}x{one.size} on {facts['cores']} cores of {facts['device']}: "
        f"medians of {one.rounds} rounds"
    )
    draw_accuracy_against_latency(points, path, title=title)


def _measured(names: Sequence[str], size: int, batch: int, rounds: int, progress: Progress) -> Iterator[NetworkSpeed]:
    with report_progress(progress, "measuring", unit="network") as report:
        for done, name in enumerate(names, start=1):
            yield _measure(name, size, batch, rounds)
            report(done, len(names))


def _measure(name: str, size: int, batch: int, rounds: int) -> NetworkSpeed:
    with torch.device("meta"):
        costs = count_costs(build_network(name, 1000, 1.0, "paper"), size)
    options: Any = {"size": size, "rounds": rounds, "peers": False, "bfloat16": False}
    latency, throughput = (bench_infer(name, batch=images, **options).seconds for images in (1, batch))
    return NetworkSpeed(
        model=name,
        size=size,
        batch=batch,
        rounds=rounds,
        **costs._asdict(),
        latency=latency,
        throughput=throughput,
        accuracy=published_accuracy(name),
        environment=cpu_environment(),
    )
