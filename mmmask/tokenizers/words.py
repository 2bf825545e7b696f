"""Captions as words of a vocabulary, with gaps to be filled."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmmask.errors import UserError
from mmmask.tokenizers.sequence_codec import PAD, SequenceCodec
from mmmask.tokens import Data

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GAP = re.compile("_{3,}")


class Words(SequenceCodec):
    """Texts to at most `length` words of a vocabulary, longer ones cut; empty texts and None are absent. A gap,
    `___`, becomes a sentinel.

    Args:
        vocabulary: file of the tokenizers library (JSON), as `mmmask vocabulary` writes it, or its content; `[PAD]`
            is word 0, the sentinels are `[S_0]`, `[S_1]` and so on.
        length: words of a text.
        source: entry of the batch that holds the texts.
    """

    def __init__(self, vocabulary: Path | dict[str, Any], length: int, source: str | None = None) -> None:
        super().__init__(source)
        if length < 1:
            raise UserError(f"Words: length is {length}; give 1 or more.")
        name = "the vocabulary" if isinstance(vocabulary, dict) else str(vocabulary)
        self.vocabulary = vocabulary if isinstance(vocabulary, dict) else _content(Path(vocabulary))
        self.length, self._words = length, _tokenizer(self.vocabulary, name)
        ids = self._words.get_vocab()
        if ids.get("[PAD]") != PAD:
            raise UserError(f"Words: [PAD] must be word {PAD} of {name}, which `mmmask vocabulary` sees to.")
        self.vocab_size, self.sentinels = max(ids.values()) + 1, _sentinels(ids, name)

    def encode(self, raw: Sequence[str | None]) -> Data:
        """Words of all texts."""
        self._words.encode_special_tokens = True  # [S_0] in a text means these letters; copies forget it
        return self._data([self._ids(text.strip()) if text else [] for text in raw])

    def _ids(self, text: str) -> list[int]:
        first, last = self.sentinels
        ids: list[int] = []
        for number, part in enumerate(GAP.split(text)):
            if number:
                ids.append(first + number - 1)
            ids += self._words.encode(part.rstrip(), add_special_tokens=False).ids
        if number > last - first:
            raise UserError(
                f"Words: '{text[:40]}' has {number} gaps, the vocabulary {last - first} sentinels. Leave fewer gaps."
            )
        return ids

    def decode(self, ids: Tensor, length: Tensor) -> list[str]:
        """Texts without special words."""
        rows = [row[:end] for row, end in zip(ids.tolist(), length.tolist(), strict=True)]
        rows = [[word for word in row if word != PAD and not self._is_gap(word)] for row in rows]
        return [self._words.decode(row, skip_special_tokens=True).strip() for row in rows]

    def typed(self, text: str) -> list[str]:
        return [text]

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """With the words themselves in the place of their file."""
        return {**spec, "init_args": {**spec["init_args"], "vocabulary": self.vocabulary}}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the vocabulary {path}: {error.strerror}. `mmmask vocabulary` makes one."
        ) from error
    except ValueError as error:
        raise UserError(f"the vocabulary {path} is no JSON. `mmmask vocabulary` makes one.") from error
    return dict(content) if isinstance(content, dict) else {}


def _tokenizer(content: dict[str, Any], name: str) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        words = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # of no more special class
        raise UserError(f"{name} is no file of the tokenizers library. `mmmask vocabulary` makes one.") from error
    words.no_padding()
    words.no_truncation()
    return words


def _sentinels(ids: dict[str, int], name: str) -> tuple[int, int]:
    """The first, and the one beyond the last."""
    if "[S_0]" not in ids:
        raise UserError(f"Words: {name} has no sentinels [S_0], [S_1], ...: make one with `mmmask vocabulary`.")
    first = ids["[S_0]"]
    for number in count():
        if f"[S_{number}]" not in ids:
            break
        if ids[f"[S_{number}]"] != first + number:
            raise UserError(f"Words: the sentinels of {name} must follow one another, and [S_{number}] does not.")
    return first, first + number
