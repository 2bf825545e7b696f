"""ShapesWorld: small procedural scenes of coloured shapes whose modalities are aligned pixel by pixel.

A scene holds one to three flat shapes in front of a tilted wall. Nearer shapes are larger and hide those
behind. The nearest one names the class: its shape and its colour family ("warm circle"). Scene `i` depends
on (seed, split, i, size) and on nothing else, so any part of a set can be made anywhere in any order.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from typing import ClassVar

import numpy as np
from PIL import Image

from datamodules.pack import Sample
from mmmask.errors import UserError

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLORS = {  # name -> sRGB; the first three are the warm family, the others the cool one
    "red": (222, 54, 48),
    "orange": (245, 138, 31),
    "yellow": (250, 212, 50),
    "green": (52, 174, 86),
    "blue": (48, 112, 224),
    "purple": (150, 72, 200),
}
FAMILIES = ("warm", "cool")
CLASS_NAMES = tuple(f"{family} {shape}" for shape in SHAPES for family in FAMILIES)
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")

MAX_OBJECTS = 3
SMALLEST, LARGEST = 0.12, 0.32  # radii, in widths of the frame
NEAREST = 0.2  # least radius of the nearest object: even at 8 px it covers the centre of some pixel
MARGIN = 1.11  # the corners of a square reach this many radii: nothing is cut off by the frame
LARGE = 0.235  # from this radius on the caption says so
CANDIDATES = 6  # places tried for an object until it is clear enough of those before it
CHUNK_SCENES, CHUNK_PIXELS = 512, 1 << 20  # bound what one chunk takes to some tens of MB


@dataclass
class Scenes:
    """N aligned scenes. Objects are ordered from front to back; K = 3, rows without an object hold -1.

    `depth` is a nearness: larger is nearer (wall 16-64, objects 96-255, one value per object).
    `edges` marks the pixels of an object of which a 4-neighbour belongs to something farther away.
    `boxes` are (segmentation class, x0, y0, x1, y1) of the visible part in pixels, x1 and y1 exclusive.
    """

    rgb: np.ndarray  # (N, H, W, 3) uint8
    segmentation: np.ndarray  # (N, H, W) uint8: 0 wall, s + 1 for SHAPES[s]
    instance: np.ndarray  # (N, H, W) uint8: 0 wall, k + 1 for the object of row k
    depth: np.ndarray  # (N, H, W) uint8
    edges: np.ndarray  # (N, H, W) uint8, 0 or 1
    boxes: np.ndarray  # (N, K, 5) int32
    color: np.ndarray  # (N, K) int8: index into COLORS
    label: np.ndarray  # (N,) int64: index into CLASS_NAMES
    caption: list[str]

    def __len__(self) -> int:
        return len(self.caption)


@dataclass(frozen=True)
class ShapesWorld:
    """The scenes of one split: `size` pixels square, random by `seed`; splits and seeds share no scene."""

    size: int = 32
    seed: int = 0
    split: str = "train"
    class_names: ClassVar[tuple[str, ...]] = CLASS_NAMES

    def __post_init__(self) -> None:
        if not _is_integer(self.size) or not 8 <= self.size <= 1024:
            raise UserError(f"ShapesWorld: size must be 8 to 1024 pixels, a whole number, got {self.size!r}.")
        if not _is_integer(self.seed):
            raise UserError(f"ShapesWorld: seed must be a whole number, got {self.seed!r}.")
        if not isinstance(self.split, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", self.split):
            raise UserError(f"ShapesWorld: split must be letters, digits, '-' and '_', got {self.split!r}.")

    @property
    def _step(self) -> int:
        """Scenes drawn together."""
        return max(1, min(CHUNK_SCENES, CHUNK_PIXELS // self.size**2))

    def scenes(self, indices: np.ndarray) -> Scenes:
        """The scenes of these indices, in their order."""
        indices = np.asarray(indices)
        if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu" or indices.min() < 0:
            raise UserError("ShapesWorld: scenes() takes a list of at least one whole number, none below 0.")
        parts = [self._chunk(indices[i : i + self._step]) for i in range(0, len(indices), self._step)]
        captions = [caption for part in parts for caption in part.caption]
        arrays = [field.name for field in fields(Scenes) if field.name != "caption"]
        return Scenes(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in arrays}, caption=captions)

    def samples(self, count: int) -> Iterator[Sample]:
        """The first `count` scenes, encoded for shards; every PNG holds the very values of `Scenes`."""
        if not _is_integer(count) or count < 1:
            raise UserError(f"ShapesWorld: count must be a whole number of at least 1, got {count!r}.")
        return self._samples(count)

    def _samples(self, count: int) -> Iterator[Sample]:
        for start in range(0, count, self._step):
            scenes = self._chunk(np.arange(start, min(start + self._step, count)))
            for i, caption in enumerate(scenes.caption):
                yield {
                    "__key__": f"{self.split}-{start + i:06d}",
                    "rgb.png": _png(scenes.rgb[i]),
                    "segmentation.png": _png(scenes.segmentation[i]),
                    "depth.png": _png(scenes.depth[i]),
                    "edges.png": _png(scenes.edges[i]),
                    "boxes.npy": _npy(scenes.boxes[i]),
                    "txt": caption.encode(),
                    "cls": str(scenes.label[i]).encode(),
                }

    def _chunk(self, indices: np.ndarray) -> Scenes:
        layout = _lay_out(_Draws(self.seed, self.split, indices))
        distance, light = _distances(layout, self.size)
        visible, shown = _visibility(distance, layout.shape >= 0)
        wall = _wall(layout, self.size)

        row = (shown * np.cumsum(shown, axis=1)).astype(np.uint8)  # k + 1 with the hidden objects left out
        instance = (visible * row[:, :, None, None]).sum(axis=1, dtype=np.uint8)
        kinds = layout.shape + 1
        nearness = np.rint(96 + 159 * (layout.radius - SMALLEST) / (LARGEST - SMALLEST)).astype(np.uint8)
        depth = (visible * nearness[:, :, None, None]).sum(axis=1, dtype=np.uint8)
        depth += (instance == 0) * np.rint(16 + 48 * wall).astype(np.uint8)

        front = np.argsort(~shown, axis=1, kind="stable")  # shown objects first, still front to back
        boxes = np.concatenate([np.where(shown, kinds, -1)[:, :, None], _corners(visible)], axis=2)
        return Scenes(
            rgb=_paint(layout, distance, light, shown, wall),
            segmentation=(visible * kinds[:, :, None, None]).sum(axis=1, dtype=np.uint8),
            instance=instance,
            depth=depth,
            edges=_edges(instance),
            boxes=np.take_along_axis(boxes, front[:, :, None], axis=1).astype(np.int32),
            color=np.take_along_axis(np.where(shown, layout.color, -1), front, axis=1).astype(np.int8),
            label=layout.shape[:, 0] * 2 + layout.color[:, 0] // 3,
            caption=_captions(layout, shown),
        )


class _Draws:
    """Uniform numbers in [0, 1) that are a hash of (seed, split, index, how many were drawn before)."""

    def __init__(self, seed: int, split: str, indices: np.ndarray) -> None:
        stream = int.from_bytes(hashlib.sha256(f"{seed}/{split}".encode()).digest()[:8], "little")
        self.keys = _mixed(indices.astype(np.uint64) ^ np.uint64(stream))  # (N,)
        self.drawn = 0

    def uniform(self, *shape: int) -> np.ndarray:
        """The next numbers of every scene: (N, *shape)."""
        size = int(np.prod(shape))
        counter = np.arange(self.drawn + 1, self.drawn + 1 + size, dtype=np.uint64)
        self.drawn += size
        bits = _mixed(self.keys[:, None] + counter * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)
        return (bits * 2.0**-53).reshape(len(self.keys), *shape)

    def choice(self, options: int, *shape: int) -> np.ndarray:
        """Like `uniform`, whole numbers below `options`."""
        return (self.uniform(*shape) * options).astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass
class _Layout:
    """What is in the scenes, from front to back, in widths of the frame; unused rows have shape -1."""

    shape: np.ndarray  # (N, K)
    color: np.ndarray  # (N, K)
    radius: np.ndarray  # (N, K), falling along K
    centre: np.ndarray  # (N, K, 2): x, y
    angle: np.ndarray  # (N, K)
    tone: np.ndarray  # (N, K), factor on the colour
    slope: np.ndarray  # (N,), direction in which the wall comes nearer and gets lighter
    shade: np.ndarray  # (N, 2, 3), colour of the wall at its far and near end


def _lay_out(draws: _Draws) -> _Layout:
    number = 1 + draws.choice(MAX_OBJECTS)
    shape = draws.choice(len(SHAPES), MAX_OBJECTS)
    far = draws.uniform(1)[:, :, None] * 0.5 + 0.16
    near = far + 0.1 + 0.16 * draws.uniform(1)[:, :, None]
    tint = 1 + 0.3 * (draws.uniform(1, 3) - 0.5)
    radius = _radii(draws)
    return _Layout(
        shape=np.where(np.arange(MAX_OBJECTS) < number[:, None], shape, -1),
        color=draws.choice(len(COLORS), MAX_OBJECTS),
        radius=radius,
        centre=_places(draws, radius),
        angle=(draws.uniform(MAX_OBJECTS) - 0.5) * (np.pi / 3),
        tone=0.9 + 0.15 * draws.uniform(MAX_OBJECTS),
        slope=draws.uniform() * (2 * np.pi),
        shade=255 * np.concatenate([far * tint, near * tint], axis=1),
    )


def _radii(draws: _Draws) -> np.ndarray:
    """(N, K): each object smaller than the one before it, so that depth can be told from the picture."""
    radius = [NEAREST + (LARGEST - NEAREST) * draws.uniform()]
    for _ in range(1, MAX_OBJECTS):
        radius.append(SMALLEST + (radius[-1] - SMALLEST) * (0.35 + 0.45 * draws.uniform()))
    return np.stack(radius, axis=1)


def _places(draws: _Draws, radius: np.ndarray) -> np.ndarray:
    """(N, K, 2): centres inside the frame that let objects overlap but seldom hide each other."""
    scenes = np.arange(len(radius))
    centre = np.empty((*radius.shape, 2))
    for k in range(MAX_OBJECTS):
        margin = MARGIN * radius[:, k, None, None]
        tried = margin + (1 - 2 * margin) * draws.uniform(CANDIDATES, 2)  # (N, CANDIDATES, 2)
        gap = np.sqrt(((tried[:, :, None] - centre[:, None, :k]) ** 2).sum(axis=3))
        reach = radius[:, k, None, None] + radius[:, None, :k]
        clearance = (gap / reach).min(axis=2, initial=1)
        best = np.minimum(clearance, 0.7).argmax(axis=1)  # the first clear enough, or else the clearest
        centre[:, k] = tried[scenes, best]
    return centre


def _distances(layout: _Layout, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances in pixels at pixel centres (N, K, H, W), and how much light falls there."""
    pixel = ((np.arange(size) + 0.5) / size).astype(np.float32)
    distance = np.full((*layout.shape.shape, size, size), np.inf, dtype=np.float32)
    light = np.ones_like(distance)  # it comes from above left
    for kind, signed_distance in enumerate(SIGNED_DISTANCES):
        n, k = np.nonzero(layout.shape == kind)
        radius = layout.radius[n, k, None].astype(np.float32)
        x, y = layout.centre[n, k].astype(np.float32).T[:, :, None]
        dx = ((pixel - x) / radius)[:, None, :]  # (M, 1, W), in radii
        dy = ((pixel - y) / radius)[:, :, None]  # (M, H, 1)
        cos, sin = (f(layout.angle[n, k]).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        in_radii = signed_distance(cos * dx + sin * dy, cos * dy - sin * dx)
        distance[n, k] = in_radii * (radius[:, :, None] * size)
        light[n, k] = 1 - np.float32(0.1) * (dx + dy)
    return distance, light


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 0.95


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.78


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # equilateral, tip up, centred; three half-planes, as far from the centre as half a tip
    return np.maximum(np.abs(x) * 0.8660254 - y * 0.5, y) - 0.54


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.98, np.minimum(x, y) - 0.36)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.74) - 0.27


