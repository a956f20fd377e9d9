"""`vgg study`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vggnet.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class _Study:
    data: str
    json: bool = False  # print one JSON object instead of a table


@dataclass(frozen=True, kw_only=True)
class Speed(_Study):
    """Accuracy against time: train presets on all of train, test each once. Stopped, it goes on where it was.

    Example: vgg study speed --data cifar10 --presets quick --seeds 1
    """

    presets: tuple[str, ...] = ("quick", "fast")
    seeds: int = 3  # runs of each
    out: Path = Path("runs/speed")  # the run folders
    rows: Path = Path("docs/speed.jsonl")  # a row for each finished run; what is there is not run again
    figure: Path | None = None  # where the picture goes; by default beside the rows


@dataclass(frozen=True, kw_only=True)
class Depth(_Study):
    """Error against depth: the columns of Table 1 and B's shallow 5x5 twin with one budget; a verdict on each claim.

    Example: vgg study depth --data cifar10 --seeds 3
    """

    width: float = 0.125  # multiplies the channels of the convolutions
    epochs: int = 5
    seeds: int = 3  # runs of each
    out: Path = Path("runs/depth")  # the run folders, which networks that start from column A need
    rows: Path = Path("docs/depth.jsonl")  # a row for each finished run; what is there is not run again
    figure: Path | None = None  # where the picture goes; by default beside the rows


@dataclass(frozen=True, kw_only=True)
class Transfer(_Study):
    """Frozen features for other classes: pooled, at several scales, and one linear classifier.

    Example: vgg study transfer --data flowers17 --per-class 40 --seeds 5
    """

    weights: str = "vgg16:features"  # a name of `vgg weights list`, a run folder or a .safetensors file
    scales: tuple[int, ...] = (256, 384)  # pixels, shorter sides at which the whole image is seen
    combine: Literal["average", "stack"] = "average"  # what is done with the scales
    classifier: Literal["svm", "logistic"] = "svm"
    per_class: int = 40  # training images of each class, which the seed chooses
    seeds: int = 5
    out: Path = Path("runs/transfer")  # the features, which are not computed again
    rows: Path = Path("docs/transfer.jsonl")  # a row for each classifier; what is there is not run again


@dataclass(frozen=True, kw_only=True)
class Drawbacks(_Study):
    """What is held against VGG, measured: its head, overfitting, gradients in deep columns, memory.

    Example: vgg study drawbacks --data cifar10
    """

    width: float = 0.25  # multiplies the channels of the convolutions
    epochs: int = 2  # for each head, on all of train
    images: int = 2000  # of train, on which a network overfits with dropout and without
    small_epochs: int = 12  # on these
    seeds: int = 2  # runs of each
    out: Path = Path("runs/drawbacks")  # the run folders and checkpoints
    rows: Path = Path("docs/drawbacks.jsonl")  # a row for each finished run; what is there is not run again
    figure: Path | None = None  # where the picture goes; by default beside the rows


Command = (
    Annotated[Speed, tyro.conf.subcommand("speed")]
    | Annotated[Depth, tyro.conf.subcommand("depth")]
    | Annotated[Transfer, tyro.conf.subcommand("transfer")]
    | Annotated[Drawbacks, tyro.conf.subcommand("drawbacks")]
)
DESCRIPTION = """Train many networks or classifiers and compare them.

Example: vgg study speed --data cifar10 --presets quick --seeds 1"""


def main(arguments: list[str]) -> int:
    """Run the study; returns the exit code."""
    args: Speed | Depth | Transfer | Drawbacks = parse(Command, arguments, prog="vgg study", description=DESCRIPTION)
    from vggnet.studies.depth import study_depth
    from vggnet.studies.drawbacks import study_drawbacks
    from vggnet.studies.rows import Study
    from vggnet.studies.speed import study_speed
    from vggnet.studies.transfer import study_transfer

    options = {name: value for name, value in vars(args).items() if name not in ("figure", "json")}
    studies: dict[type, Callable[..., Study]] = {
        Speed: study_speed,
        Depth: study_depth,
        Transfer: study_transfer,
        Drawbacks: study_drawbacks,
    }
    study = studies[type(args)](**options, progress=True)
    print(study.as_json() if args.json else study.as_table())
    if not study.finished:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return 130
    if not isinstance(args, Transfer):
        figure = args.figure or args.rows.with_suffix(".png")
        _draw(args, study.rows, figure)
        print(f"drawn: {figure}", file=sys.stderr)
    return 0


def _draw(args: Speed | Depth | Drawbacks, rows: Sequence[dict[str, Any]], figure: Path) -> None:
    from vggnet.report.figures import draw_depth, draw_speed
    from vggnet.report.study_figures import draw_drawbacks
    from vggnet.studies.depth import by_label
    from vggnet.studies.drawbacks import by_part
    from vggnet.studies.speed import by_preset

    if isinstance(args, Speed):
        draw_speed(by_preset(rows), figure)
    elif isinstance(args, Depth):
        draw_depth(by_label(rows), figure)
    else:
        draw_drawbacks(by_part(rows), figure)
