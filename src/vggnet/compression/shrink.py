"""Steps that make a trained network smaller, one after the other, with what each of them changes."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vggnet.accel import api as accel
from vggnet.compression.shrink_options import ShrinkOptions
from vggnet.compression.speed import measure_speed
from vggnet.compression.steps import APPLIED, Job
from vggnet.compression.storage import STORAGE
from vggnet.compression.tuning import Tuner, recipe_of
from vggnet.errors import ConfigError, check_at_least
from vggnet.evaluation.evaluate import evaluate
from vggnet.interpret.costs import architecture_macs
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.report.text import to_plain
from vggnet.training.config import TrainConfig
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.registry import locate

GIVEN = "given"  # the row of the network before all steps


@dataclass(frozen=True, kw_only=True)
class ShrinkRow:
    """The network after a step."""

    step: str  # or "given"
    parameters: int
    macs: int  # multiply-adds for one image
    weights_bytes: int  # of all tensors as they are stored
    val_accuracy: float | None  # 0..1, the score of the task, on images kept apart from training; None without any
    test_accuracy: float | None  # 0..1, on the test images, of the first and the last network only
    latency: float  # seconds for one image on this machine
    images_per_second: float  # in batches, on this machine
    change: str  # what the step has done


@dataclass(frozen=True, kw_only=True)
class ShrinkResult:
    """What the steps have changed, and where the network is now."""

    source: str
    out: Path
    file_bytes: int
    size: int  # pixels of both sides of the image for which multiply-adds are counted
    batch_size: int  # images of a batch for `images_per_second`
    data: str | None
    rows: tuple[ShrinkRow, ...]  # the first is of the network that was given
    notes: tuple[str, ...] = ()


def shrink(
    source: Path | str,
    steps: Sequence[str],
    out: Path | str,
    options: ShrinkOptions | None = None,
    *,
    size: int | None = None,
    data: str | Path | None = None,
    recipe: TrainConfig | None = None,
    progress: Progress = False,
) -> ShrinkResult:
    """Make a trained network smaller, and write it as a checkpoint that opens like any other.

    Steps that train make run folders beside `out`, in a folder that ends in "-steps". The same call goes on where it
    was interrupted.

    Args:
        source: a run folder, a `.safetensors` file, or a name of `vgg weights list`.
        steps: "prune" (remove channels), "tune" (train), "distill" (train, also on the answers of the given network),
            "head" (another head, which is trained alone), "fold" (batch norm into convolutions, the repeated pool into
            fc6: exact), "factorize" (fully connected layers as two), "half" or "quantize" (store weights as float16
            or int8); each once, pruning and folding before factorizing, storage last.
        out: the `.safetensors` file to write.
        options: of the steps.
        size: pixels of both sides of the images; by default the crop of the preprocessing, and without any 224, or 32
            for the heads "cifar" and "folded".
        data: images to train on, and to evaluate on: validation images after each step, test images of the first and
            the last network; see `vggnet.train`.
        recipe: of trainings; by default the one that the network was trained by, or the preset that fits the data.
        progress: of trainings and evaluations.

    Raises:
        ConfigError: unknown steps, an order that makes no sense, options that cannot act or work, a target that cannot
            be reached.
        WeightsError: there is no such source, or it is damaged.
        InputError: the network does not take images of this size.
        DataError: the data cannot be read, or have other classes.
        StorageError: the file cannot be written.
        KeyboardInterrupt: Ctrl-C came; what was trained is saved.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = shrink("vgg8_bn-cifar10-fast", ["fold", "half"], f"{folder}/small.safetensors")
        ...     Checkpoint.open(result.out).architecture.name, [row.step for row in result.rows]
        ('vgg8', ['given', 'fold', 'half'])
    """
    out, options = Path(out).expanduser(), options or ShrinkOptions()
    options.check(steps)
    if data is None and (needing := options.needs_data(steps)):
        raise ConfigError(f"{needing} needs images. Give data.")
    checkpoint = Checkpoint.open(source)
    assert checkpoint.path is not None
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: expected a file name that ends in .safetensors.")
    if out.resolve() == locate(source).resolve():
        raise ConfigError(f"{out} is the network to shrink; write to another file.")
    model = checkpoint.build()
    size = _usual_size(model) if size is None else size
    check_at_least(TOTAL_STRIDE, input=size)
    tuner = None
    if data is not None:
        folder = out.with_name(f"{out.stem}-steps")
        recipe = recipe or recipe_of(checkpoint, data)
        recipe = recipe.override(freeze=0) if "prune" in steps else recipe  # which changes all layers
        tuner = Tuner(data, recipe, folder, progress)
    job = Job(
        source=source,
        steps=tuple(steps),
        options=options,
        size=size,
        tuner=tuner,
        header=_header_bytes(checkpoint.path),
    )
    if options.max_drop is not None:
        job = replace(job, options=replace(options, max_drop=None, to_macs=job.searched(model)))
    networks = [model]
    for step in steps:
        networks.append(APPLIED[step](networks[-1], job))
    tensors = STORAGE[steps[-1]](networks[-2]) if steps[-1] in STORAGE else dict(networks[-1].state_dict())
    weights = [checkpoint.path.stat().st_size - job.header]
    weights += [sum(tensor.nbytes for tensor in network.state_dict().values()) for network in networks[1:-1]]
    weights += [sum(tensor.nbytes for tensor in tensors.values())]
    (first, last), notes = _tested(checkpoint.path, networks[-1], data, progress)
    speed = measure_speed(networks, size)
    rows = [
        ShrinkRow(
            step=step,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            macs=architecture_macs(network.architecture, size),
            weights_bytes=weights[number],
            val_accuracy=None if tuner is None else tuner.accuracy(network),
            test_accuracy={0: first, len(steps): last}.get(number),
            latency=times.latency,
            images_per_second=times.images_per_second,
            change=_change(networks[number - 1], network) if number else "",
        )
        for number, (step, network, times) in enumerate(zip([GIVEN, *steps], networks, speed.each, strict=True))
    ]
    record = {"from": str(source), "size": size, "steps": [_of_record(row) for row in rows]}
    provenance: dict[str, Any] = dict(checkpoint.provenance)
    provenance["shrunk"] = [*provenance.get("shrunk", ()), record]
    replace(Checkpoint.of(networks[-1], provenance=provenance), _read=lambda: tensors).save(out)
    return ShrinkResult(
        source=str(source),
        out=out,
        file_bytes=out.stat().st_size,
        size=size,
        batch_size=speed.batch_size,
        data=None if data is None else str(data),
        rows=tuple(rows),
        notes=(*notes, *job.notes()),
    )


def _usual_size(model: VGG) -> int:
    if model.preprocess is not None:
        return model.preprocess.crop
    return TOTAL_STRIDE if model.architecture.head in ("cifar", "folded") else 224


def _header_bytes(path: Path) -> int:
    """Bytes of a safetensors file before its tensors: a length of eight bytes, and so many of description."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _tested(
    first: Path, last: VGG, data: str | Path | None, progress: Progress
) -> tuple[list[float | None], tuple[str, ...]]:
    """Accuracy of two networks on the test images, None without images, and what the evaluations note."""
    if data is None:
        return [None, None], ()
    models = (first, accel.accelerate(copy.deepcopy(last)))
    results = [evaluate(model, data, progress=progress) for model in models]
    return [result.score for result in results], tuple(
        dict.fromkeys(note for result in results for note in result.notes)
    )


def _of_record(row: ShrinkRow) -> dict[str, Any]:
    """What the file keeps of a row: no times, which are of a machine."""
    plain: dict[str, Any] = to_plain(row)
    return {name: value for name, value in plain.items() if name not in ("latency", "images_per_second")}


def _change(before: VGG, after: VGG) -> str:
    """What a step has done, in words."""
    old, new = before.architecture, after.architecture
    changes = []
    if old.name != new.name:
        changes.append(f"{old.name} is {new.name}")
    if old.head != new.head:
        inputs = [next(model.head.parameters()).shape[1] for model in (before, after)]
        changes.append(f"head {old.head} is {new.head}, its first layer of {inputs[0]:,} inputs has {inputs[1]:,}")
    if old.channels != new.channels:
        changes.append(f"channels {' '.join(map(str, new.channels or ()))}")
    if old.ranks != new.ranks:
        changes.append(f"ranks {' '.join(map(str, new.ranks or ()))}")
    return ", ".join(changes)
