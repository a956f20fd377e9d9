"""Receptive fields: which pixels an output depends on, from kernel sizes, and how strongly, from gradients."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vggnet.errors import ConfigError
from vggnet.models.initialization import initialize
from vggnet.models.vgg import VGG

CHANNELS = 64  # of every convolution of a stack, as in the paper's first block
IMAGES = CHANNELS  # random ones, each for another channel of the output


class Field(NamedTuple):
    """The receptive field of a layer: its output i depends on the pixels from start + i step on, `size` of them.

    Source: Araujo et al. (2019), "Computing receptive fields of convolutional neural networks", Distill, equations 2
    and 3.
    """

    start: int = 0  # pixels; negative by what padding adds
    step: int = 1  # pixels between neighboring outputs
    size: int = 1  # pixels, in each direction; those of padding count

    def after(self, kernel: int, stride: int = 1, padding: int = 0) -> "Field":
        """The field of a layer with this window on top of the layer that has this field.

        Example:
            >>> Field().after(3).after(3).size  # two 3x3 convolutions see as far as one 5x5
            5
        """
        return Field(
            start=self.start - padding * self.step,
            step=self.step * stride,
            size=self.size + (kernel - 1) * self.step,
        )


def receptive_field(network: VGG, layer: str) -> Field:
    """The receptive field of a layer of a VGG's features.

    Args:
        network: with or without weights.
        layer: a name of the paper, such as `relu4_3`.

    Raises:
        ConfigError: there is no such layer in the features.

    Example:
        >>> from vggnet.models.vgg import Architecture, empty
        >>> receptive_field(empty(Architecture(name="vgg16")), "pool5").size
        212
    """
    field = Field()
    for name, module in network.features.named_children():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, padding = (_number(value) for value in (module.kernel_size, module.stride, module.padding))
            field = field.after(kernel, stride, padding)
        if name == layer:
            return field
    names = ", ".join(name for name, _ in network.features.named_children())
    raise ConfigError(f"{network.architecture.name} has no layer {layer!r}; expected one of {names}.")


class Stack(NamedTuple):
    """Equal convolutions of stride 1, a ReLU after each."""

    kernel: int
    depth: int

    @property
    def label(self) -> str:
        """`two 3x3`."""
        words = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
        return f"{words.get(self.depth, self.depth)} {self.kernel}x{self.kernel}"

    @property
    def weights(self) -> int:
        """For each pair of input and output channels (paper, section 2.3), without biases."""
        return self.depth * self.kernel**2

    @property
    def size(self) -> int:
        """Side of the receptive field, in pixels."""
        field = Field()
        for _ in range(self.depth):
            field = field.after(self.kernel)
        return field.size


# Section 2.3 of the paper: the networks of each pair have equal receptive fields.
PAIRS = ((Stack(5, 1), Stack(3, 2)), (Stack(7, 1), Stack(3, 3)))


def gradient_map(stack: Stack, *, size: int = 11) -> Tensor:
    """How strongly one output depends on each pixel: the mean absolute gradient (Luo et al., arXiv:1701.04128).

    The network has He's initialization and 64 channels a layer. The mean is over outputs of other channels for other
    images of noise, and over colors. PyTorch's global random state is left as it was.

    Args:
        stack: the network.
        size: pixels of both sides of the images; odd, so that there is a center.

    Returns:
        (size, size), the largest value 1; the same for every call.

    Raises:
        ConfigError: `size` is even.
    """
    if size % 2 == 0:
        raise ConfigError(f"size is {size}; it must be odd, so that there is a center.")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = _build(stack)
        images = torch.randn(IMAGES, 3, size, size, requires_grad=True)
        center = network(images)[range(IMAGES), range(IMAGES), size // 2, size // 2]  # of each image another channel
        (gradient,) = torch.autograd.grad(center.sum(), images)
    strength = gradient.abs().mean((0, 1))
    return strength / strength.max()


def _build(stack: Stack) -> nn.Sequential:
    network = nn.Sequential()
    for number in range(stack.depth):
        channels = CHANNELS if number else 3
        network.append(nn.Conv2d(channels, CHANNELS, stack.kernel, padding=stack.kernel // 2))
        network.append(nn.ReLU())
    initialize(network, "he")
    return network


def _number(value: int | str | tuple[int, ...]) -> int:
    assert not isinstance(value, str)
    return value if isinstance(value, int) else value[0]
