"""How the gradient shrinks or grows with depth before the first step, and a residual twin of a VGG."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.models.vgg import VGG


class Residual(nn.Sequential):
    """relu(x + branch(x)) (He et al., arXiv:1512.03385), the layers inside being the branch."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        branch: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return F.relu(x + branch)


def add_skips(network: VGG) -> VGG:
    """Put an identity skip around each convolution that keeps the number of channels, with its batch norm, if any.

    The network itself, with the same parameters; the ReLU follows the sum. Convolutions that change the number of
    channels, and pools, stay as they are.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    branch: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in network.features.named_children():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == layer.out_channels:
            branch = OrderedDict({name: layer})
        elif branch and isinstance(layer, nn.ReLU):
            layers[name.replace("relu", "residual")] = Residual(branch)
            branch = OrderedDict()
        elif branch:
            branch[name] = layer
        else:
            layers[name] = layer
    network.features = nn.Sequential(layers)
    return network


def gradient_norms(network: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """L2 norm of the mean cross-entropy's gradient for the kernels of each convolution, from the input on.

    Images (N, C, H, W), labels (N,). The network is left in training mode, without gradients of its own.
    """
    kernels = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    loss = F.cross_entropy(network.train()(images), labels)
    return [gradient.norm().item() for gradient in torch.autograd.grad(loss, kernels)]
