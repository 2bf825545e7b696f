"""Captions as words of a vocabulary, with gaps to be filled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmmask.errors import UserError
from mmmask.tokenizers.sequence_codec import SequenceCodec
from mmmask.tokenizers.text_vocabulary import PAD, TextVocabulary
from mmmask.tokens import Data

GAP = re.compile("_{3,}")


class Words(SequenceCodec):
    """Texts to at most `length` words of a vocabulary, longer ones cut; empty texts and None are absent. A gap,
    `___`, becomes a sentinel.

    Args:
        vocabulary: file of the tokenizers library (JSON), as `mmmask vocabulary` writes it, or its content; `[PAD]`
            is word 0, the sentinels are `[S_0]`, `[S_1]` and so on.
        length: words of a text.
        source: entry of the batch that holds the texts.
        published: as 4M's checkpoints know texts: each ends with `[EOS]`, and sentinels begin with `[S_1]`.
        unknown: false leaves out words that the vocabulary does not know, where there are others.
    """

    words: TextVocabulary

    def __init__(
        self,
        vocabulary: Path | dict[str, Any],
        length: int,
        source: str | None = None,
        published: bool = False,
        unknown: bool = True,
    ) -> None:
        super().__init__(source)
        if length < 1:
            raise UserError(f"Words: length is {length}; give 1 or more.")
        self.length, self.words = length, TextVocabulary(vocabulary)
        first, last = self.words.sentinels
        self.vocab_size, self.sentinels = self.words.size, (first + published, last)
        self._end = [self.words.number("[EOS]")] if published else []
        self._left_out = None if unknown else self.words.ids.get("[UNK]")

    def encode(self, raw: Sequence[str | None]) -> Data:
        """Words of all texts."""
        return self._data([self._known(text.strip()) + self._end if text and text.strip() else [] for text in raw])

    def _known(self, text: str) -> list[int]:
        ids = self._ids(text)
        return [word for word in ids if word != self._left_out] or ids[:1]

    def _ids(self, text: str) -> list[int]:
        first, last = self.sentinels
        ids: list[int] = []
        for number, part in enumerate(GAP.split(text)):
            if number:
                ids.append(first + number - 1)
            ids += self.words.encode(part.rstrip())
        if number > last - first:
            raise UserError(
                f"Words: '{text[:40]}' has {number} gaps, the vocabulary {last - first} sentinels. Leave fewer gaps."
            )
        return ids

    def decode(self, ids: Tensor, length: Tensor) -> list[str]:
        """Texts without special words."""
        rows = [row[:end] for row, end in zip(ids.tolist(), length.tolist(), strict=True)]
        return [self.words.decode([word for word in row if word != PAD and not self._is_gap(word)]) for row in rows]

    def typed(self, text: str) -> list[str]:
        return [text]
