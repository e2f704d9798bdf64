"""Random crops and flips of a batch, on whole tensors (no per-image Python)."""

from __future__ import annotations

import torch

PADDING_PIXELS = 4


def pad_images(pixels: torch.Tensor, padding: int = PADDING_PIXELS) -> torch.Tensor:
    """Surround every image with black.

    pixels: ``uint8[N, 3, H, W]``. Returns ``uint8[N, 3, H + 2*padding, W + 2*padding]``.
    """
    return torch.nn.functional.pad(pixels, (padding,) * 4)


def augment_batch(padded: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Crop every image at its own random place and mirror half of them.

    padded: ``uint8[N, 3, H, W]`` with ``H, W >= side``. Returns ``uint8[N, 3, side, side]``. Deterministic for a given
    generator state. Raises ``ValueError`` if the images are smaller than ``side``.
    """
    count, _, height, width = padded.shape
    if height < side or width < side:
        raise ValueError(f"cannot crop {side}x{side} from {height}x{width}")
    top = torch.randint(height - side + 1, (count, 1), generator=generator)
    left = torch.randint(width - side + 1, (count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    offsets = torch.arange(side).expand(count, side)
    rows = top + offsets
    columns = left + torch.where(mirrored, offsets.flip(1), offsets)
    images = torch.arange(count)[:, None, None, None]
    channels = torch.arange(padded.shape[1])[None, :, None, None]
    return padded[images, channels, rows[:, None, :, None], columns[:, None, None, :]]
