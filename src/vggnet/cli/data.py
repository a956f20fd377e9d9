"""`vgg data`."""

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from vggnet.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Data:
    """Count, measure and verify a data set: classes, sizes, mean and deviation, and every unreadable image.

    Example: vgg data photos/

    Exits with 2 if an image cannot be read.
    """

    # digits, cifar10, cifar100, a folder, or a Hugging Face id
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Inspect; returns the exit code."""
    args: Data = parse(Data, arguments, prog="vgg data")
    from tqdm import tqdm

    from vggnet.data.inspecting import inspect

    with tqdm(desc="reading", unit="image", leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        inspection = inspect(args.data, progress=show)
    print(json.dumps(inspection.as_dict()) if args.json else inspection.as_table())
    return 2 if any(split.unreadable for split in inspection.splits) else 0
