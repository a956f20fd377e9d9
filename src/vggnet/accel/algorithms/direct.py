"""PyTorch's own convolution, in either memory format. It takes every shape."""

import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from vggnet.accel.algorithm import Algorithm, Pass, Shape, relu_and_pool
from vggnet.accel.autotuning import DIRECT
from vggnet.accel.weight_cache import FoldedWeights


class DirectConvolution(Algorithm):
    """On channels-last memory."""

    name = DIRECT

    def supports(self, work: Pass, shape: Shape) -> bool:
        """Always."""
        return True

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As F.conv2d."""
        return F.conv2d(x, weight, bias, padding=1)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """As torch.nn.grad.conv2d_input."""
        shape = (len(grad), weight.shape[1], *grad.shape[2:])
        gradient: Tensor = conv2d_input(shape, weight, grad, padding=1)  # type: ignore[no-untyped-call]
        return gradient

    def grad_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """As torch.nn.grad.conv2d_weight."""
        shape = (grad.shape[1], x.shape[1], 3, 3)
        gradient: Tensor = conv2d_weight(x, shape, grad, padding=1)  # type: ignore[no-untyped-call]
        return gradient


class DirectNCHW(DirectConvolution):
    """On contiguous memory (NCHW), to which everything is copied first."""

    name = "direct_nchw"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As F.conv2d."""
        return super().forward(x.contiguous(), weight.contiguous(), bias)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """As torch.nn.grad.conv2d_input."""
        return super().grad_input(grad.contiguous(), weight.contiguous())

    def grad_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """As torch.nn.grad.conv2d_weight."""
        return super().grad_weight(grad.contiguous(), x.contiguous())

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """The weights are copied once."""
        weight = weights.derive(self.name, Tensor.contiguous)
        return relu_and_pool(self.forward(x, weight, weights.bias), relu, pool)
