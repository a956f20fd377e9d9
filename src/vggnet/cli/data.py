"""`vgg data`."""

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from vggnet.data.caching import CacheUse
    from vggnet.features.duplicates import Duplicates


@dataclass(frozen=True, kw_only=True)
class Data:
    """Count, measure and verify a data set: classes, sizes, mean and deviation, and every unreadable image.

    Example: vgg data photos/ --duplicates

    Exits with 2 if an image cannot be read.
    """

    # digits, cifar10, cifar100, a folder, or a Hugging Face id; not needed to clear the cache
    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    duplicates: bool = False  # also name pictures that are nearly the same, within and across splits
    # with --duplicates: also copies that are turned, mirrored, gray; several with commas
    copies: str | None = None
    threshold: float = 0.9  # how much the same: a cosine, 1 for copies
    weights: str = "vgg16:features"  # what tells duplicates: a name of `vgg weights list`, or a file
    label_column: str | None = None  # of a table; by default the one called label
    image_column: str | None = None  # of a table; by default the only one of bytes
    ignore_index: int | None = None  # of masks: the class index of pixels that do not count, besides 255
    clear_cache: bool = False  # first remove decoded images, tables and hashes of all data sets from the cache
    json: bool = False  # print one JSON object instead of a table


def main(arguments: list[str]) -> int:
    """Inspect; returns the exit code."""
    args: Data = parse(Data, arguments, prog="vgg data")
    from vggnet.data.caching import cache_use, clear_cache
    from vggnet.data.inspection import inspect
    from vggnet.data.sources.source import Columns
    from vggnet.progress import report_progress
    from vggnet.report.text import to_plain

    if args.clear_cache:
        removed = clear_cache()
        print(f"removed: {_cache_text(removed)}", file=sys.stderr)
        if args.data is None:
            print(json.dumps({"removed": to_plain(removed)}) if args.json else f"cache: {_cache_text(cache_use())}")
            return 0
    if args.data is None:
        raise ConfigError(
            "no data set is given; expected vgg data DATA, or vgg data --clear-cache. See vgg data --help."
        )
    if args.duplicates:
        from vggnet.features.duplicates import is_plain_folder

        if is_plain_folder(args.data):  # nothing but duplicates can be looked for without classes
            found = _duplicates(args)
            print(json.dumps({"duplicates": to_plain(found)}) if args.json else _duplicates_text(found))
            for message in found.unreadable:
                print(f"vgg: {message}", file=sys.stderr)
            return 2 if found.unreadable else 0
    columns = Columns(args.image_column, args.label_column, args.ignore_index)
    with report_progress(True, "reading") as progress:
        inspection = inspect(args.data, columns=columns, progress=progress)
    result = inspection.as_dict() | {"cache": to_plain(cache_use())}
    cache = f"cache: {_cache_text(cache_use())}; vgg data --clear-cache removes it"
    tables = [inspection.as_table(), cache]
    if args.duplicates:
        found = _duplicates(args)
        result["duplicates"] = to_plain(found)
        tables.append(_duplicates_text(found))
    print(json.dumps(result) if args.json else "\n\n".join(tables))
    return 2 if any(split.unreadable for split in inspection.splits) else 0


def _duplicates(args: Data) -> "Duplicates":
    from vggnet.features.duplicates import find_duplicates

    assert args.data is not None
    copies: Any = args.copies.split(",") if args.copies else ()
    return find_duplicates(args.weights, args.data, threshold=args.threshold, copies=copies, progress=True)


def _cache_text(use: "CacheUse") -> str:
    files = "1 file" if use.files == 1 else f"{use.files:,} files"
    return f"{files}, {use.num_bytes / 1e6:,.1f} MB of decoded images, tables and hashes in {use.folder}"


def _duplicates_text(found: "Duplicates") -> str:
    """A line for each group that says what is bad about it, then one for each image."""
    lines = [f"near-duplicates, cosine at least {found.threshold:g}: {len(found.groups)} groups"]
    for group in found.groups:
        parts = (("splits", group.splits), ("classes", group.classes))
        across = "".join(f", in several {what}" for what, names in parts if len(set(names)) > 1)
        lines.append(f"  {group.similarity:.3f}{across}")
        for image, *place in zip(group.images, group.splits, group.classes, strict=True):
            going = "  could go" if image in group.could_go else ""
            lines.append(f"    {image}" + (f"  ({', '.join(place)})" if any(place) else "") + going)
    if found.groups:
        lines.append(f"{len(found.could_go)} of {found.images} images could go; nothing is deleted")
    return "\n".join(lines)
