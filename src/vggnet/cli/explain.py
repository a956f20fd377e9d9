"""`vgg explain`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vggnet.cli.parsing import parse
from vggnet.errors import ConfigError, ImageError, require

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Image = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
Channels = tuple[str, ...]
Result = tuple[dict[str, Any], list[str]]  # for JSON, and lines of text
Images = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
Method = Literal[
    "gradcam", "gradcam++", "layercam", "scorecam", "integrated-gradients", "guided-backpropagation", "occlusion"
]


@dataclass(frozen=True, kw_only=True)
class Class:
    """Draw which parts of an image count for a class and which against it. The word `class` may be left out.

    Example: vgg explain runs/mine photo.jpg --class cat
    """

    model: Run  # a run folder, a .safetensors file, or a name of `vgg weights list`
    images: Images  # one or more; a figure for each of several, with its number
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
    """Draw the feature maps of a layer for an image.

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
class TopActivations:
    """Draw the images of a data set that activate channels most, with the part that the channel sees.

    Example: vgg explain top-activations runs/mine --channels relu4_1:17 relu4_1:40 --data cifar10
    """

    model: Run  # a run folder, a .safetensors file, or a name of `vgg weights list`
    channels: Channels  # a layer and a number from 0 each
    data: str  # digits, cifar10, a folder of class folders or of parquet files, or a Hugging Face id
    split: str = "test"
    top: int = 8  # images for each channel
    batch_size: int = 16
    workers: int = 0  # loader processes
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("top-activations.png")
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object instead of a table


@dataclass(frozen=True, kw_only=True)
class Visualize:
    """Draw images that maximize the activation of channels, optimized from noise (feature visualization).

    Example: vgg explain visualize vgg16:features --channels relu4_3:17 relu5_1:40 --size 128
    """

    model: Run  # a run folder, a .safetensors file, or a name of `vgg weights list`
    channels: Channels  # a layer and a number from 0 each
    size: int | None = None  # pixels a side; by default those of the network's images
    steps: int = 200
    seed: int = 0
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("visualization.png")
    device: str | None = None  # by default a GPU if there is one
    json: bool = False  # print one JSON object instead of a table


COMMANDS: dict[str, Any] = {
    "class": Class,
    "maps": Maps,
    "filters": Filters,
    "top-activations": TopActivations,
    "visualize": Visualize,
}
OLD_COMMANDS = {"exciting": "top-activations", "maximize": "visualize"}  # of version 0.1
Command = (
    Annotated[Class, tyro.conf.subcommand("class")]
    | Annotated[Maps, tyro.conf.subcommand("maps")]
    | Annotated[Filters, tyro.conf.subcommand("filters")]
    | Annotated[TopActivations, tyro.conf.subcommand("top-activations")]
    | Annotated[Visualize, tyro.conf.subcommand("visualize")]
)
DESCRIPTION = """Show why an image is predicted as a class, and what layers, filters and channels respond to.

Example: vgg explain runs/mine photo.jpg"""


def main(arguments: list[str]) -> int:
    """Explain; returns the exit code."""
    if arguments and arguments[0] in OLD_COMMANDS:
        print(f"vgg explain {arguments[0]} is now vgg explain {OLD_COMMANDS[arguments[0]]}", file=sys.stderr)
        arguments = [OLD_COMMANDS[arguments[0]], *arguments[1:]]
    if arguments and arguments[0] not in (*COMMANDS, "-h", "--help"):
        arguments = ["class", *arguments]
    args = parse(Command, arguments, prog="vgg explain", description=DESCRIPTION)
    if args.out.suffix.lower() != ".png":
        raise ConfigError(f"{args.out}: the figure is written as PNG; give a name that ends in .png.")
    from vggnet.report.text import to_json

    require("matplotlib", "explain")
    run: dict[type, Callable[[Any], Result]] = {
        Class: _class,
        Maps: _maps,
        Filters: _filters,
        TopActivations: _top_activations,
        Visualize: _visualize,
    }
    facts, lines = run[type(args)](args)
    figures = facts.pop("figures", [args.out])
    drawn = {"figure": args.out} if len(figures) == 1 else {"figures": figures}
    print(to_json({**facts, **drawn}) if args.json else "\n".join(lines))
    print(f"drawn: {', '.join(map(str, figures))}", file=sys.stderr)
    unreadable = facts.get("unreadable", ())
    for message in unreadable:
        print(f"vgg: {message}", file=sys.stderr)
    return 2 if unreadable else 0


