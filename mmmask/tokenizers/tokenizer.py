"""What all trained tokenizers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mmmask.tokenizers.contents import Content


class Tokenizer(nn.Module, ABC):
    """Data of one kind to `length` ids out of `vocab_size`, and back.

    `encode` and `decode` learn nothing, in whatever mode the module is.
    """

    content: Content
    vocab_size: int
    channels: int

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens of a sample."""

    @abstractmethod
    def forward(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """There and back, with gradients, as `content` puts it out; ids; the quantizer's loss. Learns in training
        mode."""

    @abstractmethod
    def encode(self, data: Tensor) -> Tensor:
        """Token ids of data as `content` reads them."""

    @abstractmethod
    def decode(self, ids: Tensor) -> Tensor:
        """Data for token ids."""
