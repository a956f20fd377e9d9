"""`vgg similar`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vggnet.cli.bars import extract_by
from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

INDEX = Path("similar.safetensors")


@dataclass(frozen=True, kw_only=True)
class Index:
    """Describe every picture of folders by VGG's features, for searching. Stopped, it goes on where it was.

    Example: vgg similar index photos/
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]  # folders of image files, or files
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = INDEX
    weights: str = "vgg16:features"  # a name of `vgg weights list`, a run folder or a .safetensors file
    batch_size: int = 16
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object


@dataclass(frozen=True, kw_only=True)
class Query:
    """Name the pictures of an index that look most like the given ones, and draw them.

    Example: vgg similar query holiday.jpg --top 5
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]  # image files, or folders of them
    index: Annotated[Path, tyro.conf.arg(aliases=["-i"])] = INDEX
    top: int = 8  # pictures to show
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = Path("similar.png")  # the drawing
    weights: str | None = None  # only if those that made the index lie elsewhere now
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print a JSON list instead of a table


Command = Annotated[Index, tyro.conf.subcommand("index")] | Annotated[Query, tyro.conf.subcommand("query")]
DESCRIPTION = """Search pictures by what they look like.

Example: vgg similar index photos/, then vgg similar query holiday.jpg"""


def main(arguments: list[str]) -> int:
    """Index or query; returns the exit code."""
    args: Index | Query = parse(Command, arguments, prog="vgg similar", description=DESCRIPTION)
    if not args.images:
        raise ConfigError("no picture was given; add image files or folders.")
    return _index(args) if isinstance(args, Index) else _query(args)


def _index(args: Index) -> int:
    from vggnet.features.retrieval import build_index

    return extract_by(
        "describing",
        lambda progress: build_index(
            args.images,
            args.out,
            weights=args.weights,
            batch_size=args.batch_size,
            device=args.device,
            progress=progress,
        ),
        lambda extraction: extraction.as_json() if args.json else f"{args.out}: {extraction.images:,} images",
    )


def _query(args: Query) -> int:
    from vggnet.data.decoding import image_files
    from vggnet.features.retrieval import draw_matches, find_similar, matches_json, matches_table

    files = image_files(args.images)
    found = find_similar(args.index, files, top=args.top, weights=args.weights, device=args.device)
    names = list(map(str, files))
    print(matches_json(names, found) if args.json else matches_table(names, found))
    if args.out is not None:
        draw_matches(names, found, args.out)
        print(f"drawn: {args.out}", file=sys.stderr)
    return 0
