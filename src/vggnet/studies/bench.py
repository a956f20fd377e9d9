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
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

from vggnet.accel.api import accelerate
from vggnet.devices import environment
from vggnet.errors import ConfigError
from vggnet.models.table1 import MODEL_NAMES
from vggnet.models.vgg import build
from vggnet.studies.memory import peak_bytes
from vggnet.studies.peers import installed_peers

OURS = "vggnet"
NCHW, CHANNELS_LAST = "PyTorch, NCHW", "PyTorch, channels-last"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Seconds of each way to do the same work, measured in turns."""

    work: str
    batch: int  # images at a time
    seconds: dict[str, list[float]]  # way -> one value for each round
    environment: dict[str, Any]
    peak_bytes: dict[str, int] | None = None  # way -> what its process came to hold, beyond what it held before

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
        memory = self.peak_bytes or {}
        lines = [
            self.work,
            f"{'way':<{width}}  median (ms)  fastest  slowest  images/s{'  peak (MB)' if memory else ''}",
        ]
        for name, seconds in self.medians.items():
            fastest, slowest = min(self.seconds[name]), max(self.seconds[name])
            lines.append(
                f"{name:<{width}}  {1e3 * seconds:11.1f}  {1e3 * fastest:7.1f}  {1e3 * slowest:7.1f}"
                f"  {self.batch / seconds:8.1f}" + (f"  {memory[name] / 1e6:9.0f}" if name in memory else "")
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
    memory: bool = False,
    progress: bool = False,
) -> Bench:
    """Time a whole training step on a CPU: forward, backward, and SGD with Nesterov momentum.

    model: a VGG, or a network of torchvision (`resnet18`), for which `width` and `head` do not apply.
    compiled: torch.compile as well, which needs a C++ compiler and minutes.
    memory: also run two steps of each way in a process of its own, for the most memory that they take.
    Raises: ConfigError for the head "none", which has nothing to learn from labels.
    """
    if head == "none":
        raise ConfigError("a training step needs a head that names classes, not head none.")
    torch.manual_seed(0)
    network = build_network(model, 10, width, head)
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 10

    def stepping(network: nn.Module, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return training_step(network, images, labels, forward)

    seconds = in_turns(_ways(network, images, compiled, stepping), rounds, progress)
    peaks = {way: peak_bytes(_steps, way, model, width, head, size, batch) for way in seconds} if memory else None
    work = f"training step, {model}, width {width:g}, head {head}, {size}x{size}, batch {batch}"
    return Bench(work=work, batch=batch, seconds=seconds, environment=cpu_environment(), peak_bytes=peaks)


def bench_infer(
    model: str = "vgg16",
    *,
    width: float = 1.0,
    head: str = "paper",
    size: int = 224,
    batch: int = 1,
    rounds: int = 15,
    compiled: bool = False,
    peers: bool = True,
    progress: bool = False,
) -> Bench:
    """Time the answer to one batch of images on a CPU.

    compiled: torch.compile as well, which needs a C++ compiler.
    peers: onnxruntime, openvino and ncnn as well, as far as they are installed.
    """
    torch.manual_seed(0)
    network = build_network(model, 1000, width, head).eval()
    images = torch.randn(batch, 3, size, size)

    def answering(network: nn.Module, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def answer() -> Tensor:
            with torch.inference_mode():
                return forward(images)

        return answer

    ways = _ways(network, images, compiled, answering)
    if peers:
        ways |= installed_peers(network, images, torch.get_num_threads())
    work = f"inference, {model}, width {width:g}, head {head}, {size}x{size}, batch {batch}"
    return Bench(work=work, batch=batch, seconds=in_turns(ways, rounds, progress), environment=cpu_environment())


def training_step(
    network: nn.Module, images: Tensor, labels: Tensor, forward: Callable[[Tensor], Tensor]
) -> Callable[[], object]:
    """A function that trains the network on the batch once: cross-entropy, Nesterov SGD."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, progress: bool) -> dict[str, list[float]]:
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


def build_network(model: str, num_classes: int, width: float, head: str) -> nn.Module:
    """A VGG, or a network of torchvision, for which `width` and `head` do not apply, on random weights."""
    if model not in MODEL_NAMES and model in torchvision.models.list_models(torchvision.models):
        # Without these it warns, takes seconds to start, and has two more classifiers that only training asks.
        options = {"aux_logits": False, "init_weights": False} if model == "googlenet" else {}
        network: nn.Module = torchvision.models.get_model(model, num_classes=num_classes, **options)
        return network
    return build(model, num_classes=num_classes, head=head, width=width)


def cpu_environment() -> dict[str, Any]:
    """Versions and hardware, as a run folder has them."""
    return environment(torch.device("cpu"))


Prepare = Callable[[nn.Module, Tensor, Callable[[Tensor], Tensor]], Callable[[], object]]


def _ways(network: nn.Module, images: Tensor, compiled: bool, prepare: Prepare) -> dict[str, Callable[[], object]]:
    """Ours and PyTorch's, each on its own copy of the network."""
    ways: dict[str, Callable[[], object]] = {}
    for name in (OURS, NCHW, CHANNELS_LAST):
        copied, batch = _laid_out(name, copy.deepcopy(network), images)
        ways[name] = prepare(copied, batch, copied)
        if compiled and name != OURS:
            ways[f"{name}, compiled"] = prepare(copied, batch, torch.compile(copied))
    return ways


def _laid_out(way: str, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """The network and the images as the way has them in memory."""
    if way.startswith(NCHW):
        return network, images
    last = images.contiguous(memory_format=torch.channels_last)
    return accelerate(network) if way == OURS else network.to(memory_format=torch.channels_last), last


def _steps(way: str, model: str, width: float, head: str, size: int, batch: int) -> None:
    """Two training steps; the first of ours may measure which algorithms to take."""
    network, images = _laid_out(way, build_network(model, 10, width, head), torch.randn(batch, 3, size, size))
    forward = torch.compile(network) if way.endswith("compiled") else network
    step = training_step(network, images, torch.arange(batch) % 10, forward)
    step()
    step()
