"""Words of a file of the tokenizers library: those that texts, boxes, records and palettes are written in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmask.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD = 0
CONTROL = re.compile(r"[\[<].*[\]>]")  # [PAD], [S_0], <s>: no text may say them


class TextVocabulary:
    """The words of a file, as `mmmask vocabulary` writes it, or of its `content`; `[PAD]` is word 0, `sentinels` are
    `[S_0]`, `[S_1]` and so on.

    Special words in brackets are never read from a text, nor written into one. Others, coordinates (`v0=7`) and
    classes, are words of texts, each one token.
    """

    def __init__(self, given: Path | dict[str, Any]) -> None:
        self.name = "the vocabulary" if isinstance(given, dict) else str(given)
        self.content = given if isinstance(given, dict) else _content(Path(given))
        self._words = _tokenizer(self.content, self.name)
        self.ids = self._words.get_vocab()
        if self.ids.get("[PAD]") != PAD:
            raise UserError(f"[PAD] must be word {PAD} of {self.name}, which `mmmask vocabulary` sees to.")
        self.size, self.sentinels = max(self.ids.values()) + 1, _sentinels(self.ids, self.name)

    def encode(self, text: str) -> list[int]:
        """The words of a text."""
        self._words.encode_special_tokens = True  # [S_0] in a text means these letters; copies forget it
        return self._words.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of words, without those in brackets."""
        return self._words.decode(list(ids), skip_special_tokens=True).strip()

    def number(self, word: str) -> int:
        """That of a word that must be there whole: a coordinate or a class."""
        if word not in self.ids:
            raise UserError(
                f"{self.name} has no word '{word}': `mmmask vocabulary` makes coordinates (--coordinates) and "
                "classes (--classes) words."
            )
        return self.ids[word]

    def coordinates(self, which: int, values: int) -> list[int]:
        """The numbers of `v0=0`, `v0=1` and so on, or of v1, v2, v3."""
        return [self.number(f"v{which}={value}") for value in range(values)]


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
    """Coordinates and classes are no longer special: the library reads and writes all special words, or none."""
    from tokenizers import Tokenizer

    try:
        added = [
            {**word, "special": word["special"] and bool(CONTROL.fullmatch(word["content"]))}
            for word in content.get("added_tokens", [])
        ]
        words = Tokenizer.from_str(json.dumps({**content, "added_tokens": added}))
    except Exception as error:  # of no more special class
        raise UserError(f"{name} is no file of the tokenizers library. `mmmask vocabulary` makes one.") from error
    words.no_padding()
    words.no_truncation()
    return words


def _sentinels(ids: dict[str, int], name: str) -> tuple[int, int]:
    """The first, and the one beyond the last."""
    if "[S_0]" not in ids:
        raise UserError(f"{name} has no sentinels [S_0], [S_1], ...: make one with `mmmask vocabulary`.")
    first = ids["[S_0]"]
    for number in count():
        if f"[S_{number}]" not in ids:
            break
        if ids[f"[S_{number}]"] != first + number:
            raise UserError(f"the sentinels of {name} must follow one another, and [S_{number}] does not.")
    return first, first + number
