"""`vgg test`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vggnet.cli.parsing import PrecisionOption, parse
from vggnet.errors import ConfigError, ImageError


@dataclass(frozen=True, kw_only=True)
class Test:
    """Measure a trained network: accuracy, mean IoU or mAP, loss, each class, confusion; draws the mistakes.

    Example: vgg test runs/mine --data cifar10 --split test

    As the paper does: vgg test runs/d runs/e --data photos/ --protocol dense+multicrop --scales 256,384,512 --flip
    """

    # a run folder, a .safetensors file, a name of `vgg weights list`, or a file of `vgg export`
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    others: Annotated[tuple[Path, ...], tyro.conf.Positional]  # more of them: the softmax outputs of all are averaged
    data: str | None = None  # by default what it was trained on
    split: str = "test"
    # single: the center crop; multiscale: at several scales; dense: the whole photo, the head on every window of its
    # last feature map; multicrop: a 5x5 grid of crops and their mirror images; dense+multicrop: both, half each
    protocol: Literal["single", "multiscale", "dense", "multicrop", "dense+multicrop"] = "single"
    # pixels of the shorter side, as in 256,384,512; by default as in training, for multiscale also 32 less and 32 more
    scales: str | None = None
    classifier: Path | None = None  # for networks that give boxes: a network for the class
    flip: bool = False  # the mirror image of each view as well; multicrop always has them
    batch_size: int | None = None  # crops at once, or as many pixels; by default 500 small images or 32 photos
    workers: int | None = None  # loader processes; by default none for small images, else one a core
    device: str | None = None  # by default a GPU if there is one
    precision: PrecisionOption = "float32"
    views: Literal[1, 6] = 1  # 6: mean over the image, two shifts of a pixel, and their mirror images
    # what happens to an image that cannot be read: stop, or leave it out of the result, where it is counted and named
    on_bad_image: Literal["stop", "skip"] = "stop"
    label_column: str | None = None  # of a table; by default as in training, else the one called label
    image_column: str | None = None  # of a table; by default as in training, else the only one of bytes
    ignore_index: int | None = None  # of masks: the class index of pixels that do not count; by default as in training
    out: Path | None = None  # where test.json and the pictures go; by default the folder of a single run
    table: Path | None = None  # a .csv or .parquet file for one row an image: its file, what is true and predicted
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Test; returns the exit code."""
    args: Test = parse(Test, arguments, prog="vgg test")
    scales = _numbers(args.scales)
    from vggnet.accel.precision import products_in
    from vggnet.data.sources.source import BY_NAME
    from vggnet.errors import MissingDependencyError
    from vggnet.evaluation.evaluate import evaluate
    from vggnet.evaluation.predict import check_has_head
    from vggnet.report.text import to_json
    from vggnet.run_report import write_report
    from vggnet.tasks import get_task
    from vggnet.training.inputs import configured_columns
    from vggnet.training.run import CONFIG, Run
    from vggnet.weights.checkpoint import Checkpoint
    from vggnet.weights.registry import find, read_shipped, shipped_names

    models = (args.model, *args.others)
    for model in models:
        check_has_head(Checkpoint.open(model).architecture.num_classes)  # what is missing is said first
    is_run = args.model.is_dir()
    with_package = find(args.model) is not None and str(args.model) in shipped_names()
    if args.data is None and not is_run and not with_package:
        raise ConfigError(f"{args.model} does not say which data to test on; add --data.")
    data = args.data or (read_shipped(str(args.model)).data if with_package else Run.open(args.model).data)
    is_trained = args.data is None and is_run
    trained = configured_columns(Run.open(args.model).config) if is_trained else BY_NAME
    out = args.out or (args.model if is_run and not args.others else None)
    try:
        with products_in(args.precision):
            result = evaluate(
                models,
                data,
                split=args.split,
                protocol=args.protocol,
                scales=scales,
                flip=args.flip,
                views=args.views,
                classifier=args.classifier,
                batch_size=args.batch_size,
                workers=args.workers,
                device=args.device,
                on_error="return" if args.on_bad_image == "skip" else "raise",
                label_column=args.label_column or trained.label,
                image_column=args.image_column or trained.image,
                ignore_index=trained.ignore_index if args.ignore_index is None else args.ignore_index,
                out=out,
                table=args.table,
                progress=True,
            )
    except ImageError as error:
        raise ImageError(
            f"{error} All that cannot be read: vgg data {data}. To test the others: --on-bad-image skip."
        ) from error
    print(to_json(result) if args.json else get_task(Checkpoint.open(args.model).task).evaluation_text(result))
    unreadable = tuple(getattr(result, "unreadable", {}).values())
    for note in (*result.notes, *unreadable):
        print(f"vgg: {note}", file=sys.stderr)
    if unreadable:
        print(f"vgg: left out {len(unreadable):,} images that cannot be read", file=sys.stderr)
    if result.error:
        print(f"vgg: {result.error}", file=sys.stderr)
        return 2
    if out == args.model and (args.model / CONFIG).is_file():
        try:
            print(f"report: {write_report(args.model).path}", file=sys.stderr)
        except MissingDependencyError as missing:
            print(f"no report: {missing}", file=sys.stderr)
    return 0


def _numbers(scales: str | None) -> tuple[int, ...]:
    """Raises: ConfigError."""
    try:
        return tuple(int(scale) for scale in scales.split(",")) if scales is not None else ()
    except ValueError:
        raise ConfigError(
            f"--scales {scales}: expected whole numbers with commas between, as in 256,384,512."
        ) from None
