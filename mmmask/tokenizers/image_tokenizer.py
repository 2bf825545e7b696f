"""What all image tokenizers have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from mmmask.errors import UserError
from mmmask.tokenizers.contents import Content, Intensity
from mmmask.tokenizers.quantizers import Quantizer
from mmmask.tokenizers.tokenizer import Tokenizer


class Reconstruction(NamedTuple):
    """Images after the way through their tokens, with the quantizer's own loss."""

    images: Tensor  # (B, C, H, W), not clamped: gradients must not stop at 0 and 1; logits of classes
    ids: Tensor  # (B, h, w)
    loss: Tensor  # ()


class ImageTokenizer(Tokenizer):
    """Square images, or other maps, to `grid` x `grid` ids out of `vocab_size`, and back.

    Images are `(B, C, H, W)` in 0..1, unless `content` says otherwise.
    """

    content: Content = Intensity()
    image_size: int
    grid: int
    quantizer: Quantizer

    @property
    def length(self) -> int:
        return self.grid**2

    @abstractmethod
    def forward(self, images: Tensor) -> Reconstruction:
        """There and back, with gradients; learns in training mode."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Token ids `(B, h, w)` of images."""

    @abstractmethod
    def decode(self, ids: Tensor) -> Tensor:
        """Images for token ids `(B, h, w)`."""

    def check_images(self, images: Tensor) -> None:
        """Refuse images of another shape than it was made for."""
        expected = (self.channels, self.image_size, self.image_size)
        if images.shape[1:] != expected:
            raise UserError(
                f"{type(self).__name__}: images have the shape {tuple(images.shape[1:])}, expected {expected}; "
                "resize the data, or set channels and image_size to fit it."
            )

    def check_ids(self, ids: Tensor) -> None:
        """Refuse a grid of another size than it makes."""
        side = self.grid
        if ids.shape[1:] != (side, side):
            raise UserError(
                f"{type(self).__name__}: ids have the shape {tuple(ids.shape)}, expected (B, {side}, {side}); decode "
                "with the tokenizer that made them."
            )

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The weights that make pixels: where losses of images are weighed against each other."""
