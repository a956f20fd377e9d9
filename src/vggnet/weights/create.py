"""Make a network by name, with new weights or with trained ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vggnet.errors import ConfigError, WeightsError
from vggnet.models.table1 import resolve
from vggnet.models.vgg import VGG, build
from vggnet.progress import Progress
from vggnet.weights.adaptation import adapt, transfer
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.fetching import fetch
from vggnet.weights.registry import PUBLISHED, find


def create_model(
    name: str,
    *,
    weights: Path | str | None = None,
    num_classes: int | None = None,
    head: str | None = None,
    in_channels: int | None = None,
    width: float | None = None,
    dropout: float | None = None,
    boxes: Literal["shared", "per_class"] | None = None,
    init: str | None = "he",
    progress: Progress = True,
) -> VGG:
    """Create a VGG by name, with new weights in training mode, or with trained weights in eval mode.

    Args:
        name: `vgg16`, `vgg16_bn`, ..., or the paper's column letter: `D`, `A-LRN`, `D_bn`.
        weights: trained weights to start from: a name of `vgg weights list`, which is downloaded if it is not here, a
            run folder, or a `.safetensors` file. None initializes new ones.
        num_classes: number of outputs. By default that of `weights`, or 1000. Another number than that of `weights`
            replaces the last layer by a new one.
        head: "paper" (4096-4096-classes), "cifar" (one linear layer, for 32x32 images), "gap" (global average pool, any
            size), "grid" (pool to 4x4, one linear layer, any size; for boxes), "dense" (the paper's as convolutions,
            224 pixels and more), "folded" (the paper's three layers for 32x32 images), "none" (the network returns the
            map of pool5, and `num_classes` does not apply); for scores of each pixel "unet", "fcn8", "fcn32" and
            "segnet" (`vggnet.models.mask_heads`), for objects "ssd300", "ssd512"
            (`vggnet.models.detection_heads`). By default that of `weights`, or "paper". Another head than
            that of `weights` is new, but for tensors of the same name and shape.
        in_channels: 3 for RGB, 1 for gray, or another number. By default that of `weights`, or 3.
        width: multiplies the channels of the convolutions. By default that of `weights`, or 1.
        dropout: probability in [0, 1) of the heads with three layers, and of "fcn8" and "fcn32". By default that of
            `weights`, or 0.5.
        boxes: let the last layer predict boxes instead of class scores: "shared", one for all classes, or "per_class".
        init: "he", "glorot", "gaussian", "dirac"; None builds on the meta device, without memory, to be filled by
            `load_state_dict`. Ignored with `weights`.
        progress: how a download is shown, see `vggnet.progress.Progress`.

    Returns:
        The network. With `weights` it has their `preprocess`, and their `classes` if the last layer is kept. New
        networks have neither: set `model.preprocess = vggnet.Preprocess(...)` before they are saved or evaluated.

    Raises:
        ConfigError: an unknown name, head or initialization, or a number out of range.
        WeightsError: the weights are missing, damaged or of another network, or cannot be downloaded.

    Source: Simonyan & Zisserman (arXiv:1409.1556), Table 1.

    Example:
        >>> create_model("D_bn", num_classes=10, init=None).architecture.name
        'vgg16_bn'
        >>> model = create_model("vgg8_bn", weights="vgg8_bn-cifar10-fast", num_classes=3)
        >>> model.num_classes, model.preprocess.crop, model.training
        (3, 32, False)
    """
    shape: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
    others: dict[str, Any] = {"head": head, "dropout": dropout, "boxes": boxes}
    if weights is None:
        given = {key: value for key, value in (shape | others).items() if value is not None}
        return build(name, init=init, **given)
    if str(weights) in PUBLISHED and find(weights) is None:
        weights = fetch(str(weights), progress=progress)
    checkpoint = Checkpoint.open(weights)
    found, expected = checkpoint.architecture.name, resolve(name).name
    if found != expected:
        raise WeightsError(f"{weights} are of {found}, not of {expected}. Create that model, or take other weights.")
    model = adapt(checkpoint.build(), **shape)
    changed = {key: value for key, value in others.items() if value not in (None, getattr(model.architecture, key))}
    return _with_head(model, changed) if changed else model


def _with_head(model: VGG, changed: dict[str, Any]) -> VGG:
    """The features of `model` below a head with other options, and of its head what fits."""
    if changed.get("head", model.architecture.head) != "none" and not model.num_classes:
        raise ConfigError("the weights have no head; say for how many classes the new one is (num_classes).")
    kept = model.architecture if "head" not in changed else replace(model.architecture, ranks=None)
    created = build(**{**kept.as_dict(), **changed})
    created.preprocess = model.preprocess
    if changed.keys() == {"dropout"}:
        created.load_state_dict(model.state_dict())
        created.classes = model.classes
    else:
        transfer(model, created)
    return created.eval()
