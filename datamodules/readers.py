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
from typing import Any

import numpy as np
import torch

from datamodules.shards import BadSample
from datamodules.windows import Cropping, Window
from mmmask.errors import UserError, nearest

PICKLES = ("pkl", "pickle", "pyd", "pth", "pt")
Batch = Sequence[Any]


class Reader(ABC):
    """Turns the bytes of `field` into a value, and a list of values into what the batch holds."""

    cropping: Cropping | None = None  # how the part is found that is seen, of what has parts

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
