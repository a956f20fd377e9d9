"""How fast a network trains and answers here: ours against the ways that stock PyTorch has, in one process."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from vggnet.conv3x3.accelerate import accelerate
from vggnet.training.run import environment
from vggnet.vgg import build

OURS = "vggnet"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Seconds of each way to do the same work, measured in turns."""

    work: str
    batch: int  # images at a time
    seconds: dict[str, list[float]]  # way -> one value for each round
    environment: dict[str, Any]

    @property
    def medians(self) -> dict[str, float]:
        """Way -> seconds, the fastest first."""
        return dict(sorted(((name, median(values)) for name, values in self.seconds.items()), key=lambda item: item[1]))

    @property
    def ratio(self) -> float:
        """How many times faster ours is than the fastest of the others."""
        return min(value for name, value in self.medians.items() if name != OURS) / self.medians[OURS]

    def as_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps({**asdict(self), "medians": self.medians, "ratio": self.ratio})

    def as_table(self) -> str:
        """For people; the last line is the ratio."""
        width = max(map(len, self.seconds))
        lines = [self.work, f"{'way':<{width}}  median (ms)  fastest  slowest  images/s"]
        for name, seconds in self.medians.items():
            fastest, slowest = min(self.seconds[name]), max(self.seconds[name])
            lines.append(
                f"{name:<{width}}  {1e3 * seconds:11.1f}  {1e3 * fastest:7.1f}  {1e3 * slowest:7.1f}"
                f"  {self.batch / seconds:8.1f}"
            )
        return "\n".join([*lines, f"{self.ratio:.2f} times as fast as the fastest other way"])


def bench_train(
    model: str = "vgg16_bn",
    *,
    width: float = 1.0,
    head: str = "cifar",
    size: int = 32,
    batch: int = 128,
    rounds: int = 7,
    compiled: bool = False,
    progress: bool = False,
) -> Bench:
    """Time a whole training step on a CPU: forward, backward, and SGD with Nesterov momentum.

    compiled: torch.compile as well, which needs a C++ compiler and minutes.
    """
    torch.manual_seed(0)
    network = build(model, num_classes=10, head=head, width=width)
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 10

    def stepping(network: nn.Module, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(forward(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    ways = _ways(network, images, compiled, stepping)
    work = f"training step, {model}, width {width:g}, head {head}, {size}x{size}, batch {batch}"
    return Bench(work=work, batch=batch, seconds=_in_turns(ways, rounds, progress), environment=_environment())


def bench_infer(
    model: str = "vgg16",
    *,
    width: float = 1.0,
    head: str = "paper",
    size: int = 224,
    batch: int = 1,
    rounds: int = 15,
    compiled: bool = False,
    progress: bool = False,
) -> Bench:
    """Time the answer to one batch of images on a CPU."""
    torch.manual_seed(0)
    network = build(model, num_classes=1000, head=head, width=width).eval()
    images = torch.randn(batch, 3, size, size)

    def answering(network: nn.Module, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def answer() -> Tensor:
            with torch.inference_mode():
                return forward(images)

        return answer

    ways = _ways(network, images, compiled, answering)
    work = f"inference, {model}, width {width:g}, head {head}, {size}x{size}, batch {batch}"
    return Bench(work=work, batch=batch, seconds=_in_turns(ways, rounds, progress), environment=_environment())


Prepare = Callable[[nn.Module, Tensor, Callable[[Tensor], Tensor]], Callable[[], object]]


def _ways(network: nn.Module, images: Tensor, compiled: bool, prepare: Prepare) -> dict[str, Callable[[], object]]:
    """Ours and PyTorch's, each on its own copy of the network."""
    last = images.contiguous(memory_format=torch.channels_last)
    stock = {
        "PyTorch, NCHW": (copy.deepcopy(network), images),
        "PyTorch, channels-last": (
            copy.deepcopy(network).to(memory_format=torch.channels_last),
            last,
        ),
    }
    ours = accelerate(copy.deepcopy(network))
    ways = {OURS: prepare(ours, last, ours)}
    for name, (copied, batch) in stock.items():
        ways[name] = prepare(copied, batch, copied)
        if compiled:
            ways[f"{name}, compiled"] = prepare(copied, batch, torch.compile(copied))
    return ways


def _in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, progress: bool) -> dict[str, list[float]]:
    """Seconds of each way in each round, after two calls of each that warm up."""
    for way in tqdm(ways.values(), desc="warming up", leave=False, disable=not progress):
        way()
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), desc="measuring", leave=False, disable=not progress):
        for name, way in ways.items():
            start = perf_counter()
            way()
            seconds[name].append(perf_counter() - start)
    return seconds


def _environment() -> dict[str, Any]:
    return environment(torch.device("cpu"))
