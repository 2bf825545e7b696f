"""Readers: how the bytes of one field become a tensor. One class per kind of content.

Nothing is guessed from file names and nothing is ever unpickled: a modality is read by the reader named in
the configuration, and by no other.
"""

from __future__ import annotations

import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
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
from datamodules.shards import BadSample
from datamodules.windows import Window
from mmmask.errors import UserError, nearest

LARGEST = 4.0  # area that a random crop may have, as a share of that of the largest square in the image
PICKLES = ("pkl", "pickle", "pyd", "pth", "pt")
Batch = Sequence[Any]


class Reader(ABC):
    """Turns the bytes of `field` into a value, and a list of values into what the batch holds."""

    def __init__(self, field: str) -> None:
        if field.rpartition(".")[2] in PICKLES:
            raise UserError(f"field '{field}' holds a pickle, which can run code: it is never read. Store npy or json.")
        self.field = field

    @property
    def draws(self) -> bool:
        """Whether reading is random."""
        return False

    def steady(self) -> Reader:
        """The reader for evaluation: the same without randomness."""
        return self

    def through(self, window: Window) -> Reader:
        """The reader that sees only this part of an image."""
        raise UserError(f"field '{self.field}' is read by {type(self).__name__}, which has no crops: ask for one only.")

    @abstractmethod
    def read(self, content: bytes, rng: np.random.Generator) -> Any:
        """Bytes -> value. Randomness comes from `rng` alone, which begins alike for all readers of a sample; bad
        content raises `BadSample` or ValueError."""

    @abstractmethod
    def absent(self, like: Any) -> Any:
        """What stands in the batch for a sample without this modality (it is marked absent as well)."""

    def collate(self, values: Batch) -> Any:
        """Values -> what the batch holds."""
        return torch.from_numpy(np.stack(values)).contiguous()


class Image(Reader):
    """An image, cropped and scaled to `size` x `size`: uint8 (channels, size, size).

    `crop` is `random` (a part of `scale` of the area, any place; above 1 there is white around), `centre` (the largest
    square), or `none` (the image must have that size). `jitter` is how far brightness, contrast, saturation and, a
    quarter as far, hue are changed by chance, `grey` the share of images that lose their colour. Evaluation has nothing
    of chance; all images of a sample are cropped and flipped alike. JPEGs are decoded at the smallest sufficient of
    their 1/2, 1/4, 1/8 scales.
    """

    def __init__(
        self,
        field: str = "jpg",
        size: int = 64,
        channels: Literal[1, 3, 4] = 3,
        crop: Literal["random", "centre", "none"] = "centre",
        scale: tuple[float, float] = (0.3, 1.0),
        flip: bool = False,
        resample: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        jitter: float = 0.0,
        grey: float = 0.0,
        max_pixels: int = 64_000_000,
    ) -> None:
        super().__init__(field)
        if not 0 <= jitter <= 1 or not 0 <= grey <= 1 or (channels != 3 and (jitter or grey)):
            raise UserError(f"Image: jitter ({jitter}) and grey ({grey}) are 0 to 1, and of images of 3 channels.")
        if size < 1 or not 0 < scale[0] <= scale[1] <= LARGEST:
            raise UserError(
                f"Image: size ({size}) must be positive and 0 < scale[0] <= scale[1] <= {LARGEST}, got {scale}."
            )
        self.size, self.channels, self.crop, self.scale, self.flip = size, channels, crop, scale, flip
        self.resample = "nearest-exact" if resample == "nearest" else resample
        self._smooth = {} if resample == "nearest" else {"antialias": True}
        self.jitter, self.grey = jitter, grey
        self.max_pixels = max_pixels
        self.window: Window | None = None

    @property
    def draws(self) -> bool:
        """Random crops, flips and colours are."""
        return self.flip or self.crop == "random" or bool(self.jitter or self.grey)

    @property
    def cropping(self) -> tuple[Any, ...]:
        """What crops and flips are drawn from; images with the same are seen alike."""
        return self.crop, self.flip, self.scale if self.crop == "random" else None

    def steady(self) -> Image:
        """Centre crops in place of random ones, no flips, and the colours that are there."""
        steady = copy(self)
        steady.jitter = steady.grey = 0.0
        steady.crop, steady.flip = "centre" if self.crop == "random" else self.crop, False
        return steady

    def through(self, window: Window) -> Image:
        """This part in place of what `crop` says."""
        cropped = self.steady()
        cropped.window, cropped.flip = window, False
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
        if self.crop == "none" and (image.width, image.height) != (self.size, self.size) and not self.window:
            raise BadSample(
                f"image of {image.width}x{image.height} pixels where {self.size}x{self.size} was asked (crop: none)"
            )
        window = self.window or self._window(rng)
        whole = window.box(image.width, image.height)
        left, top, right, bottom = box = self._draft(image, whole) if image.format == "JPEG" else whole
        if image.format == "JPEG" and image.mode == "RGB" and self.channels == 3 and box == whole:
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

    def _window(self, rng: np.random.Generator) -> Window:
        """The part of the image that is used."""
        if not self.draws:
            return Window()
        drawn = Window.drawn(rng, self.scale)
        flip = self.flip and drawn.flip
        return replace(drawn, flip=flip) if self.crop == "random" else Window(flip=flip)

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
    around = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
    inside = pixels[:, max(0, top) : bottom, max(0, left) : right]
    return F.pad(inside, around, value=255) if any(around) else inside


