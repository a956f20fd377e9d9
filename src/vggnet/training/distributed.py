"""One training in the several processes that `torchrun` starts, by PyTorch's own collective operations.

Each batch is cut into shares, one a process; gradients and counts are summed over all. The gradients go in one piece,
always in the same order: DistributedDataParallel orders its pieces anew after the first step that it sees, so that a
resumed run of three processes would round otherwise than one that was not interrupted. A share may be empty.
"""

import atexit
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from vggnet import errors
from vggnet.errors import ConfigError, RunError, VGGError, one_line

T = TypeVar("T")
Indices = TypeVar("Indices", Tensor, NDArray[np.int64])


@dataclass(frozen=True)
class Ranks:
    """The processes that train one network together, and which of them this is. By default it is alone.

    All of them call the same methods in the same order, but for `share`.
    """

    rank: int = 0  # the first one writes, draws and speaks
    size: int = 1
    on_this_machine: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes, draws and speaks."""
        return self.rank == 0

    def share(self, indices: Indices) -> Indices:
        """What this process does of a batch or a set: neighbors, in each process as many or one more or less."""
        return indices[len(indices) * self.rank // self.size : len(indices) * (self.rank + 1) // self.size]

    def sum(self, *values: float) -> list[float]:
        """Each number summed over the processes, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        _exchange(dist.all_reduce, total)
        return total.tolist()

    def sum_gradients(self, model: nn.Module) -> None:
        """Make each gradient the sum over the processes. One that has seen no image has none, and adds nothing."""
        if self.size == 1:
            return
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        total = torch.cat([gradient.flatten() for gradient in gradients])
        _exchange(dist.all_reduce, total)
        parts = torch.split(total, [gradient.numel() for gradient in gradients])
        for parameter, gradient, part in zip(learning, gradients, parts, strict=True):
            parameter.grad = gradient.copy_(part.view_as(gradient))

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Give these tensors the values that they have in the first process."""
        if self.size > 1:
            for tensor in tensors:
                _exchange(dist.broadcast, tensor, 0)

    def text(self, text: str, rank: int = 0) -> str:
        """What process `rank` calls this with; not empty."""
        if self.size == 1:
            return text
        content = torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)
        length = torch.tensor(len(content))
        _exchange(dist.broadcast, length, rank)
        content = content if self.rank == rank else torch.empty(int(length), dtype=torch.uint8)
        _exchange(dist.broadcast, content, rank)
        return content.numpy().tobytes().decode()

    def texts(self, text: str) -> list[str]:
        """What each process calls this with, by rank."""
        return [self.text(text, rank) for rank in range(self.size)]

    def unite(self, found: dict[str, str]) -> None:
        """Add what the other processes have found to what this one has."""
        if self.size > 1:
            for text in self.texts(json.dumps(found)):
                found.update(json.loads(text))

    def together(self, work: Callable[..., T], *arguments: Any) -> T:
        """`work(*arguments)`, which fails in all processes if it fails in one.  Raises: the first one's VGGError."""
        if self.size == 1:
            return work(*arguments)
        failure: VGGError | None = None
        try:
            result = work(*arguments)
        except VGGError as error:
            failure = error
        self._raise_first(failure)
        return result

    def first(self, work: Callable[..., T], *arguments: Any) -> T | None:
        """`together`, in the first process alone; None in the others."""
        return self.together(work, *arguments) if self.is_first else self.together(_nothing)

    def in_turn(self, work: Callable[..., T], *arguments: Any) -> T:
        """`together`, the first process before the others, which then find on the disk what it has left there."""
        if self.is_first:
            result = self.together(work, *arguments)
            self.together(_nothing)
            return result
        self.together(_nothing)
        return self.together(work, *arguments)

    @contextmanager
    def within(self, context: AbstractContextManager[T]) -> Iterator[T | None]:
        """The block inside `context` in the first process, as it is in the others.  Raises: as `together` on entry."""
        with ExitStack() as stack:
            yield self.first(stack.enter_context, context)

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items of this process, as many as the others have; none is None.  Raises: as `together`."""
        iterator = iter(items)
        while (item := self.together(next, iterator, None)) is not None:
            yield item

    def _raise_first(self, failure: VGGError | None) -> None:
        failed = torch.tensor(self.size if failure is None else self.rank)
        _exchange(dist.all_reduce, failed, dist.ReduceOp.MIN)
        if failed < self.size:
            kind, message = json.loads(self.text(json.dumps([type(failure).__name__, str(failure)]), int(failed)))
            error: VGGError = getattr(errors, kind)(message)
            raise error from failure


ALONE = Ranks()


def join() -> Ranks:
    """The processes that torchrun has started with this one; without torchrun it is alone.

    Raises: ConfigError if the others are not found, or there is no GPU for this one where there are GPUs.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    if not dist.is_initialized():
        _connect()
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _connect() -> None:
    local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if gpus:
        if local >= gpus:
            raise ConfigError(
                f"torchrun has started more processes than there are GPUs ({gpus}); start it with --nproc_per_node "
                f"{gpus}, or with CUDA_VISIBLE_DEVICES= to train on the CPU."
            )
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes have not found each other ({one_line(error)}); start them with torchrun, or "
            "unset WORLD_SIZE to train in one."
        ) from error
    atexit.register(dist.destroy_process_group)


def _exchange(collective: Callable[..., Any], *arguments: Any) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:
        raise RunError(
            "another process of this training has ended, so this one has to. Go on with --resume from the last "
            "checkpoint, if there is one."
        ) from error


def _nothing() -> Any:
    return None
