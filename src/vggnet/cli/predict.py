"""`vgg predict`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vggnet.tasks.results import FoundBox, Prediction
    from vggnet.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Name what is on pictures. A picture that cannot be read is reported; the others are still answered.

    Example: vgg predict runs/mine photo.jpg holidays/ --top 3

    Without a model, by weights that come with the package: vgg predict photo.jpg

    Where it is, by a network trained with --task localize: vgg predict runs/boxes photo.jpg --classifier runs/mine
    """

    # a run folder, a .safetensors file, a name of `vgg weights list`, or a file of `vgg export`; it may be left out
    # before an image file
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]  # image files, or folders of them
    top: int | None = None  # classes to show, by default 5
    classifier: Path | None = None  # for a network that gives boxes: a network for the class
    # for a network that gives boxes: where the first 16 pictures are drawn with their boxes; by default boxes.png
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    device: str | None = None  # by default a GPU if there is one
    # of the products of convolutions on a CPU; bfloat16 is faster on CPUs with a matrix unit (AMX)
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    json: bool = False  # print a JSON list instead of a table


def main(arguments: list[str]) -> int:
    """Predict; returns the exit code."""
    args: Predict = parse(Predict, arguments, prog="vgg predict")
    from vggnet.data.formats import IMAGE_SUFFIXES, left_out, left_out_text
    from vggnet.weights.registry import DEFAULT_WEIGHTS

    if args.model.suffix.lower() in IMAGE_SUFFIXES:
        args = replace(args, model=Path(DEFAULT_WEIGHTS), images=(args.model, *args.images))
    if not args.images:
        raise ConfigError("no image was given; add image files or folders after the model.")
    from vggnet.accel.precision import products_in
    from vggnet.evaluation.predict import predict
    from vggnet.report.text import to_json
    from vggnet.tasks import get_task
    from vggnet.weights.checkpoint import Checkpoint

    task, out = get_task(Checkpoint.open(args.model).task), args.out or Path("boxes.png")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: the figure is written as PNG; give a name that ends in .png.")
    if args.out and not task.draws_predictions:
        raise ConfigError(f"{args.model} gives no boxes, which are what is drawn; leave out --out.")
    with products_in(args.precision):
        predictions = predict(
            args.model, args.images, top=args.top, classifier=args.classifier, device=args.device, progress=True
        )
    readable = [one for one in predictions if one.error is None]
    if args.json:
        print(to_json(predictions))
    elif readable:
        print(task.predictions_text(readable))
    if readable and task.draws_predictions:
        _draw(task, args.images, predictions, out)
    if files := left_out(args.images):
        print(f"vgg: {left_out_text(files)}", file=sys.stderr)
    errors = [one.error for one in predictions if one.error is not None]
    for error in errors:
        print(f"vgg: {' '.join(error.split())}", file=sys.stderr)
    return 2 if errors else 0


def _draw(task: "Task", images: "Sequence[Path]", predictions: "Sequence[FoundBox | Prediction]", out: Path) -> None:
    """Draw the predictions, if matplotlib is installed."""
    from vggnet.errors import MissingDependencyError

    try:
        number = task.draw_predictions(images, predictions, out)
    except MissingDependencyError as error:
        print(f"no figure: {error}", file=sys.stderr)
    else:
        print(f"drawn: {out}, {number} of {len(predictions)} pictures", file=sys.stderr)
