"""`vgg train`."""

import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vggnet.training.config import PRESETS, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a VGG and write a run folder: weights, history, curves, and the state to go on from.

    Example: vgg train --data cifar10 --model vgg11_bn --width 0.5 --out runs/mine
    Fine-tune: vgg train --data photos/ --init-from runs/mine --head gap --lr 0.01
    Ctrl-C saves and stops; `vgg train --resume runs/mine` goes on exactly there.
    """

    data: str = "cifar10"  # digits, cifar10, cifar100, a folder of class folders or parquet files, a Hugging Face id
    preset: str = "fast"  # fast, article, photos, digits: where the values below come from
    init_from: Path | None = (
        None  # fine-tune: a run folder or .safetensors file whose network and weights to start from
    )
    out: Path | None = None  # the run folder; by default runs/DATA-MODEL-DATE-TIME
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
    early = ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--data", "--preset", "--resume", "--init-from"):
        early.add_argument(option)
    known, _ = early.parse_known_args(arguments)
    if known.resume is not None:
        again = tyro.cli(Resume, args=arguments, prog="vgg train")
        from vggnet.training import train as training

        run = training.resume(again.resume, data=again.data, progress=True)
    else:
        preset = known.preset or _default_preset(arguments, known.data or Train.data)
        default = Train(preset=preset, config=_default_config(preset, known.init_from))
        new = tyro.cli(Train, args=arguments, default=default, prog="vgg train")
        from vggnet.training import train as training

        run = training.train(
            new.data, preset=new.preset, init_from=new.init_from, out=new.out, progress=True, **new.config.as_dict()
        )
    if not run.finished:
        print(f"stopped and saved; go on with: vgg train --resume {run.folder}", file=sys.stderr)
        return 130
    print(f"run folder {run.folder}: weights.safetensors, results.png, history.jsonl")
    print(f"next: vgg test {run.folder}")
    return 0


def _default_config(preset: str, init_from: str | None) -> TrainConfig:
    """What the options not given mean. An unknown preset is refused when training starts."""
    if init_from is None:
        return PRESETS.get(preset, PRESETS["fast"])
    from vggnet.training.train import starting_config

    return starting_config(preset, init_from)


def _default_preset(arguments: list[str], data: str) -> str:
    if "-h" in arguments or "--help" in arguments:
        return "fast"
    from vggnet.training.train import suggest_preset

    return suggest_preset(data)
