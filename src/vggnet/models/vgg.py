"""The VGG network: Table 1's features and a head."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vggnet.accel.fusion import FusedSequential, run_for_convolution
from vggnet.errors import ConfigError, InputError
from vggnet.models.architecture import Architecture
from vggnet.models.heads import dense_from_paper, folded_from_paper, head_of, paper_from_dense
from vggnet.models.initialization import INITIALIZERS, initialize
from vggnet.models.map_head import MapHead
from vggnet.models.table1 import TOTAL_STRIDE, layers, resolve

if TYPE_CHECKING:
    from vggnet.data.preprocess import Preprocess


class VGG(nn.Module):
    """VGG network.

    Images (N, in_channels, H, W), normalized, H and W at least 32 -> logits (N, num_classes). With `boxes` the outputs
    are (N, 4) or (N, 4 num_classes): center x and y, width and height for each class, in units of the crop. With the
    head "none" the output is the map of pool5, (N, C, H // 32, W // 32). Heads for pixels give (N, num_classes, H, W):
    images are padded with zeros on the right and below to multiples of 32, and the logits cropped. Heads for objects
    take images of one size, and give (N, D, num_classes + 5), see `vggnet.models.detection_heads`. Heads of networks
    that others trained give maps (N, num_classes, h, w), see `vggnet.models.trained_heads`. Layers behind the last one
    that a head takes are left out.
    Layers have the paper's names: features.conv3_2, features.relu3_2, features.pool3, head.fc6. No layer works in
    place, so each can be hooked.
    Differences from the paper: optional batch norm after each convolution, and heads other than the paper's.

    Args:
        architecture: what fixes the shape.

    Attributes:
        architecture: as given.
        classes: class names in the order of the outputs; None if not known.
        preprocess: how images become inputs; None if not known.
        task: what the network is trained for.

    Raises:
        ConfigError: an unknown head.
        InputError: when called, for images that are too small or have another number of channels.

    Source: Simonyan & Zisserman (ICLR 2015, arXiv:1409.1556), Table 1.

    Example:
        >>> network = VGG(Architecture(name="vgg11", num_classes=10, head="gap", width=0.1))
        >>> network(torch.zeros(2, 3, 64, 48)).shape
        torch.Size([2, 10])
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.classes: tuple[str, ...] | None = None
        self.preprocess: Preprocess | None = None
        self.task = architecture.task
        network = resolve(architecture.name)
        head = head_of(architecture)
        has_ceil, ends = (head.ceil_pools, head.taps[-1]) if isinstance(head, MapHead) else (False, None)
        self.features = nn.Sequential()
        channels = architecture.in_channels
        for layer in layers(network.column, architecture.width, architecture.channels):
            place = f"{layer.block}_{layer.number}"
            if layer.kind == "conv":
                conv = nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, padding=layer.kernel // 2)
                self.features.add_module(f"conv{place}", conv)
                if network.batch_norm:
                    self.features.add_module(f"bn{place}", nn.BatchNorm2d(layer.channels))
                self.features.add_module(f"relu{place}", nn.ReLU())
            elif layer.kind == "lrn":
                # Krizhevsky (2012): n = 5, alpha = 1e-4, beta = 0.75, k = 2. PyTorch divides its alpha by n.
                self.features.add_module(f"lrn{place}", nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
            else:
                self.features.add_module(f"pool{layer.block}", nn.MaxPool2d(layer.kernel, ceil_mode=has_ceil))
            channels = layer.channels
        names = [name for name, _ in self.features.named_children()]
        for name in names[names.index(ends) + 1 :] if ends else ():
            delattr(self.features, name)  # the head takes nothing behind
        self.head: nn.Sequential | MapHead = head

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without a head."""
        return self.architecture.num_classes

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_outputs): logits, or boxes; without a head the map of pool5.

        With a head for pixels (N, num_classes, H, W), with one for objects (N, D, num_classes + 5).
        """
        size = self.head.size if isinstance(self.head, MapHead) else None
        _check_images(images, self.architecture, size, next(self.parameters()))
        return self.compute(images)

    def compute(self, images: Tensor) -> Tensor:
        """`forward` without checks."""
        if isinstance(self.head, MapHead):
            return self.head.of_images(self.tapped, images)
        return self.head(self.features(images))  # type: ignore[no-any-return]

    def tapped(self, images: Tensor, taps: Sequence[str]) -> list[Tensor]:
        """The maps of layers of `features`, which are named in their order; bfloat16 only as the head says."""
        names, maps, start = [name for name, _ in self.features.named_children()], [], 0
        for_convolution = isinstance(self.head, MapHead) and self.head.maps_for_convolution
        for tap in taps:
            end = names.index(tap) + 1
            part = self.features[start:end]
            if for_convolution and isinstance(part, FusedSequential):
                images = run_for_convolution(part, images)
            else:
                images = part.forward(images)  # type: ignore[no-untyped-call]  # a tracer knows no part
            maps.append(images)
            start = end
        return maps

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Names of the layers whose shapes depend on the number of classes."""
        if isinstance(self.head, MapHead):
            return tuple(f"head.scores.{name}" for name in self.head.scores)
        return (list(self.state_dict())[-1].rpartition(".")[0],)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in PyTorch; a model built with `init=None` (on the meta device) takes the given tensors as its own."""
        on_meta = any(parameter.is_meta for parameter in self.parameters())
        return super().load_state_dict(state_dict, strict=strict, assign=assign or on_meta)


@torch.fx.wrap
def _check_images(images: Tensor, architecture: Architecture, size: int | None, parameter: Tensor) -> None:
    """Raises: InputError. A traced network calls it as one operator."""
    if parameter.is_meta and not images.is_meta:
        raise InputError("the model was built without weights (init=None). Load some, or build it with init='he'.")
    expected = architecture.in_channels
    if images.ndim != 4 or images.shape[1] != expected:
        raise InputError(
            f"{architecture.name} takes images of shape (N, {expected}, H, W), but got "
            f"{tuple(images.shape)}. Convert the images, or build the model with in_channels=C."
        )
    if size is not None and tuple(images.shape[2:]) != (size, size):
        raise InputError(
            f"the head {architecture.head} takes images of {size}x{size} pixels, but got "
            f"{images.shape[2]}x{images.shape[3]}. Resize the images (--crop {size})."
        )
    if min(images.shape[2:]) < TOTAL_STRIDE:
        raise InputError(
            f"{architecture.name} halves the image five times and needs at least {TOTAL_STRIDE}x"
            f"{TOTAL_STRIDE} pixels, but got {images.shape[2]}x{images.shape[3]}. Enlarge the images."
        )


def build(
    name: str,
    *,
    num_classes: int = 1000,
    head: str = "paper",
    in_channels: int = 3,
    width: float = 1.0,
    dropout: float = 0.5,
    boxes: Literal["shared", "per_class"] | None = None,
    channels: Sequence[int] | None = None,
    ranks: Sequence[int] | None = None,
    init: str | None = "he",
) -> VGG:
    """A network with new weights.

    See `vggnet.create_model`, which also takes trained ones, for the arguments, and `Architecture` for those of shrunk
    networks.
    """
    architecture = Architecture(
        name=name,
        num_classes=num_classes,
        head=head,
        in_channels=in_channels,
        width=width,
        dropout=dropout,
        boxes=boxes,
        channels=None if channels is None else tuple(channels),
        ranks=None if ranks is None else tuple(ranks),
    )
    if init is not None and init not in INITIALIZERS:
        raise ConfigError(f"unknown initialization {init!r}. The initializations are {', '.join(INITIALIZERS)}.")
    device = torch.get_default_device()
    model = empty(architecture)
    if init is not None and device.type != "meta":
        model.to_empty(device=device)
        initialize(model, init)
    return model


def empty(architecture: Architecture) -> VGG:
    """The network on the meta device: shapes, and no memory."""
    with torch.device("meta"):
        return VGG(architecture)


def to_dense(model: VGG) -> VGG:
    """A copy of a network with the `paper` head that has the `dense` head.

    The logits are the same at 224x224 pixels. Larger images give a map of scores, which is averaged.

    Args:
        model: a network with the head "paper".

    Raises:
        ConfigError: it has another head, or factorized layers.

    Source: Simonyan & Zisserman (arXiv:1409.1556), section 3.2.

    Example:
        >>> with torch.device("meta"):
        ...     to_dense(VGG(Architecture(name="vgg11"))).head.fc6.weight.shape
        torch.Size([4096, 512, 7, 7])
    """
    if model.architecture.ranks:
        raise ConfigError("the dense head has no factorized layers, but those of this model are; take the whole ones.")
    return _with_head(model, source="paper", target="dense", convert=dense_from_paper)


def from_dense(model: VGG) -> VGG:
    """A copy of a network with the `dense` head that has the `paper` head: the inverse of `to_dense`.

    Args:
        model: a network with the head "dense".

    Raises:
        ConfigError: it has another head.

    Example:
        >>> with torch.device("meta"):
        ...     from_dense(VGG(Architecture(name="vgg11", head="dense"))).head.fc6.weight.shape
        torch.Size([4096, 25088])
    """
    return _with_head(model, source="dense", target="paper", convert=paper_from_dense)


def repeats_one_cell(model: VGG, size: int) -> bool:
    """Whether the head pools a map of one cell to 7x7, for images of `size` pixels a side."""
    return model.architecture.head == "paper" and size < 2 * TOTAL_STRIDE


def fold_repeated_pool(model: VGG) -> VGG:
    """A copy of a network with the `paper` head that has the `folded` head, for 32x32 images.

    The logits are the same, with 100 million weights fewer: at 32x32 the last feature map is one pixel, which the paper
    head repeats 49 times; see `vggnet.models.heads.folded_from_paper`.

    Args:
        model: a network with the head "paper".

    Raises:
        ConfigError: it has another head.

    Example:
        >>> with torch.device("meta"):
        ...     fold_repeated_pool(VGG(Architecture(name="vgg11"))).head.fc6.weight.shape
        torch.Size([4096, 512])
    """
    return _with_head(model, source="paper", target="folded", convert=folded_from_paper)


def _with_head(
    model: VGG, *, source: str, target: str, convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> VGG:
    if model.architecture.head != source:
        raise ConfigError(
            f'this conversion takes a model with head="{source}", but this one has head="{model.architecture.head}".'
        )
    converted = empty(replace(model.architecture, head=target))
    converted.features = copy.deepcopy(model.features)
    state = {name: tensor.detach().clone() for name, tensor in convert(model.head.state_dict()).items()}
    converted.head.load_state_dict(state, assign=True)
    converted.classes, converted.preprocess, converted.task = model.classes, model.preprocess, model.task
    return converted.train(model.training)
