"""Style transfer: optimize an image until its features match one image and its Gram matrices match another.

Gatys, Ecker & Bethge, CVPR 2016 (arXiv:1508.06576). Coarse-to-fine optimization and preserved colors: Gatys et al.,
CVPR 2017 (arXiv:1611.07865) and arXiv:1606.05897.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn
from torch.optim import LBFGS, Adam, Optimizer

from vggnet.data.images import Picture, Pictures, named_pictures, read_picture
from vggnet.data.pixels import to_picture, to_tensor
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, NonFiniteError, check_at_least
from vggnet.features.extractor import accepts_weights, model_first
from vggnet.features.frozen_network import (
    CONTENT_LAYERS,
    STYLE_LAYERS,
    FrozenFeatures,
    content_loss,
    gram,
    style_loss,
)
from vggnet.files import replacing
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress

OPTIMIZERS: dict[str, Callable[[Tensor], Optimizer]] = {
    "lbfgs": lambda canvas: LBFGS([canvas], max_iter=1, history_size=20, tolerance_grad=0, tolerance_change=0),
    "adam": lambda canvas: Adam([canvas], lr=0.02),
}
POOLINGS = ("average", "max")
LEAST = 48  # pixels, the shorter side at the smallest scale


@dataclass(frozen=True, kw_only=True)
class StyleStep:
    """One step of the optimization: its losses, and the image as it is now."""

    step: int  # from 1, over all scales
    steps: int  # of all scales
    size: tuple[int, int]  # pixels, width and height
    content: float  # equation 1 relative to the content's own features: 0 for the content, 1 for no features
    style: float  # equation 5 relative to the style's own Gram matrices
    variation: float  # mean square of the differences between neighbors
    loss: float  # weighted sum of the three
    render: Callable[[], Image.Image]  # makes the image; call it before the next step

    @property
    def losses(self) -> dict[str, float]:
        """All four by name."""
        return {"content": self.content, "style": self.style, "variation": self.variation, "loss": self.loss}


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is to be optimized, and how."""

    features: FrozenFeatures
    content: Image.Image
    styles: list[tuple[Image.Image, float]]  # with their shares, of sum 1
    colors: Image.Image | None  # of the result; None keeps those of the optimization
    sizes: list[tuple[int, int]]  # of the scales, the smallest first
    steps: int  # at each scale
    optimizer: str
    strength: float
    smoothness: float


@accepts_weights
@model_first("content", "styles")
def transfer(
    model: VGG | Path | str,
    content: Picture,
    styles: Pictures,
    *,
    size: int = 384,
    scales: int = 3,
    steps: int = 100,
    optimizer: Literal["lbfgs", "adam"] = "lbfgs",
    pooling: Literal["average", "max"] = "average",
    style_weights: Sequence[float] | None = None,
    strength: float = 20.0,
    smoothness: float = 0.1,
    keep_color: bool = False,
    device: str | None = None,
    progress: Progress = False,
) -> Generator[StyleStep, None, None]:
    """Optimize an image that has the content of one image and the style of others, step by step.

    Nothing is written; `save_step` saves the image of a step.

    Args:
        model: weights of VGG-16 on ImageNet: a name of `vgg weights list`, a file, a run folder or a VGG.
        content: an image: a file, the bytes of one, an open file, a PIL image, a uint8 array (H, W, 3) or a uint8
            tensor (3, H, W).
        styles: one image or several. Several styles act as the mean of their Gram matrices, which has the gradients of
            the weighted sum of their losses.
        size: pixels of the longer side of the result.
        scales: number of sizes; each has twice the side of the one before and starts from its result.
        steps: optimizer steps at each size.
        optimizer: "lbfgs" or "adam".
        pooling: "average" or "max", between the blocks of the network.
        style_weights: one for each style, of any sum; by default equal.
        strength: weight of the style loss, at least 0; the weight of the content loss is 1.
        smoothness: weight of the total variation, at least 0.
        keep_color: optimize the lightness only, with the style's lightness adapted to the content's, and keep the
            content's colors.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total) after each step.

    Returns:
        An iterator of steps; `[*steps][-1].render()` is the result.

    Raises:
        ConfigError: an option is impossible. This and the next two are raised before the first step.
        ImageError: an image cannot be read.
        WeightsError: there is no such model, or it has no preprocessing, or does not take RGB images.
        NonFiniteError: the optimizer diverged.

    Source:
        Gatys, Ecker & Bethge, CVPR 2016 (arXiv:1508.06576).

    Example:
        >>> import vggnet
        >>> network = vggnet.create_model("vgg16", head="none", width=0.05)  # untrained
        >>> network.preprocess = vggnet.Preprocess.imagenet()
        >>> content, style = Image.new("RGB", (64, 48)), Image.linear_gradient("L")
        >>> *_, last = transfer(network, content, style, size=64, scales=1, steps=2)
        >>> last.step, last.render().size
        (2, (64, 48))
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
        raise ConfigError(f"the content is a folder of {len(contents)} images; expected one image.")
    original = read_picture(*contents[0])
    painted = [read_picture(*named) for named in style_pictures]
    gray = original.convert("L").convert("RGB")
    task = _Task(
        features=_network(model, pooling).to(choose_device(device)),
        content=gray if keep_color else original,
        styles=[(_with_lightness_of(gray, p) if keep_color else p, s) for p, s in zip(painted, shares, strict=True)],
        colors=original if keep_color else None,
        sizes=_sizes(original.size, size, scales),
        steps=steps,
        optimizer=optimizer,
        strength=strength,
        smoothness=smoothness,
    )
    return _optimize(task, progress)


style_transfer = transfer  # its name in version 0.1


def save_step(step: StyleStep, path: Path | str) -> None:
    """Save the image of a step as a PNG file, with the losses as text chunks.

    Args:
        step: the current step of `transfer`.
        path: the file to write.

    Raises:
        StorageError: the disk refuses.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> losses = {"content": 0.0, "style": 0.5, "variation": 0.0, "loss": 10.0}
        >>> step = StyleStep(step=1, steps=1, size=(64, 48), render=lambda: Image.new("RGB", (64, 48)), **losses)
        >>> with TemporaryDirectory() as folder:
        ...     save_step(step, f"{folder}/result.png")
        ...     Image.open(f"{folder}/result.png").text["style"]
        '0.5'
    """
    facts = PngInfo()
    for name, value in {"step": f"{step.step} of {step.steps}", **step.losses}.items():
        facts.add_text(name, str(value))
    with replacing(Path(path).expanduser()) as temporary:
        step.render().save(temporary, "PNG", pnginfo=facts)


def _optimize(task: _Task, progress: Progress) -> Generator[StyleStep, None, None]:
    canvas: Tensor | None = None
    total = len(task.sizes) * task.steps
    with report_progress(progress, "style transfer", unit="step") as report:
        for scale, (width, height) in enumerate(task.sizes):
            target = _pixels(task.content, (width, height), task.features)
            start = target if canvas is None else F.interpolate(canvas, (height, width), mode="bicubic").clamp(-1, 1)
            canvas = start.clone().requires_grad_()
            objective = _Objective(task, target, max(width, height))
            for step, losses in enumerate(_minimize(canvas, objective, task), start=scale * task.steps + 1):
                report(step, total)
                render = partial(_picture, canvas, task.colors)
                yield StyleStep(step=step, steps=total, size=(width, height), render=render, **losses)
            canvas = canvas.detach()


class _Objective:
    """The loss of a canvas at one scale, with its parts.

    The paper leaves the weights of the layers free. Here each layer is divided by the loss of its own target, so that
    losses are relative squared errors and one strength suits most images.
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
    """The mean over layers of the loss, divided by the loss of features that are all zero."""
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
                f"the image has NaN or infinite values after step {number} of this scale. Use the optimizer adam, or "
                "less strength."
            )
        yield dict(losses)


