"""How photographs become frames: size, crop, channel order, mean and scale, as a record that travels with a network.

As JSON, the form in which model files and programs carry it, a record is an object with some of these keys:

=========  =============================================================================================
``resize``  shorter side in pixels that an image is scaled to before its centre is cut out; without it, an
            image is scaled until it just covers the input
``stretch`` true: scaled to the input's size, whatever its proportions
``order``   ``RGB`` (the default), ``BGR`` or ``L`` (grey)
``mean``    subtracted from every pixel, one or one a channel, in the input's channel order (default 0)
``scale``   then multiplied, one or one a channel (default 1)
=========  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emberline.errors import ImageError
from emberline.model.graph import FeatureMap, Quantisation

ORDERS = {"RGB": 3, "BGR": 3, "L": 1}
_KEYS = ("resize", "stretch", "order", "mean", "scale")


@dataclass(frozen=True)
class Preprocessing:
    """``real = (pixel - mean) * scale`` of an image of the input's size. The fields are the keys above."""

    order: str = "RGB"
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    resize: int | None = None
    stretch: bool = False

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ImageError(f"order must be one of {', '.join(ORDERS)}, not '{self.order}'")
        for name in ("mean", "scale"):
            values = getattr(self, name)
            if len(values) not in (1, self.channels) or not np.isfinite(values).all():
                raise ImageError(f"{name} must be 1 or {self.channels} finite numbers, not {values}")
        if 0 in self.scale:
            raise ImageError(f"scale must not be 0: {self.scale}")
        if self.resize is not None and not 1 <= self.resize <= 1 << 14:
            raise ImageError(f"resize must be in 1..16384, not {self.resize}")
        if self.stretch and self.resize is not None:
            raise ImageError("resize and stretch exclude each other")

    @property
    def channels(self) -> int:
        return ORDERS[self.order]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Preprocessing:
        """From the JSON form. Raises ``ImageError`` for unknown keys or impossible values."""
        unknown = sorted(set(record) - set(_KEYS))
        if unknown:
            raise ImageError(f"preprocessing has the unknown key '{unknown[0]}'; there are {', '.join(_KEYS)}")
        try:
            return cls(
                order=str(record.get("order", "RGB")).upper(),
                mean=_numbers(record.get("mean", 0.0)),
                scale=_numbers(record.get("scale", 1.0)),
                resize=None if record.get("resize") is None else int(record["resize"]),
                stretch=bool(record.get("stretch", False)),
            )
        except (TypeError, ValueError) as error:
            raise ImageError(f"preprocessing {dict(record)}: {error}") from error

    @classmethod
    def from_text(cls, text: str) -> Preprocessing:
        """From ``key=value`` pairs with commas between, ``/`` between the channels' numbers.

        For example ``resize=256,order=BGR,mean=104/117/123``. Raises ``ImageError``.
        """
        record: dict[str, Any] = {}
        for pair in filter(None, text.split(",")):
            key, separator, value = (part.strip() for part in pair.partition("="))
            if not separator or not value:
                raise ImageError(f"preprocessing takes key=value pairs, not '{pair}'")
            if key in ("mean", "scale"):
                record[key] = value.split("/")
            elif key == "stretch":
                record[key] = value.lower() in ("1", "true", "yes")
            else:
                record[key] = value
        return cls.from_json(record)

    def to_json(self) -> dict[str, Any]:
        """The JSON form, which ``from_json`` reads."""
        record: dict[str, Any] = {"order": self.order, "mean": list(self.mean), "scale": list(self.scale)}
        if self.resize is not None:
            record["resize"] = self.resize
        if self.stretch:
            record["stretch"] = True
        return record

    def fit(self, image: Image.Image, height: int, width: int) -> Image.Image:
        """The image in the input's size: scaled bilinearly, antialiased, its centre cut out."""
        size = (width, height)
        if self.stretch:
            return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
        if self.resize is None:
            return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BILINEAR)
        if self.resize < max(size):
            raise ImageError(f"resize={self.resize} is smaller than the input, {height}x{width}")
        factor = self.resize / min(image.size)
        scaled = (max(round(image.width * factor), width), max(round(image.height * factor), height))
        if scaled != image.size:
            image = image.resize(scaled, Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def to_real(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Real values of uint8 pixels ``[..., C]`` in the order RGB or grey."""
        if pixels.shape[-1] != self.channels:
            raise ImageError(f"order {self.order} is for {self.channels} channels, not {pixels.shape[-1]}")
        ordered = pixels[..., ::-1] if self.order == "BGR" else pixels
        real: NDArray[np.float32] = (ordered.astype(np.float32) - np.asarray(self.mean, np.float32)) * np.asarray(
            self.scale, np.float32
        )
        return real

    def to_codes(self, pixels: NDArray[np.uint8], quantisation: Quantisation) -> NDArray[np.int8]:
        """int8 codes of uint8 pixels: real values, quantised, rounded to nearest, saturated."""
        return quantise_real(self.to_real(pixels), quantisation)

    def check(self, target: FeatureMap) -> None:
        """Raise ``ImageError`` where the order does not fit a network's input."""
        if target.channels != self.channels:
            raise ImageError(
                f"order {self.order} is for {self.channels} channels, but input '{target.name}' has {target.channels}"
            )


def quantise_real(real: NDArray[np.floating[Any]], quantisation: Quantisation) -> NDArray[np.int8]:
    """The int8 codes of real values, rounded to nearest, halves to even, as ONNX's QuantizeLinear does."""
    steps = np.rint(real.astype(np.float32) / np.float32(quantisation.scale)) + np.float32(quantisation.zero_point)
    codes: NDArray[np.int8] = np.clip(steps, -128, 127).astype(np.int8)
    return codes


def _numbers(value: Any) -> tuple[float, ...]:
    if isinstance(value, str | int | float):
        return (float(value),)
    return tuple(float(each) for each in value)