def _with_channels(image: Any, channels: int) -> Any:
    """Convert the mode; transparency is laid on white when no alpha channel is asked for."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if image.mode == mode:
        return image
    image = on_white(image) if channels < 4 and see_through(image) else with_8_bits(image)
    return image.convert(mode)


class Array(Reader):
    """An .npy array: tokens, depth, features. Integers come as int64, floats as they are stored.

    With `vocab_size` every id is checked to lie in `0..vocab_size-1`.
    """

    def __init__(self, field: str = "npy", vocab_size: int | None = None) -> None:
        super().__init__(field)
        self.vocab_size = vocab_size
        self._headers: dict[bytes, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def read(self, content: bytes, rng: np.random.Generator) -> np.ndarray:
        """A view of the bytes; the header of equal arrays is parsed once."""
        start = 10 + int.from_bytes(content[8:10], "little")
        header = content[:start]
        if header not in self._headers:
            self._headers[header] = _parse_header(content)
        dtype, shape = self._headers[header]
        if len(content) - start != dtype.itemsize * math.prod(shape):
            raise BadSample(f"array of {len(content) - start} bytes where {shape} of {dtype} was announced")
        array = np.frombuffer(content, dtype, offset=start).reshape(shape)
        if self.vocab_size is not None:
            self._check_ids(array)
        return array

    def _check_ids(self, ids: np.ndarray) -> None:
        low = int(ids.min()) if ids.dtype.kind == "i" else 0
        if low < 0 or ids.max() >= self.vocab_size:
            wrong = low if low < 0 else int(ids.max())
            raise BadSample(f"token id {wrong} lies outside the vocabulary 0..{self.vocab_size} (excluded)")

    def absent(self, like: Any) -> np.ndarray:
        """-1 for ids, NaN for numbers: neither can be mistaken for data."""
        if like is None:
            raise BadSample(f"no sample of the batch has '{self.field}', so its shape is unknown")
        if like.dtype.kind not in "iuf":
            return np.zeros_like(like)  # nothing else can be told apart: ask `present`
        if like.dtype.kind in "iu":
            return np.full(like.shape, -1, dtype=np.int64)
        return np.full(like.shape, np.nan, dtype=like.dtype)

    def collate(self, values: Batch) -> torch.Tensor:
        """Stack arrays of one shape."""
        if len({value.shape for value in values}) > 1:
            shapes = sorted({value.shape for value in values})
            raise UserError(f"field '{self.field}': arrays of different shapes in one batch: {shapes}.")
        if values[0].dtype.kind in "iu":
            return torch.from_numpy(np.stack(values, dtype=np.int64, casting="unsafe"))
        return torch.from_numpy(np.stack(values))


def _parse_header(content: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise BadSample(f"npy format {version}; write version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise BadSample("array of Python objects (a pickle): never read")
    if dtype.kind not in "iufb":
        raise BadSample(f"array of {dtype}: only numbers can be read")
    if fortran and len(shape) > 1:
        raise BadSample("array in Fortran order; store it with numpy.ascontiguousarray")
    return dtype, shape


class Text(Reader):
    """UTF-8 text: a list of strings in the batch. `part` picks an entry of a JSON record.

    Training sees a run of its words, whose share is drawn from `span`, and of these each is left out with the chance
    `drop`; one word is always left. Evaluation sees all.
    """

    def __init__(
        self,
        field: str = "txt",
        part: str | None = None,
        allow_empty: bool = False,
        drop: float = 0.0,
        span: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(field)
        if not 0 <= drop < 1 or not 0 < span[0] <= span[1] <= 1:
            raise UserError(
                f"Text: drop is a chance from 0 to below 1, span two shares of the words, above 0, at most 1; they are "
                f"{drop} and {list(span)}."
            )
        self.part, self.allow_empty, self.drop, self.span = part, allow_empty, drop, span

    @property
    def draws(self) -> bool:
        """Which words are seen is."""
        return self.drop > 0 or self.span[0] < 1

    def steady(self) -> Text:
        """All words."""
        steady = copy(self)
        steady.drop, steady.span = 0.0, (1.0, 1.0)
        return steady

    def read(self, content: bytes, rng: np.random.Generator) -> str:
        """Decode; empty text is a bad sample unless allowed."""
        found = content.decode() if self.part is None else json_part(content, self.part)
        text = "" if found is None else str(found).strip()
        if not text and not self.allow_empty:
            raise BadSample("empty text")
        return self._some(text.split(), rng) if text and self.draws else text

    def _some(self, words: list[str], rng: np.random.Generator) -> str:
        """Those that training sees this time."""
        length = max(1, round(len(words) * rng.uniform(*self.span)))
        first = int(rng.integers(len(words) - length + 1))
        run = words[first : first + length]
        kept = [word for word, drawn in zip(run, rng.random(length), strict=True) if drawn >= self.drop]
        return " ".join(kept or [run[int(rng.integers(length))]])

    def absent(self, like: Any) -> str:
        """The empty string."""
        return ""

    def collate(self, values: Batch) -> list[str]:
        """A list of strings."""
        return list(values)


class Label(Reader):
    """A class index: a long tensor in the batch, -1 where there is none. `part` picks an entry of a JSON record.

    `numbers` says which index a name stands for, where classes have names: several may share one, -1 is no class.
    """

    def __init__(
        self,
        field: str = "cls",
        part: str | None = None,
        num_classes: int | None = None,
        numbers: dict[str, int] | None = None,
    ) -> None:
        super().__init__(field)
        self.part, self.num_classes, self.numbers = part, num_classes, numbers

    def read(self, content: bytes, rng: np.random.Generator) -> int:
        """Parse; null means no label."""
        value = content.decode() if self.part is None else json_part(content, self.part)
        if self.numbers is not None and value is not None:
            value = self._number(str(value).strip())
        label = -1 if value is None else int(value)
        if isinstance(value, float) and value != label:
            raise BadSample(f"label {value} is not a whole number")
        if not -(2**63) <= label < 2**63:
            raise BadSample(f"label {label} has more than 64 bits")
        if self.num_classes is not None and label >= self.num_classes:
            raise BadSample(f"label {label} where there are {self.num_classes} classes")
        return label

    def _number(self, name: str) -> int:
        assert self.numbers is not None
        if name not in self.numbers:
            raise BadSample(
                f"there is no number for '{name}', only for {', '.join(self.numbers)}.{nearest(name, self.numbers)}"
            )
        return self.numbers[name]

    def absent(self, like: Any) -> int:
        """No label."""
        return -1

    def collate(self, values: Batch) -> torch.Tensor:
        """(B,) int64."""
        return torch.tensor(values, dtype=torch.int64)


def json_part(content: bytes, part: str) -> Any:
    """An entry of a JSON record."""
    record = json.loads(content)
    if not isinstance(record, dict) or part not in record:
        raise BadSample(f"the JSON record has no '{part}'")
    return record[part]
