"""Records of numbers as words: an entry and its value each, as in 4M."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from mmmask.catalogue import METADATA
from mmmask.errors import UserError, nearest
from mmmask.tokenizers.sequence_codec import SequenceCodec
from mmmask.tokenizers.text_vocabulary import TextVocabulary
from mmmask.tokenizers.typed_files import json_in
from mmmask.tokens import Data

GAP = "___"  # in the place of a name: all entries that the record lacks are to be found
Record = Mapping[str, float]


class Metadata(SequenceCodec):
    """Records (name -> number) to `v1=entry v0=value` in the order of the entries, each pair a chunk. What is null or
    lacking is left out, or a gap if the record has an entry `___`; empty records and None are absent.

    Args:
        vocabulary: file of the words to write them in, with coordinates, as `Words` have one.
        entries: name -> [low, high, steps]: numbers from low to high, in so many steps; what is beyond is the first or
            last. By default those of 4M.
        source: entry of the batch that holds the records.
    """

    words: TextVocabulary

    def __init__(
        self,
        vocabulary: Path | dict[str, Any],
        entries: Mapping[str, Sequence[float]] | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(source)
        self.entries = dict(METADATA if entries is None else entries)
        for name, given in self.entries.items():
            if len(given) != 3 or given[0] >= given[1] or given[2] < 2 or given[2] != int(given[2]):
                raise UserError(f"Metadata: {name} is {list(given)}; give [low, high, steps], of 2 or more steps.")
        if not self.entries:
            raise UserError("Metadata: give entries, each as name: [low, high, steps].")
        self.words, self.length = TextVocabulary(vocabulary), 2 * len(self.entries)
        self.vocab_size, self.sentinels = self.words.size, self.words.sentinels
        self._keys = self.words.coordinates(1, len(self.entries))
        self._values = self.words.coordinates(0, max(int(steps) for _, _, steps in self.entries.values()))

    def encode(self, raw: Sequence[Record | None]) -> Data:
        """Words of all records."""
        return self._data_of_chunks([self._pairs(record or {}) for record in raw])

    def _pairs(self, record: Record) -> list[list[int] | None]:
        for name in record.keys() - self.entries.keys() - {GAP}:
            some = ", ".join(list(self.entries)[:20])
            raise UserError(f"Metadata: '{name}' is none of {some}.{nearest(name, self.entries)}")
        pairs: list[list[int] | None] = []
        for key, (name, (low, high, steps)) in zip(self._keys, self.entries.items(), strict=True):
            if (number := record.get(name)) is not None:
                share = (min(max(number, low), high) - low) / (high - low)
                pairs.append([key, self._values[int(share * (steps - 1) + 1e-6)]])  # whole numbers stay what they are
            elif GAP in record and (not pairs or pairs[-1] is not None):
                pairs.append(None)
        return pairs

    def decode(self, ids: Tensor, length: Tensor) -> list[dict[str, float]]:
        """Records of where the steps begin; of an entry that is told twice, the first."""
        return [self._record(row[:end]) for row, end in zip(ids.tolist(), length.tolist(), strict=True)]

    def _record(self, words: list[int]) -> dict[str, float]:
        keys = dict(zip(self._keys, self.entries.items(), strict=True))
        values = {word: value for value, word in enumerate(self._values)}
        found: dict[str, float] = {}
        for key, word in pairwise(words):
            if key not in keys or word not in values:
                continue
            name, (low, high, steps) = keys[key]
            found.setdefault(name, round(low + min(values[word] / (steps - 1), 1) * (high - low), 6))
        return found

    def typed(self, text: str) -> list[Record]:
        """JSON, or the path of a file that holds it."""
        if not text.lstrip().startswith("{"):
            return [json_in(Path(text))]
        try:
            return [json.loads(text)]
        except ValueError as error:
            raise UserError(f"Metadata: {text} is no JSON: {error}.") from error

    def seen(self, raw: Sequence[Record | None]) -> list[str]:
        return ["; ".join(f"{name} {number:g}" for name, number in (record or {}).items()) for record in raw]
