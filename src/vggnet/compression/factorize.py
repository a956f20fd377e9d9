"""Fully connected layers as two smaller ones: as close as possible in their weights, or in what follows from them."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vggnet.accel import api as accel
from vggnet.compression.fold import with_state_of
from vggnet.errors import ConfigError
from vggnet.models.heads import REDUCE
from vggnet.models.vgg import VGG, empty

Factors = tuple[Tensor, Tensor, Tensor]  # weights (out, rank) and (rank, in) of the two layers, bias (out,)

# Of the mean sensitivity: what each output of a layer counts at least, as other images may need it. On 208 held-out
# flowers 1 was worse, and 0.01 no better.
LEAST_SENSITIVITY = 0.1


class Responses(NamedTuple):
    """What a fully connected layer returns for images, and what the network makes of it."""

    outputs: Tensor  # (n, out)
    gradients: Tensor  # of one output of the network for each image, each output in its turn: (n, out)


@torch.no_grad()
def factorize(
    model: VGG, *, energy: float | None = None, rank: int | None = None, batches: Iterable[Tensor] | None = None
) -> VGG:
    """Replace each fully connected layer by two where that has fewer weights.

    A weight matrix W, (out, in), becomes U (U^T W). Without images U, (out, rank), are the first left singular vectors
    of W: the best approximation of this rank (Eckart & Young 1936).

    With images W becomes A (B W), such that the layer's outputs y = W x + b, before ReLU, change the network's outputs
    as little as possible. Their mean stays as it is, and the error e of y counts as e^T M e, where M is the mean of
    g g^T over the gradients g of the network's outputs by y. With R = M^(1/2), these are the first principal components
    U of R y, with A = R^-1 U and B = U^T R. A layer that was trained on few images keeps more of what it has learned
    so, as most of its weights are still random. Both are computed in float64.

    Args:
        model: the network; it is not changed.
        energy: share of the squares of the singular values, or of the variance of R y, that is kept, in (0, 1); it
            gives each layer a rank.
        rank: of all layers, at least 1, instead.
        batches: images, float (n, C, H, W), at least two in all. Several random views of each are better than one.

    Raises:
        ConfigError: not just one of energy and rank was given, it is out of range, the layers are factorized already,
            or no layer would have fewer weights.

    Source: Denton et al. (NeurIPS 2014, arXiv:1404.0736) and Girshick (ICCV 2015, arXiv:1504.08083), section 3.1, for
    the weights; Zhang et al. (arXiv:1505.06798), section 2.1, for the outputs. M is our own addition.

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
    layers = {name: layer for name, layer in model.head.named_children() if isinstance(layer, nn.Linear)}
    responses = None if batches is None or not layers else _responses(model, tuple(layers), batches)
    state, ranks = dict(model.state_dict()), []
    for name, layer in layers.items():
        if responses is None:
            found = _factors_of_weights(layer, energy, rank)
        else:
            found = _factors_of_responses(layer, responses[name], energy, rank)
        ranks.append(0 if found is None else len(found[1]))
        if found is not None:
            for part, tensor in zip((".weight", f"{REDUCE}.weight", ".bias"), found, strict=True):
                state[f"head.{name}{part}"] = tensor.to(layer.weight.dtype)
    if not any(ranks):
        raise ConfigError(
            f"the head {model.architecture.head} has no fully connected layer that is smaller as two of this rank. "
            "Give a lower energy or rank, or leave the step out."
        )
    return with_state_of(model, empty(replace(model.architecture, ranks=tuple(ranks))), state)


def _factors_of_weights(layer: nn.Linear, energy: float | None, rank: int | None) -> Factors | None:
    """The factors that are closest to the weights, None if they have no fewer numbers.

    The singular vectors are the eigenvectors of W W^T, or of W^T W if that is smaller; in float64 the squares cost no
    digit that counts, and of 25,088 x 4,096 numbers it is many times as fast.
    """
    matrix = layer.weight.double()
    is_wide = matrix.shape[0] <= matrix.shape[1]
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T if is_wide else matrix.T @ matrix)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    first = _first(vectors, squares, matrix, energy, rank)
    if first is None:
        return None
    return (first, first.T @ matrix, layer.bias) if is_wide else (matrix @ first, first.T, layer.bias)


def _responses(model: VGG, names: Sequence[str], batches: Iterable[Tensor]) -> dict[str, Responses]:
    """Of these layers of the head to images."""
    fast = accel.accelerate(copy.deepcopy(model)).eval().requires_grad_(False)
    seen: dict[str, Tensor] = {}
    for name in names:
        fast.head.get_submodule(name).register_forward_hook(
            lambda layer, given, output, name=name: seen.update({name: output})
        )
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    count = 0
    for images in batches:
        maps = fast.features(images)
        with torch.enable_grad():
            outputs = fast.head(maps.requires_grad_()).flatten(1)
            turns = torch.arange(count, count + len(images)) % outputs.shape[1]
            gradients = torch.autograd.grad(outputs.gather(1, turns[:, None]).sum(), [seen[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            found[name].append((seen[name].detach().flatten(0, -2), gradient.flatten(0, -2)))
        count += len(images)
    return {name: Responses(*map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}


def _factors_of_responses(
    layer: nn.Linear, responses: Responses, energy: float | None, rank: int | None
) -> Factors | None:
    """The factors whose outputs change those of the network least, None if they have no fewer numbers."""
    outputs, gradients, matrix = responses.outputs.double(), responses.gradients.double(), layer.weight.double()
    mean = outputs.mean(0)
    metric = gradients.T @ gradients / len(gradients)
    metric.diagonal().add_(LEAST_SENSITIVITY * metric.diagonal().mean())
    sensitivities, axes = torch.linalg.eigh(metric)
    root, inverse = ((axes * sensitivities**power) @ axes.T for power in (0.5, -0.5))
    covariance = (outputs - mean).T @ (outputs - mean)
    squares, components = torch.linalg.eigh(root @ covariance @ root)
    first = _first(components.flip(1), squares.flip(0).clamp(min=0), matrix, energy, rank)
    if first is None:
        return None
    expand, reduce = inverse @ first, first.T @ root
    return expand, reduce @ matrix, mean + expand @ (reduce @ (layer.bias.double() - mean))


def _first(vectors: Tensor, squares: Tensor, weight: Tensor, energy: float | None, rank: int | None) -> Tensor | None:
    """As many of the vectors, (n, k), as `energy` or `rank` says; None if two factors would have no fewer numbers."""
    if energy is not None:
        rank = 1 + int((squares.cumsum(0) < energy * squares.sum()).sum())
    first = vectors[:, :rank]
    return None if first.shape[1] * sum(weight.shape) >= weight.numel() else first
