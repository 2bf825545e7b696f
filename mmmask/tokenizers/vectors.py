"""The codec of vectors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.tokenizers.trained_codec import TrainedCodec
from mmmask.tokenizers.typed_files import json_in
from mmmask.tokenizers.vector_tokenizer import VectorTokenizer


class Vectors(TrainedCodec):
    """A few words for a vector; batches hold vectors `(B, C)` or ids `(B, L)`."""

    kind = "vector"

    def __init__(self, tokenizer: VectorTokenizer, source: str | None = None) -> None:
        super().__init__(tokenizer, (tokenizer.length,), source)

    def typed(self, text: str) -> Tensor:
        try:
            return torch.tensor(json_in(Path(text)), dtype=torch.float)[None]
        except (TypeError, ValueError) as error:
            raise UserError(f"{text} is no list of numbers.") from error

    def seen(self, raw: Tensor) -> list[str]:
        """Lists of numbers, as `typed` reads them; nothing where a vector is absent."""
        return ["" if row.isnan().any() else f"[{', '.join(f'{x:.4g}' for x in row.tolist())}]" for row in raw]
