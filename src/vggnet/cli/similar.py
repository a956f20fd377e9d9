"""`vgg similar`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vggnet.cli.features import run_extraction
from vggnet.cli.parsing import PrecisionOption, parse
from vggnet.errors import ConfigError, ImageError, require

if TYPE_CHECKING:
    from PIL import Image

    from vggnet.features.retrieval import Match

INDEX = Path("similar.safetensors")
MAX_DRAWN = 8  # rows


@dataclass(frozen=True, kw_only=True)
class Index:
    """Compute a vector for every image in folders, for searching. An interrupted run resumes.

    Example: vgg similar index photos/
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]  # folders of image files, or files
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = INDEX
    weights: str = "vgg16:features"  # a name of `vgg weights list`, a run folder or a .safetensors file
    layers: tuple[str, ...] = ()  # what the vectors consist of, such as relu7; by default three deep layers
    batch_size: int = 16
    device: str | None = None  # by default a GPU if there is one
    precision: PrecisionOption = "float32"
    json: bool = False  # print one JSON object


@dataclass(frozen=True, kw_only=True)
class Query:
    """Find the images of an index that are most similar to the given ones, and draw them.

    Example: vgg similar query holiday.jpg --top 5
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]  # image files, or folders of them
    index: Annotated[Path, tyro.conf.arg(aliases=["-i"])] = INDEX
    top: int = 8  # matches to show
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = Path("similar.png")  # the drawing
    # what happens to an image that cannot be read: stop, or leave it out and name it
    on_bad_image: Literal["stop", "skip"] = "stop"
    weights: str | None = None  # only if the weights that made the index are somewhere else now
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print a JSON list instead of a table


@dataclass(frozen=True, kw_only=True)
class Update:
    """Add images to an index and remove others. Only new and changed images are computed.

    Example: vgg similar update photos/ --remove photos/blurred
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()  # folders or files, as they were indexed
    remove: tuple[Path, ...] = ()  # indexed images, or folders of them, that leave the index; the files stay
    index: Annotated[Path, tyro.conf.arg(aliases=["-i"])] = INDEX
    weights: str | None = None  # only if the weights that made the index are somewhere else now
    batch_size: int = 16
    device: str | None = None  # by default a GPU if there is one
    precision: PrecisionOption = "float32"
    json: bool = False  # print one JSON object


Command = (
    Annotated[Index, tyro.conf.subcommand("index")]
    | Annotated[Query, tyro.conf.subcommand("query")]
    | Annotated[Update, tyro.conf.subcommand("update")]
)
DESCRIPTION = """Search images by visual similarity.

Example: vgg similar index photos/, then vgg similar query holiday.jpg"""


def main(arguments: list[str]) -> int:
    """Index, query or update; returns the exit code."""
    args: Index | Query | Update = parse(Command, arguments, prog="vgg similar", description=DESCRIPTION)
    if isinstance(args, Update):
        return _update(args)
    if not args.images:
        raise ConfigError("no image was given; add image files or folders.")
    return _index(args) if isinstance(args, Index) else _query(args)


def _index(args: Index) -> int:
    from vggnet.features.retrieval import build_index
    from vggnet.report.text import to_json

    return run_extraction(
        lambda: build_index(
            args.weights,
            args.images,
            args.out,
            layers=args.layers or None,
            batch_size=args.batch_size,
            device=args.device,
            progress=True,
        ),
        lambda extraction: to_json(extraction) if args.json else f"{args.out}: {extraction.images:,} images",
        args.precision,
    )


def _update(args: Update) -> int:
    from vggnet.accel.precision import products_in
    from vggnet.features.retrieval import update_index
    from vggnet.report.text import to_json

    if not (args.images or args.remove):
        raise ConfigError("nothing to update; give folders or files, or --remove.")
    options = {"model": args.weights, "batch_size": args.batch_size, "device": args.device, "progress": True}
    with products_in(args.precision):
        found = update_index(args.index, args.images, remove=args.remove, **options)  # type: ignore[arg-type]
    counts = ", ".join(f"{len(getattr(found, kind)):,} {kind}" for kind in ("added", "changed", "removed"))
    print(to_json(found) if args.json else f"{args.index}: {found.images:,} images; {counts}")
    for message in found.unreadable:
        print(f"vgg: {message}", file=sys.stderr)
    return 2 if found.unreadable else 0


def _query(args: Query) -> int:
    from vggnet.data.formats import image_files, left_out, left_out_text
    from vggnet.features.retrieval import find_similar
    from vggnet.report.text import to_json

    names = list(map(str, image_files(args.images)))
    results = find_similar(args.index, names, top=args.top, model=args.weights, device=args.device, on_error="return")
    errors = [result for result in results if isinstance(result, ImageError)]
    if errors and args.on_bad_image == "stop":
        raise ImageError(f"{errors[0]} To see the others: --on-bad-image skip.") from errors[0]
    found = {name: of for name, of in zip(names, results, strict=True) if not isinstance(of, ImageError)}
    files = left_out(args.images)
    for note in (*map(str, errors), *([left_out_text(files)] if files else [])):
        print(f"vgg: {note}", file=sys.stderr)
    if args.json:
        print(to_json([{"image": name, "matches": matches} for name, matches in found.items()]))
    else:
        for name, matches in found.items():
            print("\n".join([name, *(f"  {match.similarity:.4f}  {match.image}" for match in matches)]))
    if args.out is not None:
        _draw(found, args.out)
        print(f"drawn: {args.out}", file=sys.stderr)
    return 0


def _draw(found: "dict[str, list[Match]]", path: Path) -> None:
    """Draw a row for each of the first MAX_DRAWN images: itself, then its matches with their cosines."""

    require("matplotlib", "report")
    from vggnet.report.figures import draw_gallery

    rows = [
        [(_image(name), "the query"), *((_image(match.image), f"{match.similarity:.3f}") for match in matches)]
        for name, matches in list(found.items())[:MAX_DRAWN]
    ]
    draw_gallery(rows, path)


def _image(name: str) -> "Image.Image | None":
    """The image; None if it is no longer there."""
    from vggnet.data.decoding import decode_image

    try:
        return decode_image(Path(name))
    except ImageError:
        return None
