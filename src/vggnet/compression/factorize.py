"""Fully connected layers as two smaller ones, by a truncated singular value decomposition."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from vggnet.compression.fold import with_state_of
from vggnet.errors import ConfigError
from vggnet.models.heads import REDUCE
from vggnet.models.vgg import VGG, empty


@torch.no_grad()
def factorize(model: VGG, *, energy: float | None = None, rank: int | None = None) -> VGG:
    """Replace each fully connected layer by two where that has fewer weights.

    A weight matrix W, (out, in), becomes U (U^T W) with the first left singular vectors U, (out, rank): the best
    approximation of this rank (Eckart & Young 1936). It is computed in float64.

    Args:
        model: the network; it is not changed.
        energy: share of the squares of the singular values that is kept, in (0, 1); it gives each layer a rank.
        rank: of all layers, at least 1, instead.

    Raises:
        ConfigError: not just one of energy and rank was given, it is out of range, the layers are factorized already,
            or no layer would have fewer weights.

    Source: Denton et al. (NeurIPS 2014, arXiv:1404.0736) and Girshick (ICCV 2015, arXiv:1504.08083), section 3.1.

    Example:
        >>> from vggnet.models.vgg import build
        >>> model = build("vgg11", num_classes=10, head="grid", width=0.1)
        >>> factorize(model, rank=5).architecture.ranks, model.head.fc
        ((5,), Linear(in_features=816, out_features=10, bias=True))
    """
    if (energy is None) == (rank is None):
        raise ConfigError("factorize takes either an energy in (0, 1) or a rank; give just one of them.")
    if energy is not None and not 0 < energy < 1:
        raise ConfigError(f"energy is {energy}; it is a share of the squares of singular values and lies in (0, 1).")
    if rank is not None and rank < 1:
        raise ConfigError(f"rank is {rank}; it must be at least 1.")
    if model.architecture.ranks:
        raise ConfigError("the fully connected layers are factorized already. Start from the network that was not.")
    state, ranks = dict(model.state_dict()), []
    for name, layer in model.head.named_children():
        if isinstance(layer, nn.Linear):
            found = _factors(layer.weight, energy, rank)
            ranks.append(0 if found is None else len(found[1]))
            if found is not None:
                state[f"head.{name}.weight"], state[f"head.{name}{REDUCE}.weight"] = found
    if not any(ranks):
        raise ConfigError(
            f"the head {model.architecture.head} has no fully connected layer that is smaller as two of this rank. "
            "Give a lower energy or rank, or leave the step out."
        )
    return with_state_of(model, empty(replace(model.architecture, ranks=tuple(ranks))), state)


def _factors(weight: Tensor, energy: float | None, rank: int | None) -> tuple[Tensor, Tensor] | None:
    """(out, rank) and (rank, in), or None if they have no fewer numbers than (out, in).

    The singular vectors are the eigenvectors of W W^T, or of W^T W if that is smaller; in float64 the squares cost no
    digit that counts, and of 25,088 x 4,096 numbers it is many times as fast.
    """
    matrix = weight.double()
    is_wide = matrix.shape[0] <= matrix.shape[1]
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T if is_wide else matrix.T @ matrix)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    if energy is not None:
        rank = 1 + int((squares.cumsum(0) < energy * squares.sum()).sum())
    assert rank is not None
    if rank * sum(matrix.shape) >= matrix.numel():
        return None
    first = vectors[:, :rank]
    expand, reduce = (first, first.T @ matrix) if is_wide else (matrix @ first, first.T)
    return expand.to(weight.dtype), reduce.to(weight.dtype)
