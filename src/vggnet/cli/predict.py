"""`vgg predict`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Name what is on pictures. A picture that cannot be read is reported; the others are still answered.

    Example: vgg predict runs/mine photo.jpg holidays/ --top 3

    Without a model, by weights that come with the package: vgg predict photo.jpg
    """

    # a run folder, a .safetensors file, or a name of `vgg weights list`; it may be left out before an image file
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]  # image files, or folders of them
    top: int = 5  # classes to show
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print a JSON list instead of a table


def main(arguments: list[str]) -> int:
    """Predict; returns the exit code."""
    args: Predict = parse(Predict, arguments, prog="vgg predict")
    from vggnet.data.decode import IMAGE_SUFFIXES
    from vggnet.weights.named import DEFAULT

    if args.model.suffix.lower() in IMAGE_SUFFIXES:
        args = replace(args, model=Path(DEFAULT), images=(args.model, *args.images))
    if not args.images:
        raise ConfigError("no image was given; add image files or folders after the model.")
    from vggnet.evaluation.predicting import predict, predictions_json, predictions_table

    predictions = predict(args.model, args.images, top=args.top, device=args.device)
    readable = [prediction for prediction in predictions if prediction.error is None]
    if args.json:
        print(predictions_json(predictions))
    elif readable:
        print(predictions_table(readable))
    for prediction in predictions:
        if prediction.error is not None:
            print(f"vgg: {' '.join(prediction.error.split())}", file=sys.stderr)
    return 0 if len(readable) == len(predictions) else 2
