"""``ember_cifar10``: fire modules for 32x32 images, shaped for an accelerator of 16 x 8 lanes.

After ZynqNet (D. Gschwend, "ZynqNet: An FPGA-Accelerated Embedded Convolutional Neural Network", 2016) and SqueezeNet
(F. Iandola et al., arXiv:1602.07360): only 1x1 and 3x3 convolutions, downsampling by strided 3x3 convolutions, no
maximum pool, no fully connected layer. All channel counts are multiples of 16 (one feature map word) and every 1x1
convolution reads at least 32 channels. Equal-shape fire modules have a bypass around them.
"""

from __future__ import annotations

import torch
from torch import nn


class ConvNorm(nn.Module):
    """A convolution without bias and its batch normalisation; ReLU if ``relu``. Padding keeps the size at stride 1.

    ``float[N, in_channels, H, W]`` -> ``float[N, out_channels, ceil(H/stride), ceil(W/stride)]``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        if kernel not in (1, 3):
            raise ValueError(f"kernel must be 1 or 3, not {kernel}")
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = relu
        self.kernel, self.stride = kernel, stride

    def pads(self, side: int) -> tuple[int, int]:
        """Zeros before and after, for an input ``side`` pixels wide: the rule called SAME, larger half after."""
        total = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
        return total // 2, total - total // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before, after = self.pads(x.shape[-1])
        if before == after:
            y = nn.functional.conv2d(x, self.conv.weight, None, self.stride, before)
        else:
            # Symmetric padding reads one row more than SAME does: shift the grid by cutting that row off again.
            y = nn.functional.conv2d(
                nn.functional.pad(x, (before, after, before, after)), self.conv.weight, None, self.stride
            )
        y = self.norm(y)
        return nn.functional.relu(y) if self.relu else y


class Fire(nn.Module):
    """1x1 squeeze, then 1x1 and 3x3 expand side by side, concatenated; with ``bypass``, the input is added before ReLU.

    ``float[N, in_channels, H, W]`` -> ``float[N, expand1 + expand3, H, W]``.
    """

    def __init__(self, in_channels: int, squeeze: int, expand1: int, expand3: int, bypass: bool) -> None:
        super().__init__()
        if bypass and in_channels != expand1 + expand3:
            raise ValueError(f"a bypass needs {in_channels} output channels, not {expand1 + expand3}")
        self.squeeze = ConvNorm(in_channels, squeeze, 1)
        self.expand1 = ConvNorm(squeeze, expand1, 1, relu=not bypass)
        self.expand3 = ConvNorm(squeeze, expand3, 3, relu=not bypass)
        self.bypass = bypass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.squeeze(x)
        y = torch.cat((self.expand1(s), self.expand3(s)), 1)
        return nn.functional.relu(y + x) if self.bypass else y


class EmberCifar10(nn.Module):
    """The classifier: ``float[N, 3, 32, 32]`` of pixel/255 (zero padding, no mean subtracted) -> logits ``[N, 10]``."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 16, 3)  # 32x32
        self.conv2 = ConvNorm(16, 16, 3)
        self.conv3 = ConvNorm(16, 32, 3, stride=2)  # 16x16
        self.fire4 = Fire(32, 32, 32, 32, bypass=False)
        self.fire5 = Fire(64, 32, 32, 32, bypass=True)
        self.squeeze6 = ConvNorm(64, 32, 1)
        self.conv6 = ConvNorm(32, 64, 3, stride=2)  # 8x8
        self.fire7 = Fire(64, 32, 64, 32, bypass=False)
        self.fire8 = Fire(96, 32, 64, 32, bypass=True)
        self.conv9 = nn.Conv2d(96, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fire5(self.fire4(self.conv3(self.conv2(self.conv1(x)))))
        x = self.fire8(self.fire7(self.conv6(self.squeeze6(x))))
        return self.conv9(x).mean((2, 3))
