"""`vgg explain`."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vggnet.cli.bars import counting
from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Image = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
Channels = tuple[str, ...]
Answer = tuple[dict[str, Any], list[str]]  # for JSON, and lines for people
Method = Literal["gradcam", "gradcam++", "integrated-gradients", "occlusion"]


@dataclass(frozen=True, kw_only=True)
class Class:
    """Draw which parts of a picture speak for a class and which against it. The word `class` may be left out.

    Example: vgg explain runs/mine photo.jpg --class cat
    """

    model: Run  # a run folder, a .safetensors file, or a name of `vgg weights list`
    image: Image
    target: Annotated[str | None, tyro.conf.arg(name="class")] = (
        None  # a name or a number; by default the predicted one
    )
    methods: tuple[Method, ...] = ("gradcam", "gradcam++", "integrated-gradients", "occlusion")
    layer: str | None = None  # of Grad-CAM; by default the deepest ReLU with 4 places a side
    steps: int = 64  # of integrated gradients; more make the sum of the map nearer to the rise of the logit
    window: int | None = None  # pixels, the side of the square that occlusion hides; by default a seventh of the image
    stride: int | None = None  # pixels from one square to the next; by default half a window
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("explanation.png")
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object instead of a table


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Draw what a layer makes of a picture: its feature maps as a grid.

    Example: vgg explain maps vgg16:features photo.jpg --layer relu3_3
    """

    model: Run  # a run folder, a .safetensors file, or a name of `vgg weights list`
    image: Image
    layer: str  # such as conv1_1, relu3_3, pool5
    top: int = 64  # channels to show, those with the largest values
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("maps.png")
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Draw the filters of the first layer.

    Example: vgg explain filters runs/mine
    """

    model: Run  # a run folder, a .safetensors file, or a name of `vgg weights list`
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("filters.png")
    json: bool = False  # print one JSON object


@dataclass(frozen=True, kw_only=True)
class Exciting:
    """Draw the pictures of a data set that excite channels most, with the part that is seen.

    Example: vgg explain exciting runs/mine --channels relu4_1:17 relu4_1:40 --data cifar10
    """

    model: Run  # a run folder, a .safetensors file, or a name of `vgg weights list`
    channels: Channels  # a layer and a number from 0 each
    data: str  # digits, cifar10, a folder of class folders or of parquet files, or a Hugging Face id
    split: str = "test"
    top: int = 8  # pictures for each channel
    batch_size: int = 16
    workers: int = 0  # loader processes
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("exciting.png")
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object instead of a table


@dataclass(frozen=True, kw_only=True)
class Maximize:
    """Paint the pictures that channels answer to most, from noise.

    Example: vgg explain maximize vgg16:features --channels relu4_3:17 relu5_1:40 --size 128
    """

    model: Run  # a run folder, a .safetensors file, or a name of `vgg weights list`
    channels: Channels  # a layer and a number from 0 each
    size: int | None = None  # pixels a side; by default that of the network's images
    steps: int = 200
    seed: int = 0
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("maximized.png")
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object instead of a table


COMMANDS: dict[str, Any] = {
    "class": Class,
    "maps": Maps,
    "filters": Filters,
    "exciting": Exciting,
    "maximize": Maximize,
}
Command = (
    Annotated[Class, tyro.conf.subcommand("class")]
    | Annotated[Maps, tyro.conf.subcommand("maps")]
    | Annotated[Filters, tyro.conf.subcommand("filters")]
    | Annotated[Exciting, tyro.conf.subcommand("exciting")]
    | Annotated[Maximize, tyro.conf.subcommand("maximize")]
)
DESCRIPTION = """Show why a picture is given a class, and what layers, filters and channels look for.

Example: vgg explain runs/mine photo.jpg"""


def main(arguments: list[str]) -> int:
    """Explain; returns the exit code."""
    if arguments and arguments[0] not in (*COMMANDS, "-h", "--help"):
        arguments = ["class", *arguments]
    args = parse(Command, arguments, prog="vgg explain", description=DESCRIPTION)
    if args.out.suffix.lower() != ".png":
        raise ConfigError(f"{args.out}: the figure is written as PNG; give a name that ends in .png.")
    answers: dict[type, Callable[[Any], Answer]] = {
        Class: _class,
        Maps: _maps,
        Filters: _filters,
        Exciting: _exciting,
        Maximize: _maximize,
    }
    facts, lines = answers[type(args)](args)
    print(json.dumps({**facts, "figure": str(args.out)}, ensure_ascii=False) if args.json else "\n".join(lines))
    print(f"drawn: {args.out}", file=sys.stderr)
    return 0


def _class(args: Class) -> Answer:
    from vggnet.interpret.explain import draw_explanation, explain

    options = {name: value for name, value in vars(args).items() if name not in ("model", "image", "out", "json")}
    with counting("explaining") as progress:
        explanation = explain(args.model, args.image, **options, progress=progress)
    draw_explanation(explanation, args.out)
    return explanation.as_dict(), [explanation.as_table()]


def _maps(args: Maps) -> Answer:
    from vggnet.interpret.feature_maps import draw_feature_maps, feature_maps

    found = feature_maps(args.model, args.image, args.layer, device=args.device)
    shown = draw_feature_maps(found, args.out, top=args.top)
    facts = {"image": found.image, "layer": found.layer, "shape": found.maps.shape, "shown": shown}
    return facts, [f"{found.layer}: {' x '.join(map(str, found.maps.shape))}, {len(shown)} channels drawn"]


def _filters(args: Filters) -> Answer:
    from vggnet.interpret.filters import draw_filters, first_filters

    filters = first_filters(args.model)
    draw_filters(filters, args.out)
    return {"layer": "conv1_1", "shape": filters.shape}, [f"conv1_1: {' x '.join(map(str, filters.shape))}"]


def _exciting(args: Exciting) -> Answer:
    from vggnet.interpret.top_activations import draw_exciting_pictures, find_exciting

    options = {name: value for name, value in vars(args).items() if name not in ("model", "out", "json")}
    with counting("looking") as progress:
        found = find_exciting(args.model, **options, progress=progress)
    draw_exciting_pictures(found, args.out, title=f"most exciting pictures of {args.data}, {args.split}")
    lines = []
    for channel, pictures in found.items():
        lines += [channel, *(f"  {one.activation:10.4g}  {one.label}  {one.image}" for one in pictures)]
    return {"channels": {name: [one.as_dict() for one in pictures] for name, pictures in found.items()}}, lines


def _maximize(args: Maximize) -> Answer:
    from vggnet.interpret.feature_visualization import draw_maximized, maximize

    options = {name: value for name, value in vars(args).items() if name not in ("model", "out", "json")}
    with counting("painting", "step") as progress:
        found = maximize(args.model, **options, progress=progress)
    draw_maximized(found, args.out)
    lines = [f"{one.channel}: mean activation {one.before:.4g} -> {one.after:.4g}" for one in found]
    return {"seed": args.seed, "steps": args.steps, "channels": [one.as_dict() for one in found]}, lines
