"""Why this class: the parts of a picture that speak for it, by four methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.images import Named, Picture, named_pictures, read_pixels
from vggnet.errors import ConfigError, ImageError, check_at_least
from vggnet.interpret.attributions import integrated_gradients, num_windows, occlusion
from vggnet.interpret.borrowing import Model, borrowed, opened
from vggnet.interpret.gradcam import (
    cam_layers,
    default_layer,
    enlarged,
    grad_cam,
    grad_cam_plus_plus,
    maps_and_gradients,
)
from vggnet.interpret.layers import check_layer
from vggnet.metrics import check_finite_logits
from vggnet.models.vgg import VGG
from vggnet.report.explanation_figures import Panel, draw_attributions
from vggnet.weights.prepared import preprocess_of

CAMS = {"gradcam": grad_cam, "gradcam++": grad_cam_plus_plus}
METHODS = (*CAMS, "integrated-gradients", "occlusion")
TITLES = dict(zip(METHODS, ("Grad-CAM", "Grad-CAM++", "integrated gradients", "occlusion"), strict=True))
MANY_CLASSES = 100  # from which on an error names similar ones only

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """How much each pixel counts, and how that was found."""

    values: NDArray[np.float32]  # (H, W)
    facts: dict[str, Any]  # JSON values

    def as_text(self) -> str:
        """The facts in words."""
        facts = self.facts
        if "layer" in facts:
            return str(facts["layer"])
        if "steps" in facts:
            return f"{facts['steps']} steps; sum {facts['sum']:.4g}, rise of the logit {facts['rise']:.4g}"
        return f"{facts['window']} x {facts['window']} pixels hidden, every {facts['stride']}"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a class: one map for each method, over the picture as the network saw it."""

    image: str  # its name
    picture: NDArray[np.uint8]  # (H, W, 3), or (H, W) gray
    index: int
    name: str  # of the class
    probability: float  # 0..1
    logit: float
    predicted: str  # the class with the highest probability
    predicted_probability: float
    attributions: dict[str, Attribution]  # method -> map

    def as_dict(self) -> dict[str, Any]:
        """All but the arrays, for JSON."""
        facts = {name: value for name, value in vars(self).items() if name not in ("picture", "name", "attributions")}
        return {
            "class": self.name,
            **facts,
            "methods": {method: found.facts for method, found in self.attributions.items()},
        }

    def as_table(self) -> str:
        """The class, then a line for each method."""
        width = max(map(len, self.attributions))
        lines = [f"  {method:<{width}}  {found.as_text()}" for method, found in self.attributions.items()]
        return "\n".join([f"{self.image}: {self.title()}", *lines])

    def title(self) -> str:
        """The class and its probability; also the predicted one, if it is another."""
        text = f"{self.name}, {100 * self.probability:.2f} %"
        if self.predicted == self.name:
            return text
        return f"{text} (predicted: {self.predicted}, {100 * self.predicted_probability:.2f} %)"


