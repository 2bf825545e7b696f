"""What codecs of sequences have in common: padding, gaps, and how an answer fills them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmmask.modalities import Modality
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.text_vocabulary import PAD, TextVocabulary
from mmmask.tokens import Data

Words = Sequence[int]


class SequenceCodec(Codec):
    """Sequences of at most `length` words, of which some, the `sentinels`, stand for gaps; word 0 is padding. `words`
    is the vocabulary, if they are written in that of a file."""

    length: int
    vocab_size: int
    sentinels: tuple[int, int]
    words: TextVocabulary | None = None

    def modality(self, name: str) -> Modality:
        """A sequence with these sentinels."""
        return Modality(name, self.length, self.vocab_size, kind="sequence", sentinels=self.sentinels)

    def gaps(self, data: Data) -> Tensor:
        """How many gaps `(B,)` the samples have; what is absent is one gap."""
        here = np.arange(self.length) < data.length[:, None]
        first, last = self.sentinels
        count = (here & (data.ids >= first) & (data.ids < last)).sum(1)
        return torch.from_numpy(np.where(data.length, count, 1))

    def empty(self, count: int) -> Data:
        """So many samples of which nothing is known."""
        return self._data([[]] * count)

    def fill(self, known: Data, answers: Tensor, lengths: Tensor) -> Data:
        """The sequences without gaps: each gap gives way to the words after its sentinel in the answer `(B, A)`, as
        `Autoregressive` gives it with its length `(B,)`. What was known stays, so answers that are too long are cut; a
        gap that the answer leaves out is empty."""
        filled = []
        for ids, length, answer, end in zip(
            known.ids.tolist(), known.length.tolist(), answers.tolist(), lengths.tolist(), strict=True
        ):
            spans = self._spans(answer[:end])
            words = ids[:length] or [self.sentinels[0]]
            room, whole = self.length - sum(not self._is_gap(word) for word in words), list[int]()
            for word in words:
                new = spans.get(word, [])[:room] if self._is_gap(word) else [word]
                room -= len(new) if self._is_gap(word) else 0
                whole += new
            filled.append(whole)
        return self._data(filled)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """With the words themselves in the place of their file."""
        if self.words is None:
            return dict(spec)
        return {**spec, "init_args": {**spec["init_args"], "vocabulary": self.words.content}}

    def _is_gap(self, word: int) -> bool:
        return self.sentinels[0] <= word < self.sentinels[1]

    def _spans(self, answer: Words) -> dict[int, list[int]]:
        """Sentinel -> the words that come after it."""
        spans: dict[int, list[int]] = {}
        span: list[int] = []
        for word in answer:
            if self._is_gap(word):
                span = spans.setdefault(word, [])
            elif word != PAD:
                span.append(word)
        return spans

    def _data(self, samples: Sequence[Words]) -> Data:
        """Samples as rows of ids, cut and padded."""
        ids = np.zeros((len(samples), self.length), dtype=np.int64)
        length = np.array([min(len(words), self.length) for words in samples], dtype=np.int64)
        for row, words in zip(ids, samples, strict=True):
            row[: len(words)] = words[: self.length]
        return Data(ids, length)

    def _data_of_chunks(self, samples: Sequence[Sequence[Words | None]]) -> Data:
        """The same for samples in parts that are kept or left out as a whole; None is a gap."""
        joined: list[list[int]] = []
        chunks = np.zeros((len(samples), self.length), dtype=np.int64)
        for row, parts in zip(chunks, samples, strict=True):
            words: list[int] = []
            gaps = 0
            for number, part in enumerate(parts):
                row[len(words) :] = number
                words += [self.sentinels[0] + gaps] if part is None else part
                gaps += part is None
            joined.append(words)
        return self._data(joined)._replace(chunks=chunks)


def enough_sentinels(length: int) -> int:
    """How many a sequence needs of which every other word may be left out, and one more to end the answer."""
    return (length + 1) // 2 + 1
