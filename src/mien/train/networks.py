"""Networks, sized for one CPU core: small U-Nets on unshuffled pixels, and the discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(a: int, b: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, stride, 1)


class Block(nn.Module):
    """Residual block without normalisation, which would make a frame's light depend on itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = _conv(width, width), _conv(width, width)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, width, h, w)`` to the same."""
        return x + cast(Tensor, self.two(functional.relu(self.one(functional.relu(x)))))


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015) on 2×2 unshuffled pixels: 64² holds all of a 128² crop.

    Args:
        inputs: Channels of the crop.
        outputs: Channels of the result, at the crop's size.
        widths: Channels of each level, finest first; the finest has no block, since at 64² it
            would cost as much as all others together.
        deep: Residual blocks of the coarsest level.
    """

    def __init__(
        self, inputs: int, outputs: int, widths: Sequence[int] = (16, 48, 64, 96), deep: int = 2
    ) -> None:
        super().__init__()
        self.stem = _conv(inputs * 4, widths[0])
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(_conv(a, b, 2) for a, b in pairs)
        self.fine = nn.ModuleList([nn.Identity(), *(Block(w) for w in widths[1:-1])])
        self.coarse = nn.Sequential(*(Block(widths[-1]) for _ in range(deep)))
        self.up = nn.ModuleList(_conv(b + a, a) for a, b in reversed(pairs))
        self.head = _conv(widths[0], outputs * 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(cast(Tensor, self.head.bias))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, 128, 128)`` to ``(N, outputs, 128, 128)``."""
        x = self.stem(functional.pixel_unshuffle(x, 2))
        kept = []
        for block, down in zip(self.fine, self.down, strict=True):
            x = block(x)
            kept.append(x)
            x = down(functional.relu(x))
        x = self.coarse(x)
        for up in self.up:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = functional.relu(up(torch.cat([x, kept.pop()], 1)))
        return functional.pixel_shuffle(self.head(x), 2)


GAIN = 0.7
"""Bound of the logarithm of the gain."""

BIAS = 0.25
"""Bound of what is added, in parts of white."""


class Relight(nn.Module):
    """Predicts a change of colour for every pixel of a portrait, not the face itself.

    Args:
        inputs: Channels of :func:`mien.generate.relight.look`.
        widths: Of the U-Net.
    """

    def __init__(self, inputs: int, widths: Sequence[int] = (16, 48, 64, 96)) -> None:
        super().__init__()
        self.unet = UNet(inputs, 6, widths)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, inputs, 128, 128)`` to the gain and the bias, ``(N, 3, 128, 128)`` each."""
        raw = self.unet(x)
        # A gain that is smooth leaves the portrait's detail as it is, at any resolution.
        smooth = functional.avg_pool2d(raw[:, :3], 5, 1, 2, count_include_pad=False)
        return torch.exp(GAIN * torch.tanh(smooth)), BIAS * torch.tanh(raw[:, 3:])


class Discriminator(nn.Module):
    """Judges patches of 34 pixels (Isola et al., 2017) of a crop."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            norm(nn.Conv2d(3, width, 4, 2, 1)), nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width, 2 * width, 4, 2, 1)), nn.LeakyReLU(0.2),
            norm(nn.Conv2d(2 * width, 4 * width, 4, 2, 1)), nn.LeakyReLU(0.2),
            norm(nn.Conv2d(4 * width, 1, 3, 1, 1)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, 128, 128)`` to ``(N, 1, 16, 16)``, larger for what looks real."""
        return cast(Tensor, self.layers(x))
