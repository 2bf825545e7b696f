"""One of a closed list, as one word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmmask.errors import UserError, nearest
from mmmask.modalities import Modality
from mmmask.tokenizers.codec import Codec
from mmmask.tokens import Data


class Choice(Codec):
    """Names of a closed list (a group, a colour) or their numbers. An empty name, None, and -1 are absent.

    Args:
        names: in the order of their numbers.
        source: entry of the batch that holds names or numbers.
    """

    def __init__(self, names: Sequence[str], source: str | None = None) -> None:
        super().__init__(source)
        self.names = [str(name) for name in names]
        self._numbers = {name: number for number, name in enumerate(self.names)}
        if not self.names or "" in self._numbers or len(self._numbers) < len(self.names):
            raise UserError(f"Choice: give names, each once, none of them empty; got {self.names}.")

    def modality(self, name: str) -> Modality:
        """A set of one."""
        return Modality(name, 1, len(self.names), kind="set")

    def encode(self, raw: Sequence[str | None] | Tensor) -> Data:
        """The number of each name."""
        if isinstance(raw, Tensor):
            numbers = raw.detach().cpu().numpy().astype(np.int64)
            if numbers.ndim != 1 or numbers.max(initial=-1) >= len(self.names):
                raise UserError(
                    f"Choice: there are {len(self.names)} names, so give labels (B,) below that; "
                    f"got {tuple(numbers.shape)} up to {numbers.max(initial=-1)}."
                )
        else:
            numbers = np.array([self._number(name) for name in raw], dtype=np.int64)
        return Data(np.maximum(numbers, 0)[:, None], (numbers >= 0).astype(np.int64))

    def _number(self, name: str | None) -> int:
        if name is None or name == "":
            return -1
        if (name := str(name)) not in self._numbers:
            some = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
            raise UserError(f"Choice: '{name}' is none of {some}.{nearest(name, self.names)}")
        return self._numbers[name]

    def typed(self, text: str) -> list[str]:
        return [text]

    def decode(self, ids: Tensor, length: Tensor) -> list[str]:
        """Names, empty where there is none."""
        chosen = torch.where(length > 0, ids[:, 0], -1).tolist()
        return [self.names[number] if number >= 0 else "" for number in chosen]
