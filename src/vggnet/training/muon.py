"""Muon: SGD whose updates of convolution kernels are made orthogonal (Jordan 2024, kellerjordan.github.io/posts/muon).

Kept at a fixed size, a kernel before batch norm loses nothing, and the learning rate is the share of it that a step
changes. PyTorch's own Muon takes matrices only.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vggnet.accel.precision import matrices_like_convolutions

MOMENTUM = 0.6  # of the kernels
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of s -> a s + b s^3 + c s^5, which pulls singular values towards 1
ITERATIONS = 3


class Muon(torch.optim.SGD):
    """SGD with a group of kernels, "kernels": True, that are updated Muon's way. Their group has no momentum of SGD.

    Kernels (K, C, 3, 3) are matrices (K, 9 C) here, kept at norm sqrt(K); a step changes them by the rate times an
    orthogonal matrix of that norm.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update from the gradients."""
        kernels = [kernel for group in self.param_groups if group.get("kernels") for kernel in group["params"]]
        with matrices_like_convolutions():  # half the time in bfloat16, which moves an update by 1 % at most
            for kernel in kernels:
                self._turn_gradient(kernel)
        return super().step(closure)

    def _turn_gradient(self, kernel: Tensor) -> None:
        """Bring the kernel to its size, and put the orthogonal update in the place of its gradient."""
        if kernel.grad is None:
            return
        kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
        state = self.state[kernel]
        if "average" not in state:
            state["average"] = torch.zeros_like(kernel)
        average = state["average"]
        average.mul_(MOMENTUM).add_(kernel.grad)
        update = kernel.grad.add(average, alpha=MOMENTUM)  # Nesterov's form
        rows = update.permute(0, 2, 3, 1)  # as they lie in channels-last memory
        turned = orthogonalize(rows.flatten(1)).view(rows.shape)
        kernel.grad = turned.permute(0, 3, 1, 2)


def orthogonalize(matrix: Tensor) -> Tensor:
    """A matrix (K, D) with the same singular vectors, whose singular values are roughly 1.

    Newton-Schulz: each iteration multiplies by a polynomial of X X^T. These (K, K) polynomials are multiplied with
    each other first and with the matrix once, which spares two thirds of the work where D is much larger than K.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    gram = wide @ wide.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    total = identity
    for _ in range(ITERATIONS):
        factor = a * identity + b * gram + c * gram @ gram
        total = factor @ total
        gram = factor @ gram @ factor
    turned: Tensor = total @ wide
    return turned if matrix.shape[0] <= matrix.shape[1] else turned.T
