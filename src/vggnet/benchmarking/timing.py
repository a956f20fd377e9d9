"""How fast a network trains and infers on this CPU: ours against stock PyTorch, measured in turns in one process."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from vggnet.accel.api import accelerate
from vggnet.accel.autotuning import autotuner
from vggnet.accel.compilation import problem
from vggnet.accel.precision import products_in
from vggnet.benchmarking.accuracy import BFLOAT16, errors_of, precision_of
from vggnet.benchmarking.example_loss import CLASSES, example_loss
from vggnet.benchmarking.peak_memory import peak_bytes
from vggnet.benchmarking.peers import exported_files, installed_peers
from vggnet.data.preprocess import Preprocess
from vggnet.devices import environment
from vggnet.errors import ConfigError
from vggnet.models.table1 import MAP_HEADS, MODEL_NAMES
from vggnet.models.vgg import build
from vggnet.progress import Progress, report_progress
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.registry import find

OURS = "vggnet"
Forward = Callable[[Tensor], Any]
Loss = Callable[[Any], Tensor]  # of what a network returns
NCHW, CHANNELS_LAST = "PyTorch, NCHW", "PyTorch, channels-last"
SHORT = 0.1  # seconds of which caches that are not warm are a large part
FEW = 2  # images whose results are compared with float64, where images do not depend on each other


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Seconds of each way to do the same work, measured in turns."""

    work: str
    batch: int  # images at a time
    seconds: dict[str, list[float]]  # way -> one value for each round
    environment: dict[str, Any]
    errors: dict[str, float] | None = None  # way -> `accuracy.relative_error`, where all compute the same
    peak_bytes: dict[str, int] | None = None  # way -> peak memory of its process beyond what it held before

    @property
    def medians(self) -> dict[str, float]:
        """Way -> seconds, the fastest first."""
        return dict(sorted(((name, median(values)) for name, values in self.seconds.items()), key=lambda item: item[1]))

    @property
    def precisions(self) -> dict[str, str]:
        """Way -> the precision of its products."""
        return {name: precision_of(name) for name in self.seconds}

    @property
    def ratio(self) -> float:
        """How many times faster our fastest way is than the fastest of the others, in whatever precision."""
        ours = [value for name, value in self.medians.items() if name.startswith(OURS)]
        return min(value for name, value in self.medians.items() if not name.startswith(OURS)) / min(ours)


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
    progress: Progress = False,
) -> Bench:
    """Time a whole training step on a CPU: forward, backward, and SGD with Nesterov momentum.

    Errors are those of the first step's gradients, without dropout.

    Where the CPU has a matrix unit for bfloat16, that precision is timed as well: PyTorch's by autocast, ours by
    products alone.

    Args:
        model: a VGG, or a network of torchvision such as `resnet18`.
        width: multiplies the channels of a VGG's convolutions.
        head: of a VGG; with one for pixels or objects the loss is that of the task, for targets that are made up.
        size: pixels of both sides of the images.
        batch: images in each step.
        rounds: steps of each way that are timed.
        compiled: also time `torch.compile`, which needs a C++ compiler and minutes.
        memory: also run two steps of each way in a process of its own, for its peak memory (not on Windows).
        progress: see `vggnet.progress.Progress`.

    Raises:
        ConfigError: the head is "none", or another one that has nothing to learn.
    """
    torch.manual_seed(0)
    network = build_network(model, CLASSES, width, head)
    images = torch.randn(batch, 3, size, size)
    loss = example_loss(network, images)

    def stepping(network: nn.Module, images: Tensor, forward: Forward) -> Callable[[], object]:
        return training_step(network, images, loss, forward)

    def differentiating(network: nn.Module, images: Tensor, forward: Forward) -> Callable[[], list[Tensor]]:
        return lambda: _gradients(network, images, loss, forward)

    exact = copy.deepcopy(network).double()
    bfloat16 = has_tiles()
    errors = errors_of(
        _ways(network, images, compiled, differentiating, bfloat16=bfloat16),
        lambda: _gradients(exact, images.double(), loss, exact),
        progress,
    )
    seconds = in_turns(_ways(network, images, compiled, stepping, bfloat16=bfloat16), rounds, progress)
    measured = seconds if memory and find_spec("resource") else ()  # Windows has no such module
    peaks = {way: peak_bytes(_steps, way, model, width, head, size, batch) for way in measured} or None
    work = f"training step, {model}, width {width:g}, head {head}, {size}x{size}, batch {batch}"
    about: Any = {"environment": cpu_environment(), "errors": errors, "peak_bytes": peaks}
    return Bench(work=work, batch=batch, seconds=seconds, **about)


