"""Contents: what raw data of a kind are to a network, how wrong a reconstruction is, and how it looks.

Channels lie along dimension 1: maps are `(B, C, H, W)`, vectors `(B, C)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.image import PeakSignalNoiseRatio

from mmmask.errors import UserError

BEND = 0.1  # error, as a share of the range, from which on smooth L1 is linear


class Content(ABC):
    """A kind of data; has no weights. `channels` is how many a network has for it, on either side.

    `error` is the name of its loss.
    """

    error: str

    @abstractmethod
    def read(self, raw: Tensor) -> Tensor:
        """Data as all else here takes them, of what a batch holds."""

    @abstractmethod
    def planes(self, data: Tensor, channels: int) -> Tensor:
        """What goes into a network, about -1..1."""

    def output(self, y: Tensor) -> Tensor:
        """What comes out of it, on the scale of the data; with gradients."""
        return y

    @abstractmethod
    def finish(self, output: Tensor) -> Tensor:
        """Data of an output."""

    @abstractmethod
    def loss(self, output: Tensor, data: Tensor) -> Tensor:
        """How far an output is from the data, `()`."""

    @abstractmethod
    def measures(self, channels: int) -> dict[str, Metric]:
        """Errors of finished data, by name; updated with what was found and what is true."""

    def picture(self, data: Tensor) -> Tensor | None:
        """Data as pictures `(B, 1 or 3, H, W)` in 0..1, if they can be seen."""
        return None


class Intensity(Content):
    """Numbers from `low` to `high`: pictures, depth. uint8 spans that range; floats are taken as they are."""

    def __init__(self, low: float = 0.0, high: float = 1.0, error: Literal["mse", "smooth_l1"] = "mse") -> None:
        if low >= high:
            raise UserError(f"Intensity: low ({low:g}) must be below high ({high:g}).")
        if error not in ("mse", "smooth_l1"):
            raise UserError(f"Intensity: error is '{error}'; choose mse or smooth_l1.")
        self.low, self.range, self.error = low, high - low, error

    def read(self, raw: Tensor) -> Tensor:
        return self.low + raw.float() / 255 * self.range if raw.dtype == torch.uint8 else raw

    def planes(self, data: Tensor, channels: int) -> Tensor:
        return 2 * ((data - self.low) / self.range) - 1

    def output(self, y: Tensor) -> Tensor:
        return self.low + (y + 1) / 2 * self.range

    def finish(self, output: Tensor) -> Tensor:
        return output.clamp(self.low, self.low + self.range)

    def loss(self, output: Tensor, data: Tensor) -> Tensor:
        if self.error == "mse":
            return F.mse_loss(output, data)
        return F.smooth_l1_loss(output, data, beta=BEND * self.range)

    def measures(self, channels: int) -> dict[str, Metric]:
        return {"mse": MeanSquaredError(), "psnr": PeakSignalNoiseRatio(data_range=self.range)}

    def picture(self, data: Tensor) -> Tensor | None:
        return (data - self.low) / self.range if data.shape[1] in (1, 3) else None


class Normals(Content):
    """Directions `(B, 3, H, W)`: floats in -1..1, or uint8 that spans it. Zero is no direction and counts nowhere."""

    error = "cosine"

    def read(self, raw: Tensor) -> Tensor:
        return raw.float() / 127.5 - 1 if raw.dtype == torch.uint8 else raw

    def planes(self, data: Tensor, channels: int) -> Tensor:
        return data

    def finish(self, output: Tensor) -> Tensor:
        return F.normalize(output, dim=1)

    def loss(self, output: Tensor, data: Tensor) -> Tensor:
        there = data.norm(dim=1) > 0.5
        away = 1 - F.cosine_similarity(output, data, dim=1)
        return (away * there).sum() / there.sum().clamp(min=1)

    def measures(self, channels: int) -> dict[str, Metric]:
        return {"angle": MeanOf(_angles)}

    def picture(self, data: Tensor) -> Tensor | None:
        return (data + 1) / 2


class ClassMap(Content):
    """A class for each pixel, out of as many as a network has channels: ids `(B, H, W)` or `(B, 1, H, W)`."""

    error = "cross_entropy"

    def read(self, raw: Tensor) -> Tensor:
        return (raw.squeeze(1) if raw.ndim == 4 else raw).long()

    def planes(self, data: Tensor, channels: int) -> Tensor:
        if data.numel() and not 0 <= int(data.min()) <= int(data.max()) < channels:
            wrong = int(data.min()) if data.min() < 0 else int(data.max())
            raise UserError(
                f"ClassMap: there is a pixel of class {wrong}, but {channels} classes: set channels to fit."
            )
        return 2 * F.one_hot(data, channels).movedim(-1, 1).float() - 1

    def finish(self, output: Tensor) -> Tensor:
        return output.argmax(1)

    def loss(self, output: Tensor, data: Tensor) -> Tensor:
        return F.cross_entropy(output, data)

    def measures(self, channels: int) -> dict[str, Metric]:
        return {
            "accuracy": MulticlassAccuracy(channels, average="micro"),  # share of pixels
            "miou": MulticlassJaccardIndex(channels),  # mean over the classes that occur, of all samples together
        }

    def picture(self, data: Tensor) -> Tensor | None:
        """A hue for each class; class 0 is black."""
        turn = 0.618 * data[:, None] + torch.tensor([0, 1 / 3, 2 / 3], device=data.device).view(3, 1, 1)
        return (0.5 + 0.5 * (2 * torch.pi * turn).cos()) * (data > 0)[:, None]


class Features(Content):
    """Features of a network, as maps or vectors; by cosine only their direction is learned, by mse also their length.

    Floats of about unit size, best standardised.
    """

    def __init__(self, error: Literal["cosine", "mse"] = "cosine") -> None:
        if error not in ("cosine", "mse"):
            raise UserError(f"Features: error is '{error}'; choose cosine or mse.")
        self.error = error

    def read(self, raw: Tensor) -> Tensor:
        return raw.float()

    def planes(self, data: Tensor, channels: int) -> Tensor:
        return data

    def finish(self, output: Tensor) -> Tensor:
        return output

    def loss(self, output: Tensor, data: Tensor) -> Tensor:
        return F.mse_loss(output, data) if self.error == "mse" else _turned(output, data).mean()

    def measures(self, channels: int) -> dict[str, Metric]:
        return {"cosine": MeanOf(_turned)} | ({"mse": MeanSquaredError()} if self.error == "mse" else {})


class MeanOf(Metric):
    """Mean of an error over all that there is; NaN counts nowhere."""

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, error: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.error = error
        self.add_state("total", torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, found: Tensor, true: Tensor) -> None:
        errors = self.error(found, true)
        self.total += errors.nansum()
        self.count += (~errors.isnan()).sum()

    def compute(self) -> Tensor:
        return (self.total / self.count).float()


def _turned(found: Tensor, true: Tensor) -> Tensor:
    """1 - cosine along the channels."""
    return 1 - F.cosine_similarity(found, true, dim=1)


def _angles(found: Tensor, true: Tensor) -> Tensor:
    """Degrees between directions; NaN where there is none."""
    angle = F.cosine_similarity(found, true, dim=1).clamp(-1, 1).acos().rad2deg()
    return angle.where(true.norm(dim=1) > 0.5, torch.nan)
