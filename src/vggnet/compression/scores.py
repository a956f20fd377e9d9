"""How much each channel of a convolution counts: what pruning ranks channels by."""

from collections.abc import Iterable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vggnet.compression.shrink_options import Criterion
from vggnet.errors import ConfigError
from vggnet.models.table1 import resolve
from vggnet.models.vgg import VGG
from vggnet.tasks.task import Targets, Task
from vggnet.weights.checkpoint import frozen

FROM_IMAGES = ("taylor", "chip")  # the others are functions of the weights
Scores = list[Tensor]  # for each convolution float64 (channels,)


@torch.no_grad()
def weight_scores(model: VGG, criterion: Criterion) -> Scores:
    """Scores that are functions of the weights, with a mean of 1 in each layer.

    Args:
        model: the network.
        criterion: "l1" or "l2", that norm of a channel's filter; "bn", the absolute scale of its batch norm.

    Raises:
        ConfigError: an unknown criterion, or one that needs batch norm or images.

    Source: Li et al. (ICLR 2017, arXiv:1608.08710) for the norms, Liu et al. (ICCV 2017, arXiv:1708.06519) for "bn".

    Example:
        >>> from vggnet.models.vgg import build
        >>> [len(scores) for scores in weight_scores(build("vgg11", num_classes=2, head="gap", width=0.1), "l2")]
        [6, 13, 26, 26, 51, 51, 51, 51]
    """
    if criterion not in get_args(Criterion) or criterion in FROM_IMAGES:
        raise ConfigError(f"unknown criterion {criterion!r}. Those of weights are l1, l2, bn.")
    if criterion == "bn" and not resolve(model.architecture.name).batch_norm:
        raise ConfigError(
            f'the criterion "bn" needs batch norm, but {model.architecture.name} has none (or no longer, after fold). '
            'Prune before fold, or take the criterion "l2".'
        )
    kind = nn.BatchNorm2d if criterion == "bn" else nn.Conv2d
    weights = [layer.weight.double() for layer in model.features if isinstance(layer, kind)]
    power = 2 if criterion == "l2" else 1
    return [_relative(weight.reshape(len(weight), -1).norm(power, dim=1)) for weight in weights]


def taylor_scores(model: VGG, batches: Iterable[tuple[Tensor, Targets]], task: Task) -> Scores:
    """The squared first-order change of the loss if a channel were zero, mean over batches; comparable between layers.

    The parameters of a channel are the scale and shift of its batch norm, without one its filter and bias.

    Args:
        model: the network.
        batches: images, float (n, C, H, W), and their targets; at least one batch.
        task: of the network.

    Source: Molchanov et al. (CVPR 2019, arXiv:1906.10771), equation 8.

    Example:
        >>> from vggnet.models.vgg import build
        >>> from vggnet.tasks import get_task
        >>> model = build("vgg11_bn", num_classes=2, head="gap", width=0.1)
        >>> batch = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
        >>> [len(scores) for scores in taylor_scores(model, [batch], get_task("classify"))]
        [6, 13, 26, 26, 51, 51, 51, 51]
    """
    network = frozen(model).requires_grad_(True)
    kind = nn.BatchNorm2d if resolve(model.architecture.name).batch_norm else nn.Conv2d
    layers: list[Any] = [layer for layer in network.features if isinstance(layer, kind)]
    totals, count = [torch.zeros(len(layer.weight), dtype=torch.float64) for layer in layers], 0
    for images, targets in batches:
        network.zero_grad()
        (task.loss(network(images), targets).minimized / len(images)).backward()  # type: ignore[no-untyped-call]
        for total, layer in zip(totals, layers, strict=True):
            total += (_first_order(layer.weight) + _first_order(layer.bias)).square()
        count += 1
    return [total / count for total in totals]


@torch.no_grad()
def chip_scores(model: VGG, images: Tensor) -> Scores:
    """The independence of each channel's feature maps from the others' of its layer, with a mean of 1 in each layer.

    Of the maps of one image after ReLU, a matrix (channels, pixels), it is the nuclear norm less that of the matrix
    without the channel; the score is the mean over images.

    Args:
        model: the network.
        images: float (n, C, H, W), some dozens.

    Source: Sui et al. (NeurIPS 2021, arXiv:2110.13981), "CHIP", equation 4.

    Example:
        >>> from vggnet.models.vgg import build
        >>> model = build("vgg11", num_classes=2, head="gap", width=0.1)
        >>> [len(scores) for scores in chip_scores(model, torch.randn(2, 3, 32, 32))]
        [6, 13, 26, 26, 51, 51, 51, 51]
    """
    maps, scores = images, []
    for layer in frozen(model).features:
        maps = layer(maps)
        if isinstance(layer, nn.ReLU):
            scores.append(_relative(torch.stack([_independence(matrix.flatten(1)) for matrix in maps]).sum(0)))
    return scores


def _independence(maps: Tensor) -> Tensor:
    """The nuclear norm of (K, D) less that without each of its rows: float64 (K,).

    Singular values are roots of the eigenvalues of the smaller Gram matrix.
    """
    maps = maps.double()
    count, pixels = maps.shape
    if pixels <= count:
        gram = maps.T @ maps
        without = gram - maps[:, :, None] * maps[:, None, :]
    else:
        gram = maps @ maps.T
        without = gram.repeat(count, 1, 1)
        every = torch.arange(count)
        without[every, every, :] = 0
        without[every, :, every] = 0
    roots: Tensor = torch.linalg.eigvalsh(torch.cat([gram[None], without])).clamp(min=0).sqrt().sum(1)
    return roots[0] - roots[1:]


def _first_order(parameter: Any) -> Tensor:
    """Gradient times value, summed over each output: float64 (K,)."""
    product: Tensor = parameter.grad.double() * parameter.detach().double()
    return product.reshape(len(product), -1).sum(1)


def _relative(values: Tensor) -> Tensor:
    """Values of a layer by their mean."""
    return values / values.mean().clamp(min=1e-300)
