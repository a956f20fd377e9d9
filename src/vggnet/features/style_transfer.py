"""Style transfer: a picture is changed until its features are those of one picture and its Gram matrices of another.

Gatys, Ecker & Bethge, CVPR 2016 (arXiv:1508.06576); from small to large and the kept colors as in Gatys et al., CVPR
2017 (arXiv:1611.07865) and arXiv:1606.05897.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn
from torch.optim import LBFGS, Adam, Optimizer
from torchvision.transforms.v2 import functional as tv

from vggnet.data.images import Picture, named_pictures, read_picture
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, NonFiniteError, check_at_least
from vggnet.features.frozen import FrozenFeatures
from vggnet.features.gatys import CONTENT_LAYERS, STYLE_LAYERS, content_loss, gram, style_loss
from vggnet.features.pretrained import DEFAULT, Source
from vggnet.files import replacing

OPTIMIZERS: dict[str, Callable[[Tensor], Optimizer]] = {
    "lbfgs": lambda canvas: LBFGS([canvas], max_iter=1, history_size=20, tolerance_grad=0, tolerance_change=0),
    "adam": lambda canvas: Adam([canvas], lr=0.02),
}
POOLINGS = ("average", "max")
LEAST = 48  # pixels, the shorter side at the smallest scale


@dataclass(frozen=True, kw_only=True)
class StyleStep:
    """One step: what it reached, and the picture as it is now."""

    step: int  # from 1, over all scales
    steps: int  # of all scales
    size: tuple[int, int]  # pixels, width and height
    content: float  # equation 1 relative to the content's own features: 0 for the content, 1 for no features
    style: float  # equation 5 relative to the style's own Gram matrices
    variation: float  # mean square of the differences between neighbors
    loss: float  # all three by their weights
    render: Callable[[], Image.Image]  # the picture; call it before the next step

    @property
    def losses(self) -> dict[str, float]:
        """For messages and files."""
        return {"content": self.content, "style": self.style, "variation": self.variation, "loss": self.loss}


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is to be painted, and how."""

    features: FrozenFeatures
    content: Image.Image
    styles: list[tuple[Image.Image, float]]  # with their shares, of sum 1
    colors: Image.Image | None  # of the result; None leaves those that were painted
    sizes: list[tuple[int, int]]  # of the scales, the smallest first
    steps: int  # at each scale
    optimizer: str
    strength: float
    smoothness: float


def style_transfer(
    content: Picture,
    styles: Sequence[Picture] | Picture,
    *,
    weights: Source = DEFAULT,
    size: int = 384,
    scales: int = 3,
    steps: int = 100,
    optimizer: str = "lbfgs",
    pooling: str = "average",
    style_weights: Sequence[float] | None = None,
    strength: float = 20.0,
    smoothness: float = 0.1,
    keep_color: bool = False,
    device: str | None = None,
) -> Iterator[StyleStep]:
    """Paint `content` as `styles` are painted; yields after every step, and never writes anything.

    weights: of VGG-16 on ImageNet, as FeatureExtractor takes them.
    size: pixels of the longer side of the result. It is painted from small to large: each of the `scales` doubles the
        one before, begins with its result, and takes `steps` steps.
    pooling: "average" or "max", between the blocks of the network.
    style_weights: one for each style, of any sum; equal by default. Several styles are one: the mean of their Gram
        matrices, which has the gradients of the weighted sum of their losses.
    strength: weight of the style; smoothness: of the variation, both beside a content of weight 1.
    keep_color: paint by lightness alone, the style's adapted to the content's, and take the content's colors.
    Raises, before the first step: ConfigError for options that cannot work, ImageError for a picture that cannot be
        read, WeightsError; later NonFiniteError if the optimizer leaves the finite numbers.
    """
    style_pictures = list(named_pictures(styles))
    shares = _shares(style_weights, len(style_pictures))
    check_at_least(1, size=size, scales=scales, steps=steps)
    for name, value, choices in (("optimizer", optimizer, OPTIMIZERS), ("pooling", pooling, POOLINGS)):
        if value not in choices:
            raise ConfigError(f"unknown {name} {value!r}; expected {' or '.join(choices)}.")
    for name, number in (("strength", strength), ("smoothness", smoothness)):
        if not 0 <= number < float("inf"):
            raise ConfigError(f"{name} is {number}; it must be a number of at least 0.")
    contents = list(named_pictures(content))
    if len(contents) != 1:
        raise ConfigError(f"the content is a folder of {len(contents)} pictures; expected one to paint.")
    original = read_picture(*contents[0])
    painted = [read_picture(*named) for named in style_pictures]
    gray = original.convert("L").convert("RGB")
    task = _Task(
        features=_painter(weights, pooling).to(choose_device(device)),
        content=gray if keep_color else original,
        styles=[(_with_lightness_of(gray, p) if keep_color else p, s) for p, s in zip(painted, shares, strict=True)],
        colors=original if keep_color else None,
        sizes=_sizes(original.size, size, scales),
        steps=steps,
        optimizer=optimizer,
        strength=strength,
        smoothness=smoothness,
    )
    return _paint(task)


