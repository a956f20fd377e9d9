"""Why this class: how much each pixel of an image counts for it, by several methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.images import Picture
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, ImageError, OnError, check_at_least
from vggnet.interpret.attributions import (
    cam_layers,
    default_layer,
    enlarged,
    grad_cam,
    grad_cam_plus_plus,
    guided_backpropagation,
    integrated_gradients,
    layer_cam,
    maps_and_gradients,
    num_windows,
    occlusion,
    score_cam,
)
from vggnet.interpret.layers import as_array, check_layer, num_channels, read_one
from vggnet.metrics import check_finite_logits
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress
from vggnet.report.text import SKIP
from vggnet.weights.checkpoint import OpenModel, frozen, open_model

Method = Literal[
    "gradcam", "gradcam++", "layercam", "scorecam", "integrated-gradients", "guided-backpropagation", "occlusion"
]
METHODS: tuple[Method, ...] = ("gradcam", "gradcam++", "integrated-gradients", "occlusion")  # by default
CAMS = {"gradcam": grad_cam, "gradcam++": grad_cam_plus_plus, "layercam": layer_cam}
MANY_CLASSES = 100  # from which on an error names similar ones only


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """How much each pixel counts, by one method."""

    values: NDArray[np.float32] = field(metadata=SKIP)  # (H, W)
    # how it was computed, as JSON values: layer; or steps, sum, rise, delta; or window, stride; and note, if there is
    # something to say of it
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a class: an attribution by each method, for the image as the network saw it."""

    image: str  # its name
    picture: NDArray[np.uint8] = field(metadata=SKIP)  # (H, W, 3), or (H, W) gray
    index: int  # of the class
    name: str  # of the class
    probability: float  # 0..1
    logit: float
    predicted: str  # the class with the highest probability
    predicted_probability: float
    attributions: dict[str, Attribution]  # method -> attribution


