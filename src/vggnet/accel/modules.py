"""PyTorch's layers with the forward pass of this engine. `accelerate` makes them, by changing a layer's class."""

import os
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.accel.autotuning import DIRECT
from vggnet.accel.bfloat16_convolution import can_convolve
from vggnet.accel.bfloat16_convolution import convolve as convolve_bfloat16
from vggnet.accel.dispatch import conv3x3, is_recorded, is_supported, is_traced, is_wrapped
from vggnet.accel.fused_inference import convolve, linear
from vggnet.accel.precision import uses_matrix_unit
from vggnet.accel.weight_cache import forget


class CachesWeights(nn.Module):
    """A module that caches what it computes from weights for inference, until they change or the mode is set."""

    def train(self, mode: bool = True) -> Self:
        """As nn.Module; `eval` calls it too."""
        forget(self)
        return super().train(mode)


class Conv3x3(CachesWeights, nn.Conv2d):
    """nn.Conv2d(C, K, 3, padding=1) by `conv3x3`."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        if can_infer(self, input):
            return convolve(self, None, input, relu=False, pool=False)
        return conv3x3(input, self.weight, self.bias)


class DilatedConv3x3(Conv3x3):
    """nn.Conv2d(C, K, 3, padding=d, dilation=d): a 3x3 convolution without dilation of d x d smaller images.

    The taps of a dilated convolution are d pixels apart, so that each pixel meets only those whose row and column
    differ from its own by multiples of d. These make an image of their own. In bfloat16 there are kernels for it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        if is_traced() or not is_plain(input) or not is_supported(input, self.weight, self.bias):
            return nn.Conv2d.forward(self, input)
        if self.dilation[0] == self.dilation[1] and can_convolve(self, input):
            return convolve_bfloat16(self, input, is_fixed=is_fixed(self, input))
        (rows, columns), (n, channels, height, width) = self.dilation, input.shape
        padded = F.pad(input, (0, -width % columns, 0, -height % rows)).permute(0, 2, 3, 1)
        high, wide = padded.shape[1] // rows, padded.shape[2] // columns
        parts = padded.reshape(n, high, rows, wide, columns, channels).permute(0, 2, 4, 1, 3, 5)
        small = super().forward(parts.reshape(n * rows * columns, high, wide, channels).permute(0, 3, 1, 2))
        parts = small.permute(0, 2, 3, 1).reshape(n, rows, columns, high, wide, self.out_channels)
        whole = parts.permute(0, 3, 1, 4, 2, 5).reshape(n, high * rows, wide * columns, self.out_channels)
        return whole[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


class OtherConv2d(nn.Conv2d):
    """nn.Conv2d of any other kind: by PyTorch, in a training in bfloat16 of rounded tensors, as by autocast.

    PyTorch's own switch rounds within its convolution, whose gradients then take longer than in float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W')."""
        plain = type(input) is Tensor and is_plain(input) and self.weight.dtype == torch.float32
        if not (plain and self.training and not is_traced() and uses_matrix_unit()):
            return super().forward(input)
        bias = None if self.bias is None else self.bias.bfloat16()
        result: Tensor = self._conv_forward(input.bfloat16(), self.weight.bfloat16(), bias).float()
        return result


class PointwiseConv2d(CachesWeights, OtherConv2d):
    """nn.Conv2d(C, K, 1): in bfloat16 by kernels of ours, else as any other."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        if is_plain(input) and input.ndim == 4 and can_convolve(self, input):
            return convolve_bfloat16(self, input, is_fixed=is_fixed(self, input))
        return OtherConv2d.forward(self, input)


class LargeLinear(CachesWeights, nn.Linear):
    """nn.Linear that uses float16 weights for inference where that is faster."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        fits = is_plain(input) and input.ndim == 2 and self.weight.dtype == torch.float32
        if fits and is_fixed(self, input) and not is_recorded(input):
            return linear(self, input)
        return super().forward(input)


def can_infer(conv: Conv3x3, x: Tensor) -> bool:
    """Whether `fused_inference.convolve` can do the convolution of x."""
    return is_plain(x) and is_supported(x, conv.weight, conv.bias) and is_fixed(conv, x)


def is_plain(x: Tensor) -> bool:
    """Whether the engine can work on x (float32 on a CPU, not empty), and is not switched off."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not is_wrapped(x)
        and not torch.is_autocast_enabled("cpu")
        and os.environ.get("VGGNET_CONV") != DIRECT
    )


def is_fixed(layer: nn.Module, x: Tensor) -> bool:
    """Whether the layer is in eval mode, gets no gradients, is not traced or compiled, and PyTorch counts its changes.

    It gets none if none are recorded, or if its parameters require none, as those of a frozen network.
    """
    return (
        not layer.training
        and type(x) is Tensor
        and not is_traced()
        and all(
            type(p) is nn.Parameter and not p.is_inference() and not is_recorded(p)
            for p in layer.parameters(recurse=False)
        )
    )