def save_step(step: StyleStep, path: Path) -> None:
    """Write the picture of a step as a PNG file that carries the losses as text.  Raises: StorageError."""
    facts = PngInfo()
    for name, value in {"step": f"{step.step} of {step.steps}", **step.losses}.items():
        facts.add_text(name, str(value))
    with replacing(path) as temporary:
        step.render().save(temporary, "PNG", pnginfo=facts)


def _paint(task: _Task) -> Iterator[StyleStep]:
    canvas: Tensor | None = None
    for scale, (width, height) in enumerate(task.sizes):
        target = _pixels(task.content, (width, height), task.features)
        start = target if canvas is None else F.interpolate(canvas, (height, width), mode="bicubic").clamp(-1, 1)
        canvas = start.clone().requires_grad_()
        objective = _Objective(task, target, max(width, height))
        for step, losses in enumerate(_minimize(canvas, objective, task), start=scale * task.steps + 1):
            yield StyleStep(
                step=step,
                steps=len(task.sizes) * task.steps,
                size=(width, height),
                render=partial(_picture, canvas, task.colors),
                **losses,
            )
        canvas = canvas.detach()


class _Objective:
    """The loss of a canvas at one scale, with its parts.

    The weights of the layers in the paper's sums are free; here each layer counts by its own target, so that losses
    are relative squared errors, and the same strength means much the same for every picture.
    """

    def __init__(self, task: _Task, content: Tensor, side: int) -> None:
        self.task = task
        with torch.no_grad():
            found = task.features(content)
        self.content = {layer: found[layer] for layer in CONTENT_LAYERS}
        self.grams = _style_grams(task, side)

    def __call__(self, canvas: Tensor) -> tuple[Tensor, dict[str, float]]:
        found = self.task.features(canvas)
        content = _relative(content_loss, {layer: found[layer] for layer in self.content}, self.content)
        style = _relative(style_loss, {layer: gram(found[layer]) for layer in self.grams}, self.grams)
        variation = canvas.diff(dim=2).square().mean() + canvas.diff(dim=3).square().mean()
        loss = content + self.task.strength * style + self.task.smoothness * variation
        values = {"content": content, "style": style, "variation": variation, "loss": loss}
        return loss, {name: value.item() for name, value in values.items()}