@overload
def explain(
    model: VGG | Path | str,
    image: Picture,
    *,
    target: str | int | None = ...,
    methods: Sequence[Method] = ...,
    layer: str | None = ...,
    steps: int = ...,
    window: int | None = ...,
    stride: int | None = ...,
    device: str | None = ...,
    on_error: Literal["raise"] = ...,
    progress: Progress = ...,
) -> Explanation: ...
@overload
def explain(
    model: VGG | Path | str,
    image: list[Picture] | tuple[Picture, ...],
    *,
    target: str | int | None = ...,
    methods: Sequence[Method] = ...,
    layer: str | None = ...,
    steps: int = ...,
    window: int | None = ...,
    stride: int | None = ...,
    device: str | None = ...,
    on_error: Literal["raise"] = ...,
    progress: Progress = ...,
) -> list[Explanation]: ...
@overload
def explain(
    model: VGG | Path | str,
    image: list[Picture] | tuple[Picture, ...],
    *,
    target: str | int | None = ...,
    methods: Sequence[Method] = ...,
    layer: str | None = ...,
    steps: int = ...,
    window: int | None = ...,
    stride: int | None = ...,
    device: str | None = ...,
    on_error: OnError,
    progress: Progress = ...,
) -> list[Explanation | ImageError]: ...
def explain(
    model: VGG | Path | str,
    image: Picture | list[Picture] | tuple[Picture, ...],
    *,
    target: str | int | None = None,
    methods: Sequence[Method] = METHODS,
    layer: str | None = None,
    steps: int = 64,
    window: int | None = None,
    stride: int | None = None,
    device: str | None = None,
    on_error: OnError = "raise",
    progress: Progress = False,
) -> Explanation | list[Explanation] | list[Explanation | ImageError]:
    """Compute how much each pixel of an image counts for a class.

    What is explained is the class's logit. "integrated-gradients", "guided-backpropagation" and "occlusion" need
    captum: pip install 'vggnet[explain]'. A given VGG is not changed, even for a moment: threads may share it.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`. Its own preprocessing
            prepares the image.
        image: a file, the bytes of one, an open file, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W);
            or a list of these.
        target: a class by name or index; by default the predicted one.
        methods: "gradcam", "gradcam++", "layercam" and "scorecam" give a map of `layer`, not negative; a `note` in the
            facts says if it is zero. "scorecam" needs a pass for each channel. "guided-backpropagation" gives the
            gradient through positive parts; "integrated-gradients" the share of each
            pixel in the rise of the logit from an image of the mean color; "occlusion" the mean fall of the logit when
            a square with the mean color hides the pixel.
        layer: of Grad-CAM; by default the deepest ReLU whose map has 4 places a side.
        steps: gradients for integrated gradients.
        window: side of the square that occlusion hides, in pixels; by default a seventh of the image.
        stride: pixels from one square to the next; by default half a window.
        device: "cpu", "cuda", ...; by default a VGG stays where it is, and a file goes to the GPU if there is one.
        on_error: "raise" raises the error of an image that cannot be read; "return", for a list of images, has it in
            the place of the explanation.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total), counted in images
            through the network.

    Returns:
        An explanation; for a list of images a list.

    Raises:
        ConfigError: an option is impossible, or the network has no classes.
        ImageError: the image cannot be read, with `on_error="raise"`.
        MissingDependencyError: captum is needed and not installed.
        NonFiniteError: the logits are not finite.
        WeightsError: there is no such model, or it has no preprocessing.

    Example:
        >>> from PIL import Image
        >>> found = explain("vgg8_bn-cifar10-fast", Image.new("RGB", (40, 32)), target="cat", methods=["gradcam"])
        >>> found.index, found.attributions["gradcam"].values.shape, found.attributions["gradcam"].facts
        (3, (32, 32), {'layer': 'relu4_1'})
    """
    opened = open_model(model, device=device, accelerate=False)
    network, preprocess = frozen(opened.network), opened.preprocess
    _check_classifies(network)
    size = preprocess.crop
    window = max(1, size // 7) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    _check_methods(network, methods, layer, steps)
    several = isinstance(image, list | tuple)
    if on_error == "return" and not several:
        raise ConfigError("on_error is 'return', which is for a list of images; give a list, or leave on_error out.")
    images = image if isinstance(image, list | tuple) else [image]
    pictures = [_read(one, preprocess, on_error) for one in images]
    readable = sum(not isinstance(one, ImageError) for one in pictures)
    channels = num_channels(network, layer or default_layer(network, size)) if "scorecam" in methods else 0
    passes = {
        "integrated-gradients": steps, "occlusion": num_windows(size, window, stride) + 1, "scorecam": channels
    }  # fmt: skip
    total = readable * sum(passes.get(method, 1) for method in set(methods))
    found: list[Explanation | ImageError] = []
    with torch.enable_grad(), report_progress(progress, "explaining") as report:
        seen = _counter(report, total)
        for picture in pictures:
            if isinstance(picture, ImageError):
                found.append(picture)
                continue
            name, pixels = picture
            batch = preprocess.normalize(pixels.to(opened.device)).unsqueeze(0)
            with torch.no_grad():
                logits = network(batch).cpu().double()
            check_finite_logits(logits)
            index = _class_index(opened, target, logits[0])
            attributions: dict[str, Attribution] = {
                method: _attribute(network, batch, index, method, layer, steps, window, stride, seen)
                for method in dict.fromkeys(methods)
            }
            found.append(_explanation(opened, name, pixels, logits[0], index, attributions))
    return found if several else cast("Explanation", found[0])


def _read(image: Picture, preprocess: Preprocess, on_error: OnError) -> tuple[str, Tensor] | ImageError:
    try:
        return read_one(image, preprocess)
    except ImageError as error:
        if on_error == "raise":
            raise
        return error


def _explanation(
    opened: OpenModel, name: str, pixels: Tensor, logits: Tensor, index: int, attributions: dict[str, Attribution]
) -> Explanation:
    probabilities = logits.softmax(0).tolist()
    best = int(logits.argmax())
    return Explanation(
        image=name,
        picture=as_array(pixels),
        index=index,
        name=opened.class_name(index),
        probability=probabilities[index],
        logit=logits[index].item(),
        predicted=opened.class_name(best),
        predicted_probability=probabilities[best],
        attributions=attributions,
    )


def _class_index(opened: OpenModel, target: str | int | None, logits: Tensor) -> int:
    """A class by name or index, by default the one with the highest logit (K,).

    Raises: ConfigError for a class that the model does not have, naming those that it has.
    """
    if target is None:
        return int(logits.argmax())
    names = opened.classes or ()
    if target in names:
        return names.index(str(target))
    if str(target).isdecimal() and int(target) < len(logits):
        return int(target)
    listed: Sequence[str] = names
    if len(names) > MANY_CLASSES:
        listed = get_close_matches(str(target), names, n=8, cutoff=0.3)
    known = f"; {'similar are' if listed is not names else 'the classes are'} {', '.join(listed)}" if listed else ""
    raise ConfigError(f"unknown class {str(target)!r}{known}. A number from 0 to {len(logits) - 1} works too.")


def _counter(report: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """A function to call with the number of images that went through the network since the last call."""
    done = 0

    def seen(images: int) -> None:
        nonlocal done
        done = min(done + images, total)
        report(done, total)

    return seen


def _attribute(
    network: VGG,
    batch: Tensor,
    index: int,
    method: Method,
    layer: str | None,
    steps: int,
    window: int,
    stride: int,
    seen: Callable[[int], None],
) -> Attribution:
    facts: dict[str, Any]
    if method in CAMS or method == "scorecam":
        layer = layer or default_layer(network, batch.shape[-1])
        if method in CAMS:
            cam = CAMS[method](*maps_and_gradients(network, batch, index, layer))
            seen(1)
        else:
            cam = score_cam(network, batch, index, layer, seen=seen)
        values, facts = enlarged(cam, batch.shape[2:])[0], {"layer": layer}
        if not values.any():
            facts["note"] = f"zero everywhere: nothing in {layer} supports this class; try another layer or method"
    elif method == "guided-backpropagation":
        values, facts = guided_backpropagation(network, batch, index), {}
        seen(1)
    elif method == "occlusion":
        values = occlusion(network, batch, index, window=window, stride=stride, seen=seen)
        facts = {"window": window, "stride": stride, "largest_fall": values.max().item()}
    else:
        values, rise, delta = integrated_gradients(network, batch, index, steps=steps, seen=seen)
        facts = {"steps": steps, "sum": rise + delta, "rise": rise, "delta": delta}
    return Attribution(values=values.cpu().numpy(), facts=facts)


def _check_classifies(network: VGG) -> None:
    """Raises: ConfigError if the network has no classes."""
    if (gives := network.architecture.outputs) != "scores":
        raise ConfigError(
            f"this network gives {gives}, not classes, so there is no class to explain; give a classifier."
        )
    if network.num_classes == 0:
        raise ConfigError(
            "the network has no head, so there is no class to explain: it ends at pool5 with a feature map. Look at "
            "its layers by `vgg explain maps`, `top-activations` or `visualize`, or train a head by `vgg train "
            "--init-from`."
        )


def _check_methods(network: VGG, methods: Sequence[Method], layer: str | None, steps: int) -> None:
    unknown = [method for method in methods if method not in get_args(Method)]
    if unknown or not methods:
        found = f"unknown method {unknown[0]!r}" if unknown else "no method was given"
        raise ConfigError(f"{found}; the methods are {', '.join(get_args(Method))}.")
    if layer is not None:
        check_layer(network, layer, cam_layers(network))
    check_at_least(1, steps=steps)