def bench_infer(
    model: str = "vgg16",
    *,
    width: float = 1.0,
    head: str = "paper",
    size: int | None = None,
    batch: int = 1,
    rounds: int = 15,
    exported: Sequence[Path | str] = (),
    compiled: bool = False,
    peers: bool = True,
    bfloat16: bool = True,
    progress: Progress = False,
) -> Bench:
    """Time inference for one batch of images on a CPU, also in bfloat16 where the CPU has a matrix unit for it.

    Args:
        model: a VGG, or a network of torchvision such as `resnet18`, both with random weights; or a run folder, a
            `.safetensors` file or a name of `vgg weights list`, for which `width` and `head` do not apply.
        width: multiplies the channels of a VGG's convolutions.
        head: of a VGG; with one for pixels or objects the network has 10 classes, else 1,000.
        size: pixels of both sides of the images; by default 224, or what a trained network takes.
        batch: images at a time.
        rounds: batches that are timed for each way.
        exported: files that `vgg export` has made of a trained network, timed in their own libraries.
        compiled: also time `torch.compile`, which needs a C++ compiler.
        peers: also time onnxruntime, openvino and ncnn, those that are installed.
        bfloat16: False times float32 alone.
        progress: see `vggnet.progress.Progress`.

    Raises:
        ConfigError: there is no such model, or an exported file is of another network.
        WeightsError: the file of a trained network or an exported file is damaged.
    """
    torch.manual_seed(0)
    if trained := Path(model).exists() or find(model) is not None:
        network: nn.Module = Checkpoint.open(model).build()
        preprocess = Preprocess.of(network)
        size, described = size or preprocess.crop, str(model)
        images = preprocess.normalize(
            torch.randint(256, (batch, preprocess.in_channels, size, size), dtype=torch.uint8)
        )
    else:
        classes = CLASSES if head in MAP_HEADS else 1000  # for ImageNet's 1,000, SSD's last layers would take most time
        network, size = build_network(model, classes, width, head).eval(), size or 224
        images, described = torch.randn(batch, 3, size, size), f"{model}, width {width:g}, head {head}"
    if exported and not trained:
        raise ConfigError(
            f"{model} has random weights; give the run folder that the files were exported from as the model."
        )

    def inferring(network: nn.Module, images: Tensor, forward: Forward) -> Callable[[], Tensor]:
        return lambda: infer(forward, images)

    bfloat16 = bfloat16 and has_tiles()
    ways = _ways(network, images, compiled, inferring, bfloat16=bfloat16)
    if peers:
        ways |= installed_peers(network, images, torch.get_num_threads(), bfloat16=bfloat16)
    ways |= exported_files(exported, network, images)
    errors = errors_of(ways, lambda: infer(copy.deepcopy(network).double(), images[:FEW].double()), progress)
    work = f"inference, {described}, {size}x{size}, batch {batch}"
    return timed(work, batch, ways, errors, rounds, progress)


def infer(network: Forward, images: Tensor) -> Any:
    """The network's result, without gradients."""
    with torch.inference_mode():
        return network(images)


def timed(
    work: str, batch: int, ways: Mapping[str, Callable[[], object]], errors: dict[str, float], rounds: int,
    progress: Progress,
) -> Bench:  # fmt: skip
    """Measure the ways in turns."""
    seconds = in_turns(ways, rounds, progress)
    return Bench(work=work, batch=batch, seconds=seconds, environment=cpu_environment(), errors=errors)


