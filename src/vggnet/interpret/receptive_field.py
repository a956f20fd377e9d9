"""How far a layer sees, asked of real networks: which pixels the gradient of one output reaches, and how strongly."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vggnet.errors import ConfigError
from vggnet.models.initialization import initialize

CHANNELS = 64  # of every convolution of a stack, as in the paper's first block
IMAGES = CHANNELS  # random ones, each asked for another channel of the output


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
        """For each pair of input and output channels (paper, section 2.3), biases apart."""
        return self.depth * nn.Conv2d(1, 1, self.kernel, bias=False, device="meta").weight.numel()


# Section 2.3: each pair sees equally far.
PAIRS = ((Stack(5, 1), Stack(3, 2)), (Stack(7, 1), Stack(3, 3)))


def gradient_map(stack: Stack, *, size: int = 11) -> Tensor:
    """Mean absolute gradient of the middle output with respect to every pixel, (size, size), the largest value 1.

    The network has He's initialization and 64 channels a layer; the mean is over its outputs, each for another image of
    noise, and over colors. The same numbers each time; PyTorch's global generator is left as it was.
    Raises: ConfigError if `size` is even.
    """
    if size % 2 == 0:
        raise ConfigError(f"size is {size}; it must be odd, so that there is a middle.")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = _build(stack)
        images = torch.randn(IMAGES, 3, size, size, requires_grad=True)
        middle = network(images)[range(IMAGES), range(IMAGES), size // 2, size // 2]  # of each image another channel
        (gradient,) = torch.autograd.grad(middle.sum(), images)
    strength = gradient.abs().mean((0, 1))
    return strength / strength.max()


def extent(strength: Tensor) -> int:
    """Side of the square of pixels that a gradient map (size, size) is not zero on."""
    rows, columns = (strength != 0).nonzero(as_tuple=True)
    return int(max(rows.max() - rows.min(), columns.max() - columns.min())) + 1


def receptive_field(stack: Stack) -> int:
    """Pixels, by the gradient.

    The image is larger than what the stack can see, so no edge cuts the field off.
    """
    return extent(gradient_map(stack, size=(stack.depth * stack.kernel + 2) | 1))


def _build(stack: Stack) -> nn.Sequential:
    network = nn.Sequential()
    for number in range(stack.depth):
        channels = CHANNELS if number else 3
        network.append(nn.Conv2d(channels, CHANNELS, stack.kernel, padding=stack.kernel // 2))
        network.append(nn.ReLU())
    initialize(network, "he")
    return network
