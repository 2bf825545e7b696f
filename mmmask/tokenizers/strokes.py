"""Drawings of a pen as words: the points where its path bends, and the ends of strokes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmmask.errors import UserError
from mmmask.tokenizers.sequence_codec import SequenceCodec, enough_sentinels
from mmmask.tokenizers.typed_files import json_in
from mmmask.tokens import Data
from mmmask.transformer.places import in_a_picture

Point = tuple[float, float]
Stroke = Sequence[Sequence[float]]
TOLERANCE = 0.75  # bins that a point may lie beside the path without being kept
STEP = 3.0  # bins between two points that are kept
PEN = 5.0  # pixels, of the pen of Omniglot
FINE = 4  # drawn so many times larger, for smooth borders


class Strokes(SequenceCodec):
    """Strokes of points [x, y, ...] in pixels to a word for each point that is kept, one of `bins` x `bins` places, and
    a last word for each stroke, each stroke a chunk. A stroke that is None is a gap; drawings that are None or have no
    stroke are absent.

    Points are kept, those first that lie farthest from the path through the others (Ramer, Douglas, Peucker), until
    the path is as exact as the bins; then the longest ways between two are halved, so that what was drawn somewhere
    has a point near it, until no way is longer than `STEP` bins. At `most_points` both end.

    Args:
        size: of the picture in pixels.
        bins: different values of a coordinate.
        most_points: of all strokes together; of strokes there can be half as many.
        source: entry of the batch that holds the drawings.
    """

    def __init__(self, size: int, bins: int = 48, most_points: int = 32, source: str | None = None) -> None:
        super().__init__(source)
        if size < 1 or bins < 2 or most_points < 2:
            raise UserError(f"Strokes: give a size, 2 or more bins and points; got {size}, {bins}, {most_points}.")
        self.size, self.bins, self.most_points = size, bins, most_points
        self.length = most_points + most_points // 2
        self.sentinels = 1, 1 + enough_sentinels(self.length)
        self._end = self.sentinels[1]  # of a stroke
        self._first = self._end + 1  # of the places, row by row
        self.vocab_size = self._first + bins**2

    def encode(self, raw: Sequence[Sequence[Stroke | None] | None]) -> Data:
        """Words of all drawings."""
        try:
            return self._data_of_chunks([self._words(drawing) for drawing in raw])
        except (TypeError, ValueError) as error:
            raise UserError(f"Strokes: a drawing must be a list of strokes of points [x, y]: {error}.") from error

    def codes(self) -> Tensor:
        places = in_a_picture(self.bins, 64)
        return torch.cat([torch.full((self._first, 64), torch.nan), places])

    def _words(self, drawing: Sequence[Stroke | None] | None) -> list[list[int] | None]:
        strokes = [stroke for stroke in drawing or () if stroke is None or len(stroke)][: self.most_points // 2]
        paths = [[(float(x), float(y)) for x, y, *_ in stroke or ()] for stroke in strokes]
        bin = self.size / self.bins
        kept = filled(bends(paths, self.most_points, TOLERANCE * bin), self.most_points, STEP * bin)
        return [None if stroke is None else self._path(path) for stroke, path in zip(strokes, kept, strict=True)]

    def _path(self, path: list[Point]) -> list[int]:
        return [*(self._first + self._bin(y) * self.bins + self._bin(x) for x, y in path), self._end]

    def _bin(self, pixel: float) -> int:
        return min(self.bins - 1, max(0, int((pixel + 0.5) * self.bins / self.size)))

    def decode(self, ids: Tensor, length: Tensor) -> list[list[list[list[float]]]]:
        """Drawings of points [x, y]; other words are left out."""
        rows = zip(ids.tolist(), length.tolist(), strict=True)
        return [self._drawing(row[:end]) for row, end in rows]

    def _drawing(self, words: list[int]) -> list[list[list[float]]]:
        strokes: list[list[list[float]]] = [[]]
        for word in words:
            if word == self._end:
                strokes.append([])
            elif word >= self._first:
                y, x = divmod(word - self._first, self.bins)
                strokes[-1].append([(b + 0.5) * self.size / self.bins - 0.5 for b in (x, y)])
        return [stroke for stroke in strokes if stroke]

    def typed(self, text: str) -> list[list[Stroke]]:
        return [json_in(Path(text))]

    def seen(self, raw: Sequence[Sequence[Stroke | None] | None]) -> Tensor:
        return self.picture(raw, self.size)

    def picture(self, drawings: Sequence[Sequence[Stroke | None] | None], size: int) -> Tensor:
        """Drawn in black on white: `(B, 1, size, size)` in 0..1."""
        scale = FINE * size / self.size
        width = round(PEN * scale)
        found = []
        for drawing in drawings:
            sheet = Image.new("L", (FINE * size, FINE * size), 255)
            pen = ImageDraw.Draw(sheet)
            for stroke in filter(None, drawing or ()):  # of gaps and of what is absent there is nothing to see
                points = [((x + 0.5) * scale, (y + 0.5) * scale) for x, y, *_ in stroke]
                pen.line(points, fill=0, width=width, joint="curve")
                for x, y in (points[0], points[-1]):
                    pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=0)
            found.append(np.asarray(sheet.reduce(FINE), dtype=np.float32) / 255)
        return torch.from_numpy(np.stack(found))[:, None]


def bends(paths: Sequence[Sequence[Point]], most: int, tolerance: float) -> list[list[Point]]:
    """The ends of all paths, and of the points between them those that matter most, `most` in all."""
    kept = [{0, len(path) - 1} if path else set() for path in paths]
    beside: list[tuple[float, int, int, int, int]] = []

    def look(number: int, start: int, end: int) -> None:
        distance, place = _farthest(paths[number], start, end)
        if distance > tolerance**2:
            heapq.heappush(beside, (-distance, number, start, place, end))

    for number, path in enumerate(paths):
        look(number, 0, len(path) - 1)
    left = most - sum(map(len, kept))
    while beside and left > 0:
        _, number, start, place, end = heapq.heappop(beside)
        kept[number].add(place)
        look(number, start, place)
        look(number, place, end)
        left -= 1
    return [[path[place] for place in sorted(places)] for path, places in zip(paths, kept, strict=True)]


def filled(paths: Sequence[Sequence[Point]], most: int, step: float) -> list[list[Point]]:
    """With points in the middle of the longest ways between two, until none is longer than `step`, `most` in all."""
    found = [list(path) for path in paths]
    for _ in range(most - sum(map(len, found))):
        ways = [(math.dist(a, b), n, i) for n, path in enumerate(found) for i, (a, b) in enumerate(pairwise(path))]
        longest, number, place = max(ways, default=(0.0, 0, 0))
        if longest <= step:
            break
        (x0, y0), (x1, y1) = found[number][place : place + 2]
        found[number].insert(place + 1, ((x0 + x1) / 2, (y0 + y1) / 2))
    return found


def _farthest(path: Sequence[Point], start: int, end: int) -> tuple[float, int]:
    """Of the points between two, the one farthest from the line that joins them: squared distance, and place."""
    best, where = 0.0, start
    if end - start < 2:
        return best, where
    (x0, y0), (x1, y1) = path[start], path[end]
    dx, dy = x1 - x0, y1 - y0
    square = dx * dx + dy * dy or 1.0
    for place in range(start + 1, end):
        x, y = path[place][0] - x0, path[place][1] - y0
        along = min(1.0, max(0.0, (x * dx + y * dy) / square))
        distance = (x - along * dx) ** 2 + (y - along * dy) ** 2
        if distance > best:
            best, where = distance, place
    return best, where
