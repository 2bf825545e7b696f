"""The codec of vectors."""

from __future__ import annotations

from mmmask.tokenizers.trained_codec import TrainedCodec
from mmmask.tokenizers.vector_tokenizer import VectorTokenizer


class Vectors(TrainedCodec):
    """A few words for a vector; batches hold vectors `(B, C)` or ids `(B, L)`."""

    kind = "vector"

    def __init__(self, tokenizer: VectorTokenizer, source: str | None = None) -> None:
        super().__init__(tokenizer, (tokenizer.length,), source)
