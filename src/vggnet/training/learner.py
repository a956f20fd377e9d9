"""What one step of training changes, and how: network, optimizer, average of the weights."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vggnet.accel.api import accelerate
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, NonFiniteError
from vggnet.models.branches import BranchedVGG, add_branches
from vggnet.models.vgg import VGG, build
from vggnet.tasks.task import Targets, Task, split
from vggnet.training.config import TrainConfig
from vggnet.training.distillation import Teacher, open_teacher
from vggnet.training.distributed import ALONE, Ranks
from vggnet.training.inputs import configured_task
from vggnet.training.muon import Muon


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A network that learns."""

    model: VGG
    task: Task
    optimizer: torch.optim.Optimizer  # each group carries its "base_lr", which the schedule multiplies
    average: AveragedModel | None  # exponential average of the weights
    forward: Callable[[Tensor], Tensor]  # the model, compiled or not, in its precision
    device: torch.device
    accumulate: int = 1
    frozen: tuple[nn.Module, ...] = ()  # layers that stay as they are
    ranks: Ranks = ALONE  # the processes that learn together
    teacher: Teacher | None = None
    norm_l1: float = 0.0  # of the penalty on scales of batch norm

    @property
    def learned(self) -> VGG:
        """The network with its average weights, if there are any."""
        return cast(VGG, self.average.module) if self.average else self.model

    @property
    def kept(self) -> VGG:
        """The network to validate and to keep: the learned one, its branches folded."""
        network = self.learned
        return _placed(network.folded(), self.device) if isinstance(network, BranchedVGG) else network

    def train(self) -> None:
        """Set the mode for training; frozen batch norms go on answering by their running statistics."""
        self.model.train()
        for layer in self.frozen:
            layer.eval()

    def train_step(self, images: Tensor, targets: Targets) -> tuple[list[float], int]:
        """Update on one batch, or this process's share of it.

        Args:
            images: float (N, C, H, W).
            targets: of these images, as the task's loss takes them.

        Returns:
            The task's sums over the images of the whole batch, and the number of these. Without any image nothing is
            updated.

        Raises:
            NonFiniteError: loss or gradient is not finite; no weight has been updated.
        """
        self.optimizer.zero_grad(set_to_none=True)
        (count,) = self.ranks.sum(len(images))
        sums = [0.0] * len(self.task.sums)
        if not count:
            return sums, 0
        parts = images.chunk(self.accumulate) if len(images) else ()
        for part, part_targets in zip(parts, split(targets, [len(part) for part in parts]), strict=True):
            outputs = self.forward(part)
            loss = self.task.loss(outputs, part_targets)
            minimized = loss.minimized
            if self.teacher is not None:
                minimized = self.teacher.mixed(minimized, outputs, part, self.task)
            (minimized / count).backward()  # type: ignore[no-untyped-call]
            sums = [total + value for total, value in zip(sums, loss.sums.tolist(), strict=True)]
        self.ranks.sum_gradients(self.model)
        self._add_penalty()
        sums = self.ranks.sum(*sums)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        _require_finite("the loss", sums[0])
        _require_finite("the norm of the gradient", get_total_norm(gradients).item())
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        return sums, int(count)

    @torch.no_grad()
    def _add_penalty(self) -> None:
        """Add the gradient of the L1 penalty (Liu et al. 2017, arXiv:1708.06519, equation 1)."""
        if not self.norm_l1:
            return
        for layer in self.model.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.weight.grad is not None:
                layer.weight.grad.add_(layer.weight.sign(), alpha=self.norm_l1)

    def share_statistics(self) -> None:
        """Take over the running statistics of batch norm that the first process has gathered from its shares."""
        for network in (self.model, self.average):
            if network is not None:
                self.ranks.copy_first(network.buffers())