def _relative(
    loss: Callable[[Tensor, Tensor], Tensor], found: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> Tensor:
    """The mean over layers of the loss, divided by that of nothing at all."""
    layers = [
        loss(found[layer], target) / loss(torch.zeros_like(target), target).clamp_min(1e-12)
        for layer, target in targets.items()
    ]
    return torch.stack(layers).mean()


def _minimize(canvas: Tensor, objective: _Objective, task: _Task) -> Iterator[dict[str, float]]:
    """Change the canvas in place; yields the losses before each step."""
    losses: dict[str, float] = {}

    def evaluate() -> Tensor:
        loss, found = objective(canvas)
        losses.update(found)
        (canvas.grad,) = torch.autograd.grad(loss, canvas)
        return loss

    optimizer = OPTIMIZERS[task.optimizer](canvas)
    for number in range(1, task.steps + 1):
        optimizer.step(evaluate)  # type: ignore[arg-type]
        if not (torch.isfinite(canvas).all() and torch.isfinite(torch.tensor(losses["loss"]))):
            raise NonFiniteError(
                f"the picture left the finite numbers in step {number} of this scale. Take --optimizer adam, or less "
                "strength."
            )
        yield dict(losses)


def _painter(weights: Source, pooling: str) -> FrozenFeatures:
    features = FrozenFeatures(weights, [*CONTENT_LAYERS, *STYLE_LAYERS], fast_gradient=True)
    for stage in features.extractor.stages.values():
        assert isinstance(stage, nn.Sequential)
        for name, layer in stage.named_children():
            if isinstance(layer, nn.MaxPool2d) and pooling == "average":
                setattr(stage, name, nn.AvgPool2d(2))
    return features


@torch.no_grad()
def _style_grams(task: _Task, side: int) -> dict[str, Tensor]:
    """Of each layer the mean by shares, of the styles with this longer side."""
    grams: dict[str, Tensor] = {}
    for picture, share in task.styles:
        found = task.features(_pixels(picture, _fitted(picture.size, side), task.features))
        for layer in STYLE_LAYERS:
            grams[layer] = grams.get(layer, 0) + share * gram(found[layer])
    return grams


def _pixels(picture: Image.Image, size: tuple[int, int], features: FrozenFeatures) -> Tensor:
    """(1, 3, H, W) in [-1, 1] where the network is."""
    pixels: Tensor = tv.pil_to_tensor(picture.resize(size, Image.Resampling.LANCZOS))
    return pixels[None].to(next(features.parameters()).device) / 127.5 - 1


def _picture(canvas: Tensor, colors: Image.Image | None) -> Image.Image:
    """The canvas (1, 3, H, W), or its lightness under the colors of a picture."""
    pixels = ((canvas.detach()[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    picture: Image.Image = tv.to_pil_image(pixels)
    if colors is None:
        return picture
    _, blue, red = colors.resize(picture.size, Image.Resampling.LANCZOS).convert("YCbCr").split()
    return Image.merge("YCbCr", (picture.convert("L"), blue, red)).convert("RGB")


def _with_lightness_of(content: Image.Image, style: Image.Image) -> Image.Image:
    """The style in gray, with the mean and the deviation of the content's lightness."""
    lightness, wanted = (tv.pil_to_tensor(picture.convert("L")).float() for picture in (style, content))
    spread = wanted.std(correction=0) / lightness.std(correction=0).clamp_min(1)
    matched = (spread * (lightness - lightness.mean()) + wanted.mean()).clamp(0, 255)
    gray: Image.Image = tv.to_pil_image(matched.round().to(torch.uint8))
    return gray.convert("RGB")


def _sizes(original: tuple[int, int], side: int, scales: int) -> list[tuple[int, int]]:
    """Width and height at each scale, the smallest first; scales that would be too small are left out."""
    sizes = [_fitted(original, side >> halvings) for halvings in reversed(range(scales))]
    kept = [size for size in sizes if min(size) >= LEAST]
    if not kept:
        raise ConfigError(
            f"a picture of {original[0]} x {original[1]} with a longer side of {side} has a shorter one below {LEAST} "
            "pixels. Take a larger size, or crop the picture."
        )
    return kept


def _fitted(original: tuple[int, int], side: int) -> tuple[int, int]:
    """The same shape with a longer side of `side`."""
    width, height = original
    factor = side / max(original)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _shares(style_weights: Sequence[float] | None, num_styles: int) -> list[float]:
    if not num_styles:
        raise ConfigError("no style was given; add one picture or more.")
    given = [1.0] * num_styles if style_weights is None else list(style_weights)
    if len(given) != num_styles or min(given) < 0 or not 0 < sum(given) < float("inf"):
        raise ConfigError(
            f"the style weights are {', '.join(map(str, given))}; expected {num_styles}, one for each style, none "
            "negative and not all 0."
        )
    return [share / sum(given) for share in given]
