"""Boxes as words: four coordinates and a class each, as in 4M."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.tokenizers.sequence_codec import SequenceCodec, enough_sentinels
from mmmask.tokenizers.text_vocabulary import TextVocabulary
from mmmask.tokenizers.typed_files import json_in
from mmmask.tokens import Data
from mmmask.transformer.places import along_axes

NONE, GAP = -1, -2  # classes of rows without a box, and of rows that stand for any number of boxes to be found
WORDS = 5  # of a box


class Boxes(SequenceCodec):
    """Rows (class, x0, y0, x1, y1) of arrays `(B, K, 5)` to `v0=x0 v1=y0 v2=x1 v3=y1 class`, each box a chunk. Rows of
    class -1 are no box, of class -2 a gap.

    A scene without boxes has no words, like one whose boxes are not known: it is absent, and "none" is neither told nor
    asked. Where it should be, give such scenes one box over the whole picture, of a class that says so.

    Args:
        names: of the classes, in the order of their numbers.
        size: of the picture; coordinates lie in 0..size.
        bins: different values of a coordinate (default: all, up to 1000).
        most: boxes of a sample; further ones are left out.
        source: entry of the batch that holds the arrays.
        vocabulary: file of the words to write boxes in, with coordinates and these classes, as `Words` have one
            (default: words of their own).
    """

    def __init__(
        self,
        names: Sequence[str],
        size: int,
        bins: int | None = None,
        most: int = 8,
        source: str | None = None,
        vocabulary: Path | dict[str, Any] | None = None,
    ) -> None:
        super().__init__(source)
        self.names, self.size, self.bins, self.most = list(names), size, bins or min(size + 1, 1000), most
        if not self.names or size < 1 or self.bins < 2 or most < 1:
            raise UserError(f"Boxes: give names, size and most of 1 or more and 2 or more bins; bins is {bins}.")
        self.length = WORDS * most
        if vocabulary is None:
            self.sentinels = 1, 1 + enough_sentinels(self.length)
            firsts = [self.sentinels[1] + which * self.bins for which in range(5)]
            self._corners = [list(range(first, first + self.bins)) for first in firsts[:4]]
            self._classes = list(range(firsts[4], firsts[4] + len(self.names)))
            self.vocab_size = firsts[4] + len(self.names)
        else:
            self.words = TextVocabulary(vocabulary)
            self.sentinels, self.vocab_size = self.words.sentinels, self.words.size
            self._corners = [self.words.coordinates(which, self.bins) for which in range(4)]
            self._classes = [self.words.number(name) for name in self.names]
        self._values = [{word: value for value, word in enumerate(words)} for words in self._corners]
        self._kinds = {word: kind for kind, word in enumerate(self._classes)}

    def encode(self, raw: Tensor) -> Data:
        """Words of all boxes, in their order."""
        if raw.ndim != 3 or raw.shape[2] != WORDS:
            raise UserError(f"Boxes: arrays have the shape {tuple(raw.shape)}, not (B, K, 5).")
        samples = [[row for row in sample if row[0] != NONE][: self.most] for sample in raw.tolist()]
        return self._data_of_chunks([[self._words_of(*map(int, row)) for row in sample] for sample in samples])

    def codes(self) -> Tensor:
        x, y = along_axes(self.bins)
        codes = torch.full((self.vocab_size, x.shape[1]), torch.nan)
        for words, axis in zip(self._corners, (x, y, x, y), strict=True):
            codes[words] = axis
        return codes

    def typed(self, text: str) -> Tensor:
        return torch.tensor(json_in(Path(text)))[None]

    def seen(self, raw: Tensor) -> list[str]:
        return ["; ".join(self._told(row) for row in sample if row[0] >= 0) for sample in raw.tolist()]

    def _told(self, row: list[int]) -> str:
        kind, *corners = row
        return f"{self.names[kind]} {' '.join(map(str, corners))}"

    def _words_of(self, kind: int, *corners: int) -> list[int] | None:
        if kind == GAP:
            return None
        if not 0 <= kind < len(self.names):
            raise UserError(f"Boxes: there is a box of class {kind}, and names for 0 to {len(self.names) - 1}.")
        last = self.bins - 1
        values = [min(last, max(0, round(corner / self.size * last))) for corner in corners]
        return [*(words[value] for words, value in zip(self._corners, values, strict=True)), self._classes[kind]]

    def decode(self, ids: Tensor, length: Tensor) -> Tensor:
        """Arrays `(B, most, 5)`; words that make no whole box, or one that ends before it begins, are left out."""
        found = torch.full((len(ids), self.most, WORDS), NONE)
        for row, words, end in zip(found, ids.tolist(), length.tolist(), strict=True):
            boxes = self._boxes(words[:end])[: self.most]
            if boxes:
                row[: len(boxes)] = torch.tensor(boxes)
        return found

    def _boxes(self, words: list[int]) -> list[list[int]]:
        found = []
        for at in range(len(words) - WORDS + 1):
            *corners, kind = words[at : at + WORDS]
            x0, y0, x1, y1 = (values.get(word, -1) for values, word in zip(self._values, corners, strict=True))
            if min(x0, y0) >= 0 and kind in self._kinds and x0 <= x1 and y0 <= y1:
                found.append([self._kinds[kind], *(round(v * self.size / (self.bins - 1)) for v in (x0, y0, x1, y1))])
        return found