def _network(model: VGG | Path | str, pooling: str) -> FrozenFeatures:
    features = FrozenFeatures(model, [*CONTENT_LAYERS, *STYLE_LAYERS])
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
    pixels = to_tensor(picture.resize(size, Image.Resampling.LANCZOS))
    return pixels[None].to(features.device) / 127.5 - 1


def _picture(canvas: Tensor, colors: Image.Image | None) -> Image.Image:
    """The canvas (1, 3, H, W) as an image, or its lightness with the colors of another image."""
    pixels = ((canvas.detach()[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    picture = to_picture(pixels)
    if colors is None:
        return picture
    _, blue, red = colors.resize(picture.size, Image.Resampling.LANCZOS).convert("YCbCr").split()
    return Image.merge("YCbCr", (picture.convert("L"), blue, red)).convert("RGB")


def _with_lightness_of(content: Image.Image, style: Image.Image) -> Image.Image:
    """The style in gray, with the mean and the deviation of the content's lightness."""
    lightness, wanted = (to_tensor(picture.convert("L")).float() for picture in (style, content))
    spread = wanted.std(correction=0) / lightness.std(correction=0).clamp_min(1)
    matched = (spread * (lightness - lightness.mean()) + wanted.mean()).clamp(0, 255)
    gray = to_picture(matched.round().to(torch.uint8))
    return gray.convert("RGB")


def _sizes(original: tuple[int, int], side: int, scales: int) -> list[tuple[int, int]]:
    """Width and height at each scale, the smallest first; scales that would be too small are left out."""
    sizes = [_fitted(original, side >> halvings) for halvings in reversed(range(scales))]
    kept = [size for size in sizes if min(size) >= LEAST]
    if not kept:
        raise ConfigError(
            f"an image of {original[0]} x {original[1]} with a longer side of {side} has a shorter one below {LEAST} "
            "pixels. Use a larger size, or crop the image."
        )
    return kept


def _fitted(original: tuple[int, int], side: int) -> tuple[int, int]:
    """The same shape with a longer side of `side`."""
    width, height = original
    factor = side / max(original)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _shares(style_weights: Sequence[float] | None, num_styles: int) -> list[float]:
    if not num_styles:
        raise ConfigError("no style was given; add one image or more.")
    given = [1.0] * num_styles if style_weights is None else list(style_weights)
    if len(given) != num_styles or min(given) < 0 or not 0 < sum(given) < float("inf"):
        raise ConfigError(
            f"the style weights are {', '.join(map(str, given))}; expected {num_styles}, one for each style, none "
            "negative and not all 0."
        )
    return [share / sum(given) for share in given]
