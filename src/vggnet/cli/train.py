"""`vgg train`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import tyro

from vggnet.cli.parsing import parse
from vggnet.cli.ranks import is_first
from vggnet.errors import ConfigError, ImageError
from vggnet.training.config import PRESETS, TrainConfig

if TYPE_CHECKING:
    from vggnet.training.run import Run

PROG = "vgg train"

FILES = ("weights.safetensors", "results.png", "history.jsonl", "report.html")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the values of the other options depend on."""

    # digits, cifar10, cifar100, a folder of class folders or parquet files, a Hugging Face id; for sets larger than
    # memory or disk stream:FOLDER (parquet files, WebDataset tars) or stream:ID
    data: str = "cifar10"
    # quick, fast, best, article, photos, finetune, paper, boxes or digits: where the values below come from (shown are
    # those of fast); by default chosen from the data: digits for the digits, fast for images of up to 64 pixels, else
    # photos; with weights to start from finetune instead of photos, and boxes for --task localize
    preset: str | None = None
    init_from: Path | None = None  # fine-tune: a run folder or .safetensors file to start from, network and weights
    out: Path | None = None  # the run folder; by default runs/DATA-MODEL-DATE-TIME
    resume: Path | None = None  # a run folder to go on with; takes no other option but --data, if the images have moved


@dataclass(frozen=True, kw_only=True)
class Train(Start):
    """Train a VGG and write a run folder: weights, history, curves, and the state to go on from.

    Example: vgg train --data cifar10 --model vgg11_bn --width 0.5 --out runs/mine

    Fine-tune: vgg train --data photos/ --init-from vgg16:features

    Ctrl-C saves and stops; to go on exactly there: vgg train --resume runs/mine

    In two processes: torchrun --nproc_per_node 2 --no-python vgg train --data cifar10
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Go on with an interrupted run, bit for bit as if it had not been interrupted.

    Example: vgg train --resume runs/mine
    """

    resume: Path  # the run folder
    data: str | None = None  # where the training images are now, if they have moved


def main(arguments: list[str]) -> int:
    """Train or resume; returns the exit code."""
    start: Start = parse(Start, arguments, prog=PROG, add_help=False, return_unknown_args=True)[0]
    run = _train(arguments, start) if start.resume is None else _resume(arguments)
    if not is_first():
        return 0
    folder = quote(str(run.folder))
    if not run.finished:
        moved = f" --data {quote(start.data)}" if start.resume and start.data != Start.data else ""
        print(f"stopped and saved; go on with: vgg train --resume {folder}{moved}", file=sys.stderr)
        return 130
    from vggnet.errors import MissingDependencyError
    from vggnet.run_report import write_report

    try:
        write_report(run)
    except MissingDependencyError as error:
        print(f"no report: {error}", file=sys.stderr)
    written = [name for name in FILES if (run.folder / name).is_file()]
    print(f"run folder {run.folder}: {', '.join(written)}")
    print(f"next: vgg test {folder}")
    return 0


def _train(arguments: list[str], start: Start) -> "Run":
    config = _config(arguments, start)  # a mistaken option is found before the data are opened
    from vggnet.training import train as training
    from vggnet.training.starting import suggest_preset

    if start.preset is None:
        start = replace(start, preset=suggest_preset(start.data, start.init_from, config.task))
        config = _config(arguments, start)
    try:
        return training.train(
            start.data, preset=start.preset, init_from=start.init_from, out=start.out, progress=True, **config.as_dict()
        )
    except ImageError as error:
        if config.task == "localize" or config.on_bad_image == "skip":
            raise
        raise ImageError(f"{error} Or train without such images: --on-bad-image skip.") from error


def _resume(arguments: list[str]) -> "Run":
    try:
        again: Resume = parse(Resume, arguments, prog=PROG)
    except ConfigError as error:
        raise ConfigError(f"{error} A run goes on by its own options: --resume takes no other but --data.") from error
    from vggnet.training import train as training

    return training.resume(again.resume, data=again.data, progress=True)


def _config(arguments: list[str], start: Start) -> TrainConfig:
    """The options given, and for the others the values of the preset: of `fast` if it is not known yet."""
    new: Train = parse(Train, arguments, prog=PROG, default=Train(config=_defaults(start.preset or "fast", start)))
    return new.config


def _defaults(preset: str, start: Start) -> TrainConfig:
    if preset in PRESETS and start.init_from is None:
        return PRESETS[preset]  # without waiting for PyTorch
    from vggnet.training.starting import starting_config

    return starting_config(preset, start.init_from)