SIGNED_DISTANCES = (_circle, _square, _triangle, _cross, _ring)  # in the order of SHAPES, of about one radius


def _visibility(distance: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Visible pixels per object (N, K, H, W), and which objects are shown (N, K).

    An object of which less than a third would be seen is left out: captions and boxes name what can be seen.
    """
    visible, shown = distance <= 0, placed.copy()
    hidden = np.zeros_like(visible[:, 0])
    for k in range(placed.shape[1]):
        whole = visible[:, k].sum(axis=(1, 2))
        visible[:, k] &= ~hidden
        shown[:, k] &= visible[:, k].sum(axis=(1, 2)) * 3 >= np.maximum(whole, 1)
        visible[:, k] &= shown[:, k, None, None]
        hidden |= visible[:, k]
    return visible, shown


def _wall(layout: _Layout, size: int) -> np.ndarray:
    """Nearness of the wall between 0 and 1: (N, H, W)."""
    pixel = (((np.arange(size) + 0.5) / size - 0.5) * 0.7).astype(np.float32)
    cos, sin = (f(layout.slope).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    return 0.5 + cos * pixel[None, None, :] + sin * pixel[None, :, None]


def _paint(layout: _Layout, distance: np.ndarray, light: np.ndarray, shown: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """(N, H, W, 3): back to front, each object with smooth borders and a soft shadow on what is behind it."""
    size = wall.shape[1]
    far, near = layout.shade.astype(np.float32).transpose(1, 2, 0)[..., None, None]  # each (3, N, 1, 1)
    canvas = far + (near - far) * wall  # (3, N, H, W)
    palette = np.array(list(COLORS.values()), dtype=np.float32)
    colors = palette[layout.color] * layout.tone.astype(np.float32)[:, :, None]
    for k in reversed(range(shown.shape[1])):
        n = np.nonzero(shown[:, k])[0]
        cover = np.clip(0.5 - distance[n, k], 0, 1)
        shadow = 1 - 0.4 * np.clip(1 - distance[n, k] / (0.07 * size), 0, 1)
        behind, front = shadow * (1 - cover), light[n, k] * cover
        for channel in range(3):
            canvas[channel, n] = canvas[channel, n] * behind + colors[n, k, channel, None, None] * front
    return np.ascontiguousarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8).transpose(1, 2, 3, 0))


def _edges(instance: np.ndarray) -> np.ndarray:
    """Where an object ends in front of something farther: rows are nearest first, the wall is behind all."""
    rank = instance - np.uint8(1)  # the wall wraps round to 255
    edges = np.zeros(rank.shape, dtype=bool)
    edges[:, 1:] |= rank[:, 1:] < rank[:, :-1]
    edges[:, :-1] |= rank[:, :-1] < rank[:, 1:]
    edges[:, :, 1:] |= rank[:, :, 1:] < rank[:, :, :-1]
    edges[:, :, :-1] |= rank[:, :, :-1] < rank[:, :, 1:]
    return edges.astype(np.uint8)


def _corners(visible: np.ndarray) -> np.ndarray:
    """(N, K, 4): x0, y0, x1, y1 around the visible pixels, -1 without any."""
    size = visible.shape[-1]
    columns, rows = np.any(visible, axis=2), np.any(visible, axis=3)
    first = [line.argmax(axis=2) for line in (columns, rows)]
    last = [size - line[:, :, ::-1].argmax(axis=2) for line in (columns, rows)]
    return np.where(np.any(columns, axis=2)[:, :, None], np.stack(first + last, axis=2), -1)


def _captions(layout: _Layout, shown: np.ndarray) -> list[str]:
    """ "a large red circle in front of a small blue square, bottom left": the place is that of the first."""
    phrases = [f"a {size} {color} {shape}" for size, color, shape in product(SIZES, COLORS, SHAPES)]
    phrase = ((layout.radius >= LARGE) * len(COLORS) + layout.color) * len(SHAPES) + layout.shape
    third = (layout.centre[:, 0] > 0.42).astype(int) + (layout.centre[:, 0] > 0.58)
    place = third[:, 0] + 3 * third[:, 1]
    captions = []
    for named, seen, where in zip(phrase.tolist(), shown.tolist(), place.tolist(), strict=True):
        first, *others = (phrases[p] for p, s in zip(named, seen, strict=True) if s)
        behind = f" in front of {' and '.join(others)}" if others else ""
        captions.append(f"{first}{behind}, {PLACES[where]}")
    return captions


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
