"""A reader of images: decoded, cropped, scaled, and in training changed by chance."""

from __future__ import annotations

import io
from copy import copy
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Pillow
from torchvision.io import decode_jpeg
from torchvision.transforms.v2.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    rgb_to_grayscale,
)

from datamodules.pictures import on_white, see_through, with_8_bits
from datamodules.readers import Reader
from datamodules.shards import BadSample
from datamodules.windows import AREA, Crop, Cropping, Window
from mmmask.errors import UserError


class Image(Reader):
    """An image, cropped and scaled to `size` x `size`: uint8 (channels, size, size).

    `pad`, `crop`, `scale` and `flip` say what part of it is seen (`Cropping`); with `crop: none` the image must have
    that size. `jitter` is how far brightness, contrast, saturation and, a quarter as far, hue are changed by chance,
    `grey` the share of images that lose their colour. Evaluation has nothing of chance. JPEGs are decoded at the
    smallest sufficient of their 1/2, 1/4, 1/8 scales.
    """

    cropping: Cropping

    def __init__(
        self,
        field: str = "jpg",
        size: int = 64,
        channels: Literal[1, 3, 4] = 3,
        crop: Crop = "centre",
        scale: tuple[float, float] = AREA,
        flip: bool = False,
        resample: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        jitter: float = 0.0,
        grey: float = 0.0,
        pad: bool = False,
        max_pixels: int = 64_000_000,
    ) -> None:
        super().__init__(field)
        if not 0 <= jitter <= 1 or not 0 <= grey <= 1 or (channels != 3 and (jitter or grey)):
            raise UserError(f"Image: jitter ({jitter}) and grey ({grey}) are 0 to 1, and of images of 3 channels.")
        if size < 1:
            raise UserError(f"Image: size ({size}) must be positive.")
        self.size, self.channels, self.cropping = size, channels, Cropping(crop, scale, flip, pad)
        self.resample = "nearest-exact" if resample == "nearest" else resample
        self._smooth = {} if resample == "nearest" else {"antialias": True}
        self.jitter, self.grey = jitter, grey
        self.max_pixels = max_pixels

    @property
    def draws(self) -> bool:
        """Random crops, flips and colours are."""
        return self.cropping.draws or bool(self.jitter or self.grey)

    def steady(self) -> Image:
        """Centre crops in place of random ones, no flips, and the colours that are there."""
        steady = copy(self)
        steady.jitter = steady.grey = 0.0
        steady.cropping = self.cropping.steady()
        return steady

    def through(self, window: Window) -> Image:
        """This part in place of what `crop` says."""
        cropped = self.steady()
        cropped.cropping = self.cropping.through(window)
        return cropped

    def read(self, content: bytes, rng: np.random.Generator) -> np.ndarray:
        """Decode, crop, scale, perhaps flip."""
        try:
            return self._decode(content, rng)
        except (BadSample, MemoryError):
            raise
        except Exception as error:  # damaged bytes make the decoders raise all kinds
            raise BadSample(f"field '{self.field}' is not a readable image ({error})") from error

    def _decode(self, content: bytes, rng: np.random.Generator) -> np.ndarray:
        image = Pillow.open(io.BytesIO(content))
        if image.width * image.height > self.max_pixels:
            raise BadSample(f"image of {image.width}x{image.height} pixels, more than max_pixels={self.max_pixels}")
        whole = self.cropping.crop == "none" and not self.cropping.window
        if whole and (image.width, image.height) != (self.size, self.size):
            raise BadSample(
                f"image of {image.width}x{image.height} pixels where {self.size}x{self.size} was asked (crop: none)"
            )
        window = self.cropping.drawn(rng)
        seen = self.cropping.box(window, image.width, image.height)
        left, top, right, bottom = box = self._draft(image, seen) if image.format == "JPEG" else seen
        if image.format == "JPEG" and image.mode == "RGB" and self.channels == 3 and box == seen:
            pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))  # Pillow's pixels, but faster
        else:
            pixels = _planes(image, self.channels)
        planes = _part(pixels, left, top, right, bottom)
        if planes.shape[1:] != (self.size, self.size):
            planes = F.interpolate(planes[None], (self.size, self.size), mode=self.resample, **self._smooth)[0]
        if window.flip:
            planes = planes.flip(-1)
        if self.jitter or self.grey:
            planes = _recoloured(planes, self.jitter, self.grey, rng)
        return planes.numpy()

    def _draft(self, image: Any, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Let the JPEG decoder shrink the image while the part used stays at least `size` wide."""
        left, top, right, bottom = box
        shrink = (right - left) // self.size
        if shrink < 2 or min(left, top) < 0 or right > image.width or bottom > image.height:
            return box
        width = image.width
        image.draft(None, (image.width // shrink, image.height // shrink))
        factor = round(width / image.width)
        side = max(1, (right - left) // factor)
        left, top = min(left // factor, image.width - side), min(top // factor, image.height - side)
        return left, top, left + side, top + side

    def absent(self, like: Any) -> np.ndarray:
        """A black image."""
        return np.zeros((self.channels, self.size, self.size), dtype=np.uint8)


def _recoloured(planes: torch.Tensor, jitter: float, grey: float, rng: np.random.Generator) -> torch.Tensor:
    """Colours changed by chance, as SimCLR does: what is alike in two views is then more than their colour."""
    brightness, contrast, saturation, hue = rng.uniform(-jitter, jitter, 4)
    planes = adjust_contrast(adjust_brightness(planes, 1 + brightness), 1 + contrast)
    planes = adjust_hue(adjust_saturation(planes, 1 + saturation), hue / 4)
    return rgb_to_grayscale(planes, 3) if rng.random() < grey else planes


def _planes(image: Any, channels: int) -> torch.Tensor:
    """(channels, H, W)"""
    pixels = torch.from_numpy(np.array(_with_channels(image, channels)))
    return pixels.view(image.height, image.width, channels).permute(2, 0, 1)


def _part(pixels: torch.Tensor, left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    """White where the box lies outside of the image."""
    height, width = pixels.shape[1:]
    if min(left, top) >= 0 and right <= width and bottom <= height:
        return pixels[:, top:bottom, left:right]
    x0, x1, y0, y1 = (
        min(max(0, at), end) for at, end in ((left, width), (right, width), (top, height), (bottom, height))
    )
    white = pixels.new_full((len(pixels), bottom - top, right - left), 255)
    white[:, y0 - top : y1 - top, x0 - left : x1 - left] = pixels[:, y0:y1, x0:x1]
    return white


def _with_channels(image: Any, channels: int) -> Any:
    """Convert the mode; transparency is laid on white when no alpha channel is asked for."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if image.mode == mode:
        return image
    image = on_white(image) if channels < 4 and see_through(image) else with_8_bits(image)
    return image.convert(mode)