def check_finite_weights(model: nn.Module) -> None:
    """Raises: NonFiniteError naming the first parameter or batch-norm buffer that holds a NaN or an infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{name} holds a NaN or an infinity; it was not saved. Start again with a lower lr.")


def build_model(config: TrainConfig, num_classes: int) -> VGG:
    """The network of a run, initialized from its seed."""
    torch.manual_seed(config.run.seed)
    options = config.model
    model = build(
        options.name,
        num_classes=num_classes,
        head=options.head,
        in_channels=options.in_channels,
        width=options.width,
        dropout=options.dropout,
        channels=options.channels,
        ranks=options.ranks,
        init=options.init,
        **configured_task(config).architecture_options(),
    )
    if options.branches != "none":
        model = add_branches(model, options.branches, init=options.init)
    model.task = config.task.name
    return model


def make_learner(config: TrainConfig, model: VGG, ranks: Ranks = ALONE, task: Task | None = None) -> Learner:
    """Move the model to its device and give it an optimizer. It starts as it is in the first of the processes."""
    device = choose_device(config.run.device)
    _placed(model, device)
    ranks.copy_first(model.state_dict().values())
    frozen = _freeze(model, config.model.freeze)
    ema = get_ema_multi_avg_fn(config.optimizer.ema)  # type: ignore[no-untyped-call]
    return Learner(
        model=model,
        task=task or configured_task(config),
        optimizer=_optimizer(config, model),
        average=AveragedModel(model, multi_avg_fn=ema, use_buffers=True) if config.optimizer.ema else None,
        forward=_forward(config, model, device),
        device=device,
        accumulate=config.optimizer.accumulate,
        frozen=frozen,
        ranks=ranks,
        teacher=_teacher(config, device),
        norm_l1=config.optimizer.norm_l1,
    )


def _teacher(config: TrainConfig, device: torch.device) -> Teacher | None:
    """The teacher, as fast on the device as it can be."""
    network = open_teacher(config)
    if network is None:
        return None
    forward = _forward(config, _placed(network, device), device)
    return Teacher(forward, config.optimizer.teacher_share, config.optimizer.temperature)


def _placed(model: VGG, device: torch.device) -> VGG:
    """The same model, on its device and as fast there as it can be."""
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return accelerate(model) if device.type == "cpu" else model


def _freeze(model: VGG, blocks: int) -> tuple[nn.Module, ...]:
    """Take the layers of the first blocks out of training, and return them."""
    if not blocks:  # of any network
        return ()
    layers = tuple(layer for name, layer in model.features.named_children() if is_frozen(f"features.{name}", blocks))
    for layer in layers:
        layer.requires_grad_(False)
    return layers


def is_frozen(name: str, blocks: int) -> bool:
    """Whether a layer or tensor of this name belongs to a convolution or norm of the first blocks."""
    firsts = (f"features.{kind}{block}_" for block in range(1, blocks + 1) for kind in ("conv", "bn"))
    return name.startswith(tuple(firsts))


def _forward(config: TrainConfig, model: VGG, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model as a function, compiled and in bfloat16 where the configuration says so; for CPUs see `session`."""
    options, on_gpu = config.run, device.type == "cuda"
    compiles = on_gpu if options.compile is None else options.compile
    if compiles and not on_gpu:
        _require_compiler()
    forward: Callable[[Tensor], Tensor] = torch.compile(model) if compiles else model
    has_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if not on_gpu or options.precision == "float32" or (options.precision == "auto" and not has_bfloat16):
        return forward

    def in_bfloat16(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(images).float()

    return in_bfloat16


def _require_compiler() -> None:
    """torch.compile writes C++ for CPUs.  Raises: ConfigError if nothing here can compile it."""
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if not any(map(shutil.which, compilers)):
        raise ConfigError(
            f"compile on a CPU needs a C++ compiler ({' or '.join(compilers)}); install one or leave it off."
        )


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.SGD:
    """As configured; norms and biases are decayed only if the configuration says so, Muon's kernels never.

    Raises: ConfigError for Muon without batch norm.
    """
    options = config.optimizer
    with_muon = options.name == "muon"
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    layers = [layer for layer in model.modules() if not list(layer.children())]
    norm_biases = {layer.bias for layer in layers if isinstance(layer, nn.BatchNorm2d)}
    normed = {
        layer.weight
        for layer, norm in pairwise(layers)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    }
    if with_muon and not normed:
        raise ConfigError(
            f'{config.model.name} with the head {config.model.head} has no batch norm, which optimizer="muon" needs. '
            f'Take {config.model.name}_bn, or optimizer="sgd" with a low lr such as 0.01 and weight_decay 5e-4.'
        )
    others = [p for p in learning if p.ndim == 2 or (p.ndim == 4 and p not in normed)]
    vectors = [p for p in learning if p.ndim == 1 and p not in norm_biases]
    kernels = [p for p in learning if p in normed]
    decayed = {"base_lr": options.lr, "weight_decay": options.weight_decay}
    of_vectors = {"base_lr": options.lr, "weight_decay": options.weight_decay if options.decay_norms else 0.0}
    of_kernels: dict[str, Any] = (
        {"base_lr": options.kernel_lr, "kernels": True, "momentum": 0.0, "nesterov": False} if with_muon else decayed
    )
    groups: list[dict[str, Any]] = [
        {"params": others, **decayed},
        {"params": vectors, **of_vectors},
        {
            "params": [p for p in learning if p in norm_biases],
            **of_vectors,
            **({"base_lr": options.norm_bias_lr} if with_muon else {}),
        },
        {"params": kernels, **of_kernels},
    ]
    kind = Muon if with_muon else torch.optim.SGD
    return kind(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov, fused=True)


def _require_finite(name: str, value: float) -> None:
    if not -float("inf") < value < float("inf"):
        raise NonFiniteError(f"{name} became {value}")
