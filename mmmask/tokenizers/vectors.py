"""The codec of vectors."""

from __future__ import annotations

from mmmask.tokenizers.vector_tokenizer import VectorTokenizer
from mmmask.tokenizers.words import Words


class Vectors(Words):
    """A few words for a vector; batches hold vectors `(B, C)` or ids `(B, L)`."""

    kind = "vector"

    def __init__(self, tokenizer: VectorTokenizer, source: str | None = None) -> None:
        super().__init__(tokenizer, (tokenizer.length,), source)
