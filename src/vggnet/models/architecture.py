"""What fixes the shape of a network: its column of Table 1, its head and their sizes. No PyTorch here."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vggnet.errors import ConfigError
from vggnet.models.table1 import (
    FULLY_CONNECTED,
    MAP_HEADS,
    NETWORK_OF_HEAD,
    OUTPUTS_OF_HEAD,
    STRIDED,
    num_convolutions,
    resolve,
)

SHRUNK = ("channels", "ranks")  # what only shrunk networks have
_TASKS = {"scores": "classify", "boxes": "localize", "masks": "segment", "detections": "detect", "maps": "maps"}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What fixes the shape of a network; saved with its weights.

    Args:
        name: `vgg16`, `vgg16_bn`, ..., or the paper's column letter, `D`, `D_bn`; stored as the name.
        num_classes: number of classes; 0 with the head "none".
        head: "paper", "cifar", "gap", "grid", "dense", "folded", "none", for pixels "unet", "fcn8", "fcn32",
            "segnet", for objects "ssd300", "ssd512", or of networks that others trained "craft", "hed"; see
            `vggnet.create_model`.
        in_channels: channels of the images.
        width: multiplies the channels of the convolutions, in (0, 16].
        dropout: probability in [0, 1) of the heads with three layers, and of "fcn8" and "fcn32".
        boxes: None for class scores, or boxes (paper, appendix A): "shared", one for all classes, or "per_class".
        channels: of a pruned network, the outputs of each convolution, at least 1; None for Table 1's times `width`.
        ranks: of a network with factorized fully connected layers, the rank of each of them, 0 for one that is whole;
            None if none is factorized. The head "dense" has no fully connected layers.

    Raises:
        ConfigError: an unknown name, a number out of range, or lists of another length than the network needs.

    Example:
        >>> Architecture(name="D_bn", num_classes=10)  # doctest: +NORMALIZE_WHITESPACE
        Architecture(name='vgg16_bn', num_classes=10, head='paper', in_channels=3, width=1.0, dropout=0.5, boxes=None,
        channels=None, ranks=None)
    """

    name: str = "vgg16"
    num_classes: int = 1000
    head: str = "paper"
    in_channels: int = 3
    width: float = 1.0
    dropout: float = 0.5
    boxes: Literal["shared", "per_class"] | None = None
    channels: tuple[int, ...] | None = None
    ranks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", resolve(self.name).name)
        if self.head == "none":
            object.__setattr__(self, "num_classes", 0)
        for field in ("in_channels",) if self.head == "none" else ("num_classes", "in_channels"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{field} is {value!r}; it must be a whole number of at least 1.")
        for field in ("width", "dropout"):
            if not isinstance(getattr(self, field), int | float):
                raise ConfigError(f"{field} is {getattr(self, field)!r}; it must be a number.")
        if not 0 < self.width <= 16:
            raise ConfigError(f"width is {self.width}; it multiplies the channels and must lie in (0, 16].")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it is a probability in [0, 1).")
        if self.boxes not in (None, "shared", "per_class"):
            raise ConfigError(f"boxes is {self.boxes!r}; it must be shared, per_class, or None for class scores.")
        if self.boxes is not None and self.head in MAP_HEADS:
            raise ConfigError(f"boxes is {self.boxes!r}, but the head {self.head} gives {self.outputs}.")
        if self.head in MAP_HEADS and resolve(self.name).column in STRIDED:
            raise ConfigError(f"the head {self.head} takes the maps beside five pools, but {self.name} has no pools.")
        if self.name != (network := NETWORK_OF_HEAD.get(self.head, self.name)):
            raise ConfigError(f"the head {self.head} is for {network} alone, not for {self.name}.")
        self._check_list("channels", 1, num_convolutions(resolve(self.name).column), f"convolutions of {self.name}")
        if self.channels is not None and self.width != 1:
            raise ConfigError(
                f"width is {self.width}, but channels says how wide each convolution is; leave width out."
            )
        num_layers = FULLY_CONNECTED.get(self.head, 0)
        self._check_list("ranks", 0, num_layers, f"fully connected layers of the head {self.head}")
        if not any(self.ranks or ()):
            object.__setattr__(self, "ranks", None)

    def _check_list(self, name: str, least: int, length: int, what: str) -> None:
        """Convert a list, as read from JSON, to a tuple, and check it.  Raises: ConfigError."""
        values = getattr(self, name)
        if values is None:
            return
        if not isinstance(values, list | tuple) or any(type(value) is not int or value < least for value in values):
            raise ConfigError(f"{name} is {values!r}; it must be a list of whole numbers of at least {least}.")
        if len(values) != length:
            raise ConfigError(f"{name} has {len(values)} numbers; expected {length}, one for each of the {what}.")
        object.__setattr__(self, name, tuple(values))

    @property
    def outputs(self) -> Literal["scores", "boxes", "masks", "detections", "maps"]:
        """What the network gives for an image: class scores, boxes, scores for each pixel, many boxes, or maps."""
        return OUTPUTS_OF_HEAD.get(self.head) or ("scores" if self.boxes is None else "boxes")

    @property
    def task(self) -> str:
        """What such outputs are for, where nothing else is known: the name of a module of `vggnet.tasks`."""
        return _TASKS[self.outputs]

    @property
    def num_outputs(self) -> int:
        """Of the last layer: a score for each class, or four numbers for each box."""
        return {None: self.num_classes, "shared": 4, "per_class": 4 * self.num_classes}[self.boxes]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without `channels` and `ranks` if it has none, as in files of older versions."""
        return {key: value for key, value in asdict(self).items() if key not in SHRUNK or value is not None}
