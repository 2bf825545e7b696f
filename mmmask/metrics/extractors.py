"""Networks that look at images for a metric: features to compare, and what class they would say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmmask.errors import UserError


class Look(NamedTuple):
    """Of images: features `(B, D)` and class logits `(B, K)`."""

    features: Tensor
    logits: Tensor


class Extractor(nn.Module, ABC):
    """Images `(B, C, H, W)` in 0..1 to features of `dim` numbers and logits."""

    dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Look: ...


class Classifier(Extractor):
    """A small convolutional classifier, to judge small images: its features are the pooled last layer."""

    def __init__(self, classes: int, channels: int = 1, dim: int = 128) -> None:
        super().__init__()
        widths = [(channels, dim // 4, 1), (dim // 4, dim // 2, 2), (dim // 2, dim // 2, 1), (dim // 2, dim, 2)]
        self.classes, self.channels, self.dim = classes, channels, dim
        self.body = nn.Sequential(*(_layer(*sizes) for sizes in [*widths, (dim, dim, 1)]))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Look:
        features = self.body(2 * images - 1).mean((2, 3))
        return Look(features, self.head(self.dropout(features)))


class Inception(Extractor):
    """The Inception of FID, by torch-fidelity, with its weights (pt_inception-2015-12-05-6726825d.pth) from a file.

    Images are rounded to 8 bits, as FID does it.
    """

    dim = 2048

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError("FID's Inception needs torch-fidelity: pip install 'mmmask[evaluate]'.") from error
        if not weights.is_file():
            raise UserError(f"{weights} does not exist: put there the weights that torch-fidelity publishes.")
        wanted = ["2048", "logits_unbiased"]
        self.net = FeatureExtractorInceptionV3(
            "inception-v3-compat", wanted, feature_extractor_weights_path=str(weights)
        )

    def forward(self, images: Tensor) -> Look:
        bytes_ = (images.expand(-1, 3, -1, -1) * 255).round().to(torch.uint8)
        return Look(*self.net(bytes_))


def _layer(narrow: int, wide: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
