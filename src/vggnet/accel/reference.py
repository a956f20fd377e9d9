"""The algorithms in plain PyTorch: slow, of any floating type, and what the fast kernels are tested against.

Stride 1, padding 1. x (N, C, H, W), weight (K, C, 3, 3), y (N, K, H, W).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.winograd_matrices import Matrix, Winograd


def forward(x: Tensor, weight: Tensor, winograd: Winograd) -> Tensor:
    """y = A^T [ (G g G^T) * (B^T d B) ] A, summed over the input channels."""
    products = torch.einsum("ijnctu,ijkc->ijnktu", _input_tiles(x, winograd), _kernels(weight, winograd))
    tiles = _both_sides(winograd.output, products)  # (m, m, N, K, TH, TW)
    return _assemble(tiles)[:, :, : x.shape[2], : x.shape[3]]


def grad_input(grad: Tensor, weight: Tensor, winograd: Winograd) -> Tensor:
    """The same convolution of `grad` (N, K, H, W) with the kernel turned by 180 degrees, C and K exchanged."""
    return forward(grad, weight.flip(2, 3).transpose(0, 1), winograd)


def grad_weight(grad: Tensor, x: Tensor, winograd: Winograd) -> Tensor:
    """dg = G^T [ sum over tiles of (A dY A^T) * (B^T d B) ] G."""
    gradients = _both_sides(tuple(zip(*winograd.output, strict=True)), _tiles(grad, winograd.m, winograd.m, 0))
    products = torch.einsum("ijnktu,ijnctu->ijkc", gradients, _input_tiles(x, winograd))
    return _both_sides(tuple(zip(*winograd.kernel, strict=True)), products).permute(2, 3, 0, 1)


def forward_unfolded(x: Tensor, weight: Tensor) -> Tensor:
    """y = W X, where the column of X for a pixel holds the 9 C values that the kernel sees there."""
    return (weight.flatten(1) @ F.unfold(x, 3, padding=1)).view(len(x), len(weight), *x.shape[2:])


def grad_weight_unfolded(grad: Tensor, x: Tensor) -> Tensor:
    """dW = dY X^T, summed over the images."""
    products = torch.einsum("nkp,ndp->kd", grad.flatten(2), F.unfold(x, 3, padding=1))
    return products.view(grad.shape[1], x.shape[1], 3, 3)


def _input_tiles(x: Tensor, winograd: Winograd) -> Tensor:
    """B^T d B for every tile: (side, side, N, C, TH, TW)."""
    return _both_sides(winograd.input, _tiles(x, winograd.side, winograd.m, 1))


def _kernels(weight: Tensor, winograd: Winograd) -> Tensor:
    """G g G^T for every kernel: (side, side, K, C)."""
    return _both_sides(winograd.kernel, weight.permute(2, 3, 0, 1))


def _tiles(x: Tensor, side: int, step: int, before: int) -> Tensor:
    """Squares of side x side pixels, one every `step`, zeros beyond the border: (side, side, N, C, TH, TW)."""
    height, width = x.shape[2:]
    after_h, after_w = (side - before + (-(-size // step) - 1) * step - size for size in (height, width))
    padded = F.pad(x, (before, after_w, before, after_h))
    return padded.unfold(2, side, step).unfold(3, side, step).permute(4, 5, 0, 1, 2, 3)


def _both_sides(matrix: Matrix, values: Tensor) -> Tensor:
    """M v M^T over the first two dimensions."""
    constant = torch.tensor(matrix, dtype=values.dtype)
    return torch.einsum("ia,jb,ab...->ij...", constant, constant, values)


def _assemble(tiles: Tensor) -> Tensor:
    """(m, m, N, K, TH, TW) -> (N, K, TH * m, TW * m)."""
    m, _, n, k, rows, columns = tiles.shape
    return tiles.permute(2, 3, 4, 0, 5, 1).reshape(n, k, rows * m, columns * m)
