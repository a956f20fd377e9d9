"""Steps that make a trained network smaller, one after the other, with what each of them changes."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggnet.accel import api as accel
from vggnet.compression.factorize import factorize
from vggnet.compression.fold import fold
from vggnet.compression.prune import Criterion, prune
from vggnet.errors import ConfigError, check_at_least
from vggnet.evaluation.evaluate import evaluate
from vggnet.interpret.costs import count_macs
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG, empty
from vggnet.progress import Progress
from vggnet.report.text import to_plain
from vggnet.tasks.results import EvaluationResult
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.registry import locate

# Step -> its place: a lower one comes first. Pruning and folding change the layers that are factorized, and what is
# rounded to float16 is computed with no more.
STEPS = {"prune": 0, "fold": 0, "factorize": 1, "half": 2}
GIVEN = "given"  # the row of the network before all steps


@dataclass(frozen=True, kw_only=True)
class ShrinkRow:
    """The network after a step."""

    step: str  # or "given"
    parameters: int
    macs: int  # multiply-adds for one image
    weights_bytes: int  # of all tensors as they are stored
    accuracy: float | None  # 0..1, on the test images; of boxes the share that is correct; None without data
    change: str  # what the step has done


@dataclass(frozen=True, kw_only=True)
class ShrinkResult:
    """What the steps have changed, and where the network is now."""

    source: str
    out: Path
    file_bytes: int
    size: int  # pixels of both sides of the image for which multiply-adds are counted
    data: str | None
    rows: tuple[ShrinkRow, ...]  # the first is of the network that was given
    notes: tuple[str, ...] = ()  # of the evaluation


def shrink(
    source: Path | str,
    steps: Sequence[str],
    out: Path | str,
    *,
    size: int | None = None,
    to_macs: float | None = None,
    criterion: Criterion = "l2",
    floor: float = 0.1,
    energy: float | None = None,
    rank: int | None = None,
    data: str | Path | None = None,
    progress: Progress = False,
) -> ShrinkResult:
    """Make a trained network smaller, and write it as a checkpoint that opens like any other.

    Args:
        source: a run folder, a `.safetensors` file, or a name of `vgg weights list`.
        steps: "fold" (batch norm into convolutions, the repeated pool into fc6: exact), "prune" (remove channels),
            "factorize" (fully connected layers as two), "half" (store weights as float16); each once, pruning and
            folding before factorizing, half last.
        out: the `.safetensors` file to write.
        size: pixels of both sides of the images; by default the crop of the preprocessing, and without any 224, or 32
            for the heads "cifar" and "folded".
        to_macs: of prune: the share of multiply-adds that may remain, in (0, 1).
        criterion: of prune: "l1", "l2" or "bn".
        floor: of prune: share of each layer's channels that remains at least.
        energy: of factorize: share of the squares of singular values that is kept, in (0, 1).
        rank: of factorize: of all layers, instead of `energy`.
        data: evaluate the network after each step on the test images of these data, see `vggnet.evaluate`.
        progress: of the evaluations.

    Raises:
        ConfigError: unknown steps, an order that makes no sense, or options that cannot act or work.
        WeightsError: there is no such source, or it is damaged.
        InputError: the network does not take images of this size.
        DataError: the data cannot be read, or have other classes.
        StorageError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = shrink("vgg8_bn-cifar10-fast", ["fold", "half"], f"{folder}/small.safetensors")
        ...     Checkpoint.open(result.out).architecture.name, [row.step for row in result.rows]
        ('vgg8', ['given', 'fold', 'half'])
    """
    out = Path(out).expanduser()
    _check_steps(steps)
    _check_options(steps, {"to_macs": to_macs, "criterion": criterion, "floor": floor, "energy": energy, "rank": rank})
    checkpoint = Checkpoint.open(source)
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: expected a file name that ends in .safetensors.")
    if out.resolve() == locate(source).resolve():
        raise ConfigError(f"{out} is the network to shrink; write to another file.")
    model = checkpoint.build()
    size = _usual_size(model) if size is None else size
    check_at_least(TOTAL_STRIDE, input=size)
    notes: tuple[str, ...] = ()

    def row(step: str, tensors: Mapping[str, Tensor], change: str = "") -> ShrinkRow:
        nonlocal notes
        accuracy = None
        if data is not None:
            accuracy, noted = _accuracy(source if step == GIVEN else model, data, progress)
            notes += tuple(note for note in noted if note not in notes)
        return ShrinkRow(
            step=step,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            macs=count_macs(empty(model.architecture), size, in_channels=model.architecture.in_channels),
            weights_bytes=sum(tensor.nbytes for tensor in tensors.values()),
            accuracy=accuracy,
            change=change,
        )

    tensors = checkpoint.tensors()
    rows = [row(GIVEN, tensors)]
    for step in steps:
        before = model
        if step == "prune":
            assert to_macs is not None
            model = prune(model, to_macs=to_macs, size=size, criterion=criterion, floor=floor)
        elif step == "fold":
            model = fold(model, size)
        elif step == "factorize":
            model = factorize(model, energy=energy, rank=rank)
        tensors = model.state_dict()
        if step == "half":
            tensors = in_half(model)
            model.load_state_dict(
                {name: tensor.float() for name, tensor in tensors.items() if tensor.ndim}, strict=False
            )
        rows.append(row(step, tensors, _change(before, model)))
    record = {"from": str(source), "size": size, "steps": to_plain(rows)}
    provenance: dict[str, Any] = dict(checkpoint.provenance)
    provenance["shrunk"] = [*provenance.get("shrunk", ()), record]
    replace(Checkpoint.of(model, provenance=provenance), _read=lambda: tensors).save(out)
    return ShrinkResult(
        source=str(source),
        out=out,
        file_bytes=out.stat().st_size,
        size=size,
        data=None if data is None else str(data),
        rows=tuple(rows),
        notes=notes,
    )


def in_half(model: VGG) -> dict[str, Tensor]:
    """The tensors of a network, weights of convolutions and fully connected layers as float16.

    Vectors (biases, batch norm) stay float32: they are few, and the variances of batch norm can be large.
    Raises: ConfigError for a weight that float16 cannot hold.

    Example:
        >>> from vggnet.models.vgg import build
        >>> tensors = in_half(build("vgg11", num_classes=2, head="gap", width=0.1))
        >>> tensors["features.conv1_1.weight"].dtype, tensors["features.conv1_1.bias"].dtype
        (torch.float16, torch.float32)
    """
    tensors = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(f"{name} holds a number above 65,504, which float16 has not. Leave out the step half.")
    return tensors


def _check_steps(steps: Sequence[str]) -> None:
    """Raises: ConfigError."""
    if not steps:
        raise ConfigError(f"no step was given; expected some of {', '.join(STEPS)}.")
    for step in steps:
        if step not in STEPS:
            raise ConfigError(f"unknown step {step!r}. The steps are {', '.join(STEPS)}.")
        if steps.count(step) > 1:
            raise ConfigError(f"the step {step} was given {steps.count(step)} times; give it once.")
    for before, after in pairwise(steps):
        if STEPS[before] > STEPS[after]:
            raise ConfigError(f"{before} comes before {after}, but must follow it. Give {after},{before}.")


def _check_options(steps: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises: ConfigError for an option whose step is missing, or a step whose option is."""
    defaults = {"criterion": "l2", "floor": 0.1}
    steps_of = {"to_macs": "prune", "criterion": "prune", "floor": "prune", "energy": "factorize", "rank": "factorize"}
    for name, value in options.items():
        if value != defaults.get(name) and steps_of[name] not in steps:
            raise ConfigError(f"{name} is {value}, but it acts only with the step {steps_of[name]}. Leave it out.")
    if "prune" in steps and options["to_macs"] is None:
        raise ConfigError("prune needs to_macs, the share of multiply-adds that may remain, such as 0.5.")
    if "factorize" in steps and options["energy"] is None and options["rank"] is None:
        raise ConfigError("factorize needs energy, such as 0.9, or rank, such as 256.")


def _usual_size(model: VGG) -> int:
    if model.preprocess is not None:
        return model.preprocess.crop
    return TOTAL_STRIDE if model.architecture.head in ("cifar", "folded") else 224


def _accuracy(model: VGG | Path | str, data: str | Path, progress: Progress) -> tuple[float, tuple[str, ...]]:
    if isinstance(model, VGG):
        model = accel.accelerate(copy.deepcopy(model))
    result = evaluate(model, data, progress=progress)
    return result.top1 if isinstance(result, EvaluationResult) else 1 - result.error_class_given, result.notes


def _change(before: VGG, after: VGG) -> str:
    """What a step has done, in words."""
    old, new = before.architecture, after.architecture
    changes = []
    if old.name != new.name:
        changes.append(f"{old.name} is {new.name}")
    if old.head != new.head:
        inputs = [next(model.head.parameters()).shape[1] for model in (before, after)]
        changes.append(f"fc6 of {inputs[0]:,} inputs has {inputs[1]:,}")
    if old.channels != new.channels:
        changes.append(f"channels {' '.join(map(str, new.channels or ()))}")
    if old.ranks != new.ranks:
        changes.append(f"ranks {' '.join(map(str, new.ranks or ()))}")
    return ", ".join(changes)