def _options(args: Any, *without: str) -> dict[str, Any]:
    """The options of a command that the library function has by the same names."""
    return {name: value for name, value in vars(args).items() if name not in ("model", "out", "json", *without)}


def _class(args: Class) -> Result:
    from vggnet.interpret.explanation import explain
    from vggnet.report.explanation_figures import draw_explanation, explanation_title
    from vggnet.report.text import to_plain

    if not args.images:
        raise ConfigError("no IMAGE was given; add one or more.")
    found, lines, figures, errors = [], [], [], []
    options: Any = _options(args, "images")
    explanations = explain(args.model, args.images, **options, on_error="return", progress=True)
    for number, explanation in enumerate(explanations, start=1):
        if isinstance(explanation, ImageError):
            errors.append(explanation)
            continue
        several = f"-{number}" if len(args.images) > 1 else ""
        figures.append(args.out.with_stem(args.out.stem + several))
        draw_explanation(explanation, figures[-1])
        facts = to_plain(explanation)
        methods = {method: found["facts"] for method, found in facts.pop("attributions").items()}
        lines.append(f"{explanation.image}: {explanation_title(explanation)}")
        width = max(map(len, methods))
        lines += [f"  {method:<{width}}  {_how(how)}" for method, how in methods.items()]
        found.append({"class": facts.pop("name"), **facts, "methods": methods})
    if not found:
        raise errors[0]
    if len(explanations) == 1:
        return found[0], lines
    return {"images": found, "figures": figures, "unreadable": list(map(str, errors))}, lines


def _how(facts: dict[str, Any]) -> str:
    """How an attribution was computed."""
    if "layer" in facts:
        return ", ".join(str(facts[name]) for name in ("layer", "note") if name in facts)
    if "steps" in facts:
        return f"{facts['steps']} steps; sum {facts['sum']:.4g}, rise of the logit {facts['rise']:.4g}"
    if "window" not in facts:
        return "gradients through positive parts"
    return f"{facts['window']} x {facts['window']} pixels hidden, every {facts['stride']}"


def _maps(args: Maps) -> Result:
    from vggnet.interpret.layers import feature_maps
    from vggnet.report.explanation_figures import draw_feature_maps

    found = feature_maps(args.model, args.image, args.layer, device=args.device)
    shown = draw_feature_maps(found, args.out, top=args.top)
    facts = {"image": found.image, "layer": found.layer, "shape": found.maps.shape, "shown": shown}
    return facts, [f"{found.layer}: {' x '.join(map(str, found.maps.shape))}, {len(shown)} channels drawn"]


def _filters(args: Filters) -> Result:
    from vggnet.interpret.layers import first_filters
    from vggnet.report.explanation_figures import draw_filters

    filters = first_filters(args.model)
    draw_filters(filters, args.out)
    return {"layer": "conv1_1", "shape": filters.shape}, [f"conv1_1: {' x '.join(map(str, filters.shape))}"]


def _top_activations(args: TopActivations) -> Result:
    from vggnet.interpret.top_activations import find_top_activations
    from vggnet.report.explanation_figures import draw_top_activations

    found = find_top_activations(args.model, **_options(args), progress=True)
    draw_top_activations(found, args.out, title=f"top activations in {args.data}, {args.split}")
    lines = []
    for channel, images in found.items():
        lines += [channel, *(f"  {one.activation:10.4g}  {one.label}  {one.image}" for one in images)]
    return {"channels": found}, lines


def _visualize(args: Visualize) -> Result:
    from vggnet.interpret.feature_visualization import visualize_channels
    from vggnet.report.explanation_figures import draw_visualizations

    found = visualize_channels(args.model, **_options(args), progress=True)
    draw_visualizations(found, args.out)
    lines = [f"{one.channel}: mean activation {one.before:.4g} -> {one.after:.4g}" for one in found]
    return {"seed": args.seed, "steps": args.steps, "channels": found}, lines