def explain(
    model: Model,
    image: Picture,
    *,
    target: str | int | None = None,
    methods: Sequence[str] = METHODS,
    layer: str | None = None,
    steps: int = 64,
    window: int | None = None,
    stride: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Maps of how much each pixel of a picture counts for a class.

    model: a run folder, a `.safetensors` file, a name of `vgg weights list`, or a VGG, which is left as it was found:
        its mode, its gradients, and no hook.
    image: a file, the bytes of one, or a PIL image, prepared by the model's own preprocessing.
    target: a class by name or index; by default the predicted one. What is explained is its logit.
    methods: of METHODS. "gradcam" and "gradcam++" give a map of `layer`, not negative, by default of the deepest ReLU
        with four places a side; "integrated-gradients" the share of each pixel in the rise of the logit from an image
        of the mean color, by `steps` gradients; "occlusion" the mean fall of the logit when a square of `window`
        pixels, moved by `stride`, has the mean color (by default a seventh of the image, and half of that).
    progress: called with the images that the network has seen and will see.
    Raises: ConfigError for options that cannot work, or a network that names no classes; ImageError for a picture that
        cannot be read; WeightsError; NonFiniteError if the logits are not finite.
    """
    network = opened(model, device)
    _check_classifies(network)
    preprocess = preprocess_of(network)
    size = preprocess.crop
    window = max(1, size // 7) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    _check_methods(network, methods, layer, steps)
    passes = {"integrated-gradients": steps, "occlusion": num_windows(size, window, stride) + 1}
    counter = _Counter(progress, sum(passes.get(method, 1) for method in set(methods)))
    named = one_picture(image)
    pixels = read_pixels(named, preprocess)
    if isinstance(pixels, ImageError):
        raise pixels
    with borrowed(network):
        batch = preprocess.normalize(pixels.to(next(network.parameters()).device)).unsqueeze(0)
        with torch.no_grad():
            logits = network(batch).double().cpu()
        check_finite_logits(logits)
        index = class_index(network, target, logits[0])
        attributions = {
            method: _attribute(network, batch, index, method, layer, steps, window, stride, counter)
            for method in dict.fromkeys(methods)
        }
    probabilities = logits[0].softmax(0).tolist()
    best = int(logits[0].argmax())
    return Explanation(
        image=named[0],
        picture=as_array(pixels),
        index=index,
        name=class_name(network, index),
        probability=probabilities[index],
        logit=logits[0, index].item(),
        predicted=class_name(network, best),
        predicted_probability=probabilities[best],
        attributions=attributions,
    )


def draw_explanation(explanation: Explanation, path: Path) -> None:
    """The picture and the map of each method, side by side.  Raises: StorageError if `path` cannot be written."""
    panels = []
    for method, found in explanation.attributions.items():
        values, facts = found.values, found.facts
        if method in CAMS:
            values = values / max(values.max(), np.finfo(np.float32).tiny)
            panel = Panel(f"{TITLES[method]}\n{facts['layer']}", values, "share of the largest value", signed=False)
        elif method == "occlusion":
            how = f"{facts['window']} x {facts['window']} pixels, every {facts['stride']}"
            panel = Panel(f"{TITLES[method]}\n{how}", values, "fall of the logit when hidden", signed=True)
        else:
            how = f"{facts['steps']} steps, sum off by {facts['delta']:.2g} of {facts['rise']:.3g}"
            panel = Panel(f"{TITLES[method]}\n{how}", values, "share in the logit, a pixel", signed=True)
        panels.append(panel)
    draw_attributions(explanation.picture, panels, path, title=explanation.title())


def one_picture(image: Picture) -> Named:
    """The picture under its name.  Raises: ConfigError for a folder of several."""
    pictures = list(named_pictures(image))
    if len(pictures) != 1:
        raise ConfigError(f"{image!s} is a folder of {len(pictures)} pictures; expected one picture.")
    return pictures[0]


def as_array(pixels: Tensor) -> NDArray[np.uint8]:
    """uint8 (C, H, W) -> (H, W, 3), or (H, W) gray."""
    array: NDArray[np.uint8] = pixels.movedim(0, 2).squeeze(2).cpu().numpy()
    return array


def class_name(network: VGG, index: int) -> str:
    """Its name; without names its number."""
    return network.classes[index] if network.classes else f"class {index}"


def class_index(network: VGG, target: str | int | None, logits: Tensor) -> int:
    """A class by name or index, by default the one with the highest logit (K,).

    Raises: ConfigError for one that there is not, with those that there are.
    """
    if target is None:
        return int(logits.argmax())
    names = network.classes or ()
    if target in names:
        return names.index(str(target))
    if str(target).isdecimal() and int(target) < len(logits):
        return int(target)
    listed: Sequence[str] = names
    if len(names) > MANY_CLASSES:
        listed = get_close_matches(str(target), names, n=8, cutoff=0.3)
    known = f"; {'similar are' if listed is not names else 'the classes are'} {', '.join(listed)}" if listed else ""
    raise ConfigError(f"unknown class {str(target)!r}{known}. A number from 0 to {len(logits) - 1} is taken too.")


class _Counter:
    """Images that the network has seen, told to `progress`."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.done, self.total = progress, 0, total

    def __call__(self, num_images: int) -> None:
        self.done = min(self.done + num_images, self.total)
        if self.progress:
            self.progress(self.done, self.total)


def _attribute(
    network: VGG,
    batch: Tensor,
    index: int,
    method: str,
    layer: str | None,
    steps: int,
    window: int,
    stride: int,
    seen: Callable[[int], None],
) -> Attribution:
    facts: dict[str, Any]
    if method in CAMS:
        layer = layer or default_layer(network, batch.shape[-1])
        cam = CAMS[method](*maps_and_gradients(network, batch, index, layer))
        seen(1)
        values, facts = enlarged(cam, batch.shape[2:])[0], {"layer": layer}
    elif method == "occlusion":
        values = occlusion(network, batch, index, window=window, stride=stride, seen=seen)
        facts = {"window": window, "stride": stride, "largest_fall": values.max().item()}
    else:
        values, rise, delta = integrated_gradients(network, batch, index, steps=steps, seen=seen)
        facts = {"steps": steps, "sum": rise + delta, "rise": rise, "delta": delta}
    return Attribution(values=values.cpu().numpy(), facts=facts)


def _check_classifies(network: VGG) -> None:
    """Raises: ConfigError if the network names no classes."""
    if network.architecture.boxes is not None:
        raise ConfigError("this network gives boxes, not classes, so there is no class to explain; give a classifier.")
    if network.num_classes == 0:
        raise ConfigError(
            "the network has no head, so there is no class to explain: it ends at pool5 with a feature map. Look at "
            "its layers by `vgg explain maps`, `exciting` or `maximize`, or train a head by `vgg train --init-from`."
        )


def _check_methods(network: VGG, methods: Sequence[str], layer: str | None, steps: int) -> None:
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        found = f"unknown method {unknown[0]!r}" if unknown else "no method was given"
        raise ConfigError(f"{found}; the methods are {', '.join(METHODS)}.")
    if layer is not None:
        check_layer(network, layer, cam_layers(network))
    check_at_least(1, steps=steps)
