"""`vgg train`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from vggnet.cli.parsing import parse
from vggnet.cli.ranks import is_first
from vggnet.errors import ConfigError, ImageError
from vggnet.training.config import TrainConfig, check_options
from vggnet.training.options import flat_name
from vggnet.training.presets import PRESETS, preset

if TYPE_CHECKING:
    from vggnet.training.run import Run

PROG = "vgg train"
_RESUMABLE = ("data", "epochs", "workers")  # options that may be given with --resume

FILES = ("weights.safetensors", "results.png", "history.jsonl", "report.html")


def _options_of(group: type) -> Any:
    """The options of a group under their names without it, which are those of the command line."""
    hints = get_type_hints(group)
    options = [
        (
            flat_name(group, member.name),
            Annotated[hints[member.name], tyro.conf.arg(help=member.metadata["help"])],
            field(default=member.default),
        )
        for member in fields(group)
    ]
    namespace = {"__doc__": group.__doc__, "__module__": __name__}
    return make_dataclass(group.__name__, options, frozen=True, kw_only=True, namespace=namespace)


_GROUPS = {name: _options_of(group) for name, group in get_type_hints(TrainConfig).items()}
_Options = make_dataclass("_Options", _GROUPS.items(), frozen=True, kw_only=True)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a VGG and write a run folder: weights, history, curves, and the state to resume from.

    Example: vgg train --data cifar10 --model vgg11_bn --width 0.5 --out runs/mine

    Fine-tune: vgg train --data photos/ --init-from vgg16:features

    Ctrl-C saves and stops; to resume: vgg train --resume runs/mine

    In two processes: torchrun --nproc_per_node 2 --no-python vgg train --data cifar10
    """

    # digits, cifar10, cifar100, a folder of class folders or parquet files, a Hugging Face id; for sets larger than
    # memory or disk stream:FOLDER (parquet files, WebDataset tars) or stream:ID
    data: str = "cifar10"
    # quick, fast, best, article, photos, finetune, paper, boxes, segment, detect or digits: where the values below come
    # from (shown are those of fast); by default chosen from the data: digits for the digits, segment for images with
    # masks, detect for images with objects, fast for images of up to 64 pixels, else photos; with weights to start from
    # finetune instead of photos, and boxes for --task localize
    preset: str | None = None
    init_from: Path | None = None  # fine-tune: a run folder or .safetensors file to start from, network and weights
    out: Path | None = None  # the run folder; by default runs/DATA-MODEL-DATE-TIME
    # a run folder to resume; takes no other option but --data, if the images have moved, --workers, and --epochs for
    # more of them, also after the end
    resume: Path | None = None
    options: Annotated[_Options, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes]  # type: ignore[valid-type]


def main(arguments: list[str]) -> int:
    """Train or resume; returns the exit code."""
    given = _given(arguments)
    args: Train = parse(Train, arguments, prog=PROG, default=Train(options=_shown(given.get("preset"))))
    run = _train(args, given) if args.resume is None else _resume(args, given)
    if not is_first():
        return 0
    folder = quote(str(run.folder))
    if not run.finished:
        moved = f" --data {quote(args.data)}" if args.resume and "data" in given else ""
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


def _given(arguments: list[str]) -> dict[str, str]:
    """The options that are given, and what stands behind each; `no_` before a name is left out."""
    given = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("--"):
            name, equals, value = argument.removeprefix("--").partition("=")
            given[name.replace("-", "_").removeprefix("no_")] = value if equals else following
    return given


def _shown(name: str | None) -> Any:
    """The options of a preset, as the command line has them; of `fast` if it is not known."""
    values = preset(name if name is not None and name in PRESETS else "fast").as_options()
    return _Options(**{
        group: kind(**{member.name: values[member.name] for member in fields(kind)}) for group, kind in _GROUPS.items()
    })  # fmt: skip


def _train(args: Train, given: Mapping[str, str]) -> "Run":
    parsed = {name: value for group in _GROUPS for name, value in vars(getattr(args.options, group)).items()}
    options = {name: value for name, value in parsed.items() if name in given}
    check_options(options)  # a mistaken value is found before the data are opened
    if args.preset is not None:
        preset(args.preset).override(**options)
    from vggnet.training import train as training

    try:
        return training.train_with(
            args.data, args.preset, options, init_from=args.init_from, out=args.out, progress=True
        )
    except ImageError as error:
        if parsed["task"] == "localize" or parsed["on_bad_image"] == "skip":
            raise
        raise ImageError(f"{error} Or train without such images: --on-bad-image skip.") from error


def _resume(args: Train, given: Mapping[str, str]) -> "Run":
    others = sorted(given.keys() - {"resume", *_RESUMABLE})
    if others:
        raise ConfigError(
            f"--{others[0].replace('_', '-')} cannot be changed: a run resumes with its own options, so --resume takes "
            f"no other but --{', --'.join(_RESUMABLE)}. See {PROG} --help."
        )
    from vggnet.training import train as training

    assert args.resume is not None
    options: Any = args.options
    changed = {"data": args.data, "epochs": options.schedule.epochs, "workers": options.data.workers}
    return training.resume(
        args.resume, **{name: value for name, value in changed.items() if name in given}, progress=True
    )