def training_step(network: nn.Module, images: Tensor, loss: Loss, forward: Forward) -> Callable[[], object]:
    """A function that trains the network on the batch once, by Nesterov SGD. loss: of what `forward` returns."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(forward(images)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, progress: Progress = False
) -> dict[str, list[float]]:
    """Seconds of each way in each round, after two calls of each that warm up and are not counted.

    If a way takes less than SHORT seconds, each is called twice in its turn, and the second call counts: the first one
    finds the caches full of what the other ways have read, unlike calls that follow each other.

    Our convolutions are measured in the first call, as in a training, so that the others show what long work gets.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with report_progress(progress, "measuring", unit="round") as report, autotuner().fixed({}):
        short = False
        for way in ways.values():
            way()
            short |= _seconds(way) < SHORT
        for done in range(1, rounds + 1):
            for name, way in ways.items():
                if short:
                    way()
                seconds[name].append(_seconds(way))
            report(done, rounds)
    return seconds


def _seconds(way: Callable[[], object]) -> float:
    start = perf_counter()
    way()
    return perf_counter() - start


def build_network(model: str, num_classes: int, width: float, head: str) -> nn.Module:
    """A VGG, or a network of torchvision, for which `width` and `head` do not apply, with random weights."""
    if model not in MODEL_NAMES and model in torchvision.models.list_models(torchvision.models):
        # Without these it warns, takes seconds to start, and has two more classifiers that only training uses.
        options = {"aux_logits": False, "init_weights": False} if model == "googlenet" else {}
        network: nn.Module = torchvision.models.get_model(model, num_classes=num_classes, **options)
        return network
    return build(model, num_classes=num_classes, head=head, width=width)


def has_tiles() -> bool:
    """Whether our engine computes in bfloat16 on this machine."""
    if problem():
        return False
    from vggnet.accel.kernels import tiles

    return tiles.has_tiles()


def cpu_environment() -> dict[str, Any]:
    """Versions and hardware, as a run folder has them."""
    return environment(torch.device("cpu"))


Prepare = Callable[[nn.Module, Tensor, Forward], Callable[[], Any]]


def _ways(
    network: nn.Module, images: Tensor, compiled: bool, prepare: Prepare, *, bfloat16: bool
) -> dict[str, Callable[[], Any]]:
    """Ours and PyTorch's, each on its own copy of the network."""
    ways: dict[str, Callable[[], Any]] = {}
    for name in (OURS, NCHW, CHANNELS_LAST):
        copied, batch = _laid_out(name, copy.deepcopy(network), images)
        ways[name] = prepare(copied, batch, copied)
        if compiled and name != OURS:
            ways[f"{name}, compiled"] = prepare(copied, batch, torch.compile(copied))
    for name in (OURS, CHANNELS_LAST) if bfloat16 else ():
        copied, batch = _laid_out(name, copy.deepcopy(network), images)
        if name == OURS:
            ways[name + BFLOAT16] = products_in("bfloat16")(prepare(copied, batch, copied))
        else:
            ways[name + BFLOAT16] = prepare(copied, batch, in_autocast(copied))
    return ways


def in_autocast(network: nn.Module) -> Forward:
    """The network in bfloat16 as PyTorch's autocast does it; what it returns is float32."""

    def forward(images: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            result = network(images)
        return {k: v.float() for k, v in result.items()} if isinstance(result, dict) else result.float()

    return forward


def _gradients(network: nn.Module, images: Tensor, loss: Loss, forward: Forward) -> list[Tensor]:
    """Of a training step's loss for all weights, without dropout."""
    for module in network.train().modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return list(torch.autograd.grad(loss(forward(images)), list(network.parameters())))


def _laid_out(way: str, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """The network and the images as the way has them in memory."""
    if way.startswith(NCHW):
        return network, images
    last = images.contiguous(memory_format=torch.channels_last)
    return accelerate(network) if way.startswith(OURS) else network.to(memory_format=torch.channels_last), last


def _steps(way: str, model: str, width: float, head: str, size: int, batch: int) -> None:
    """Two training steps; the first of ours may autotune."""
    network, images = _laid_out(way, build_network(model, CLASSES, width, head), torch.randn(batch, 3, size, size))
    forward = torch.compile(network) if way.endswith("compiled") else network
    if way.endswith(BFLOAT16) and not way.startswith(OURS):
        forward = in_autocast(network)
    step = training_step(network, images, example_loss(network, images), forward)
    with products_in("bfloat16" if way == OURS + BFLOAT16 else "float32"), autotuner().fixed({}):
        step()
        step()
