"""Branches beside 3x3 convolutions: trained together, then folded exactly into plain convolutions with bias.

A branch is a convolution with batch norm, or batch norm alone. In eval mode each is linear, and so is their sum: one
3x3 convolution. Sources: ACNet (Ding et al., ICCV 2019, arXiv:1908.03930) and RepVGG (Ding et al., CVPR 2021,
arXiv:2101.03697).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggnet.errors import ConfigError
from vggnet.models.folding import fold_norm
from vggnet.models.initialization import initialize
from vggnet.models.table1 import resolve
from vggnet.models.vgg import VGG, empty

# Height and width of the kernels.
KERNELS: Mapping[str, tuple[tuple[int, int], ...]] = {"acb": ((3, 3), (1, 3), (3, 1)), "repvgg": ((3, 3), (1, 1))}


class BranchedConv(nn.Module):
    """The sum of branches that see the same 3x3 windows: (N, in_channels, H, W) -> (N, out_channels, H, W) at stride 1.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kind: "acb": 3x3, 1x3 and 3x1 convolutions, each with batch norm; "repvgg": 3x3 and 1x1 convolutions, each with
            batch norm, and batch norm alone where input and output have the same shape.
        stride: of all branches.

    Raises:
        ConfigError: there are no such branches.

    Example:
        >>> list(dict(BranchedConv(4, 4, "repvgg").named_children()))
        ['3x3', '1x1', 'identity']
    """

    def __init__(self, in_channels: int, out_channels: int, kind: str, stride: int = 1) -> None:
        super().__init__()
        if kind not in KERNELS:
            raise ConfigError(f"unknown branches {kind!r}. There are {', '.join(KERNELS)}.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        for height, width in KERNELS[kind]:
            padding = (height // 2, width // 2)
            conv = nn.Conv2d(in_channels, out_channels, (height, width), stride, padding=padding, bias=False)
            layers = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels))
            self.add_module(f"{height}x{width}", nn.Sequential(layers))
        if kind == "repvgg" and in_channels == out_channels and stride == 1:
            self.identity = nn.BatchNorm2d(out_channels)
        for norm in self._norms()[1:]:
            norm.bias.requires_grad_(False)  # only their sum counts: several would multiply its learning rate

    def initialize(self, init: str) -> None:
        """Set the weights by a key of `INITIALIZERS`; the sum starts no larger than the output of one branch."""
        initialize(self, init)
        norms = self._norms()
        for norm in norms:
            nn.init.constant_(norm.weight, 1 / len(norms))

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def forward(self, x: Tensor) -> Tensor:
        """The sum of what the branches compute."""
        first, *others = self.children()
        total: Tensor = first(x)
        for branch in others:
            total = total + branch(x)
        return total

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel (out_channels, in_channels, 3, 3) and bias of the one convolution that does the same in eval mode."""
        folded = [self._of_branch(branch) for branch in self.children()]
        kernels, biases = zip(*folded, strict=True)
        return sum(kernels).float(), sum(biases).float()

    def _of_branch(self, branch: nn.Module) -> tuple[Tensor, Tensor]:
        """Those of one branch, in float64."""
        if isinstance(branch, nn.BatchNorm2d):
            identity = torch.eye(self.in_channels, device=branch.weight.device)
            return fold_norm(F.pad(identity[:, :, None, None], (1, 1, 1, 1)), None, branch)
        conv, norm = cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(branch.children()))
        across, down = (3 - conv.weight.shape[3]) // 2, (3 - conv.weight.shape[2]) // 2
        return fold_norm(F.pad(conv.weight, (across, across, down, down)), None, norm)


class BranchedVGG(VGG):
    """A VGG with batch norm whose 3x3 convolutions have branches. `add_branches` makes it.

    A `BranchedConv` has the name of its convolution, features.conv3_2, and includes the batch norm. Other convolutions
    are as they were.
    """

    @torch.no_grad()
    def folded(self) -> VGG:
        """The plain network without batch norm that computes the same as this one in eval mode.

        Batch norm is folded with its running statistics, whatever mode this network is in, and the result is in eval
        mode: it cannot depend on a batch. It is a copy: further training does not change it.
        """
        name = self.architecture.name.removesuffix("_bn")
        plain = empty(replace(self.architecture, name=name))
        layers = dict(self.features.named_children())
        state = {f"head.{name}": tensor.clone() for name, tensor in self.head.state_dict().items()}
        for name, layer in layers.items():
            if isinstance(layer, BranchedConv):
                kernel, bias = layer.folded()
            elif isinstance(layer, nn.Conv2d):
                norm = cast(nn.BatchNorm2d, layers[name.replace("conv", "bn")])
                kernel, bias = (t.float() for t in fold_norm(layer.weight, layer.bias, norm))
            else:
                continue
            state |= {f"features.{name}.weight": kernel, f"features.{name}.bias": bias}
        plain.load_state_dict(state)
        plain.classes, plain.preprocess, plain.task = self.classes, self.preprocess, self.task
        return plain.eval()


def add_branches(model: VGG, kind: str, *, init: str = "he") -> BranchedVGG:
    """Give the 3x3 convolutions of a network branches, with new weights, by changing the network in place.

    Args:
        model: a network with batch norm.
        kind: see `BranchedConv`.
        init: of the branches: a key of `vggnet.models.initialization.INITIALIZERS`.

    Returns:
        `model` itself.

    Raises:
        ConfigError: it has no batch norm, or there are no such branches.

    Example:
        >>> from vggnet.models.vgg import build
        >>> network = add_branches(build("vgg11_bn", num_classes=2, head="gap", width=0.1), "acb")
        >>> network.folded().architecture.name
        'vgg11'
    """
    name = model.architecture.name
    if not resolve(name).batch_norm:
        raise ConfigError(f"{name} has no batch norm, but each branch has its own. Take a network with _bn.")
    for layer, conv in list(model.features.named_children()):
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            branched = BranchedConv(conv.in_channels, conv.out_channels, kind, conv.stride[0]).to(conv.weight.device)
            if not conv.weight.is_meta:
                branched.initialize(init)
            setattr(model.features, layer, branched)
            delattr(model.features, layer.replace("conv", "bn"))
    model.__class__ = BranchedVGG
    return cast(BranchedVGG, model)
