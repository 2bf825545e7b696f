"""Encoders of one kind of data each, of which `Towers` has one for each look; vectors that are there already."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError

HALF = 0.5  # mean and spread of pixels, where a model names none


class Tower(nn.Module, ABC):
    """Raw data, as a batch holds it, to one vector of `width` numbers for each sample.

    `source` is the entry of the batch that holds the data (default: the name of the look).
    """

    width: int

    def __init__(self, source: str | None = None) -> None:
        super().__init__()
        self.source = source

    @abstractmethod
    def forward(self, raw: Any) -> Tensor:
        """Vectors `(B, width)`."""

    @abstractmethod
    def there(self, raw: Any) -> Tensor:
        """Which samples hold anything `(B,)`, on the CPU."""

    def blocks(self) -> Sequence[nn.Module]:
        """From below: the one list of modules that attend. Networks in stages have several, others none: nothing of
        them is trained in part."""
        lists = [list(m) for m in self.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)]
        attend = [some for some in lists if all(any("att" in name for name, _ in m.named_children()) for m in some)]
        return attend[0] if len(attend) == 1 else []

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that it was made of, without what is found on this machine alone."""
        return dict(spec)


class Vectors(Tower):
    """Features that were computed before: a batch holds `(B, width)` numbers. Zeros alone: absent; NaN is an error.

    `dropout` leaves out some of them in training, so that two views of a sample differ.
    """

    def __init__(self, width: int, dropout: float = 0.1, source: str | None = None) -> None:
        super().__init__(source)
        if width < 1 or not 0 <= dropout < 1:
            raise UserError(f"Vectors: width is {width}, dropout {dropout}; give 1 or more, and 0 to below 1.")
        self.width, self.dropout = width, nn.Dropout(dropout)
        self.register_buffer("here", torch.zeros(0), persistent=False)  # where vectors are to go

    here: Tensor

    def forward(self, raw: Tensor) -> Tensor:
        if raw.ndim != 2 or raw.shape[1] != self.width:
            raise UserError(f"Vectors: the batch holds {tuple(raw.shape)}, expected (samples, {self.width}).")
        return self.dropout(F.normalize(raw.to(self.here.device).float().nan_to_num(), dim=-1))

    def there(self, raw: Tensor) -> Tensor:
        return raw.isfinite().all(1).cpu() & (raw != 0).any(1).cpu()


class PictureTower(Tower):
    """Pictures `(B, C, H, W)`, bytes or numbers in 0..1, in the size and colours that a network was made for."""

    net: Any
    size: tuple[int, int]

    def colours(self, mean: Sequence[float] | None, spread: Sequence[float] | None) -> None:
        """Keep the mean and spread of pixels that the network was made for."""
        for name, numbers in (("mean", mean), ("spread", spread)):
            values = torch.tensor(list(numbers) if numbers is not None else [HALF] * 3)
            self.register_buffer(name, values.view(-1, 1, 1), persistent=False)

    def pixels(self, raw: Tensor) -> Tensor:
        """As the network wants them; a single channel is grey."""
        mean, spread = self.get_buffer("mean"), self.get_buffer("spread")
        picture = raw.to(mean.device).float() / (1.0 if raw.is_floating_point() else 255.0)
        if picture.shape[1] == 1:
            picture = picture.expand(-1, len(mean), -1, -1)
        if picture.shape[1] != len(mean):
            raise UserError(
                f"{type(self).__name__}: pictures have {picture.shape[1]} channels, expected {len(mean)} or 1; set "
                "channels of the reader."
            )
        if picture.shape[2:] != self.size:
            picture = F.interpolate(picture, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return (picture - mean) / spread

    def there(self, raw: Tensor) -> Tensor:
        return torch.ones(len(raw), dtype=torch.bool)


class TextTower(Tower):
    """Texts; an empty one is absent."""

    def there(self, raw: Sequence[str]) -> Tensor:
        return torch.tensor([bool(text and text.strip()) for text in raw])


def with_settings(spec: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A configuration with other settings."""
    return {**spec, "init_args": {**spec["init_args"], **changes}}
