"""Networks that look at images for a metric: features to compare, and what class they would say."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.tokens import vectors_of
from mmmask.transformer import MaskedTransformer


class Look(NamedTuple):
    """Of images: features `(B, D)` and class logits `(B, K)`."""

    features: Tensor
    logits: Tensor


class Extractor(nn.Module, ABC):
    """Images `(B, C, H, W)` in 0..1 to features of `dim` numbers and logits."""

    dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Look: ...


class ImageClassifier(Extractor, ABC):
    """An extractor that is trained here, for images of so many `channels` in so many `classes`."""

    classes: int
    channels: int


class EncoderClassifier(ImageClassifier):
    """The encoder of a masked transformer that looks at patches, as 4M's does: its features are the mean of its memory.

    Args:
        backbone: with a grid of patches among its modalities; its decoder is not used and may have no blocks.
        classes: how many there are.
        image: the modality of the patches.
        channels: of images.
    """

    def __init__(self, backbone: MaskedTransformer, classes: int, image: str = "rgb@224", channels: int = 3) -> None:
        super().__init__()
        modality = backbone.embedding.catalogue[image]
        self.grid, self.patch = math.isqrt(modality.length), math.isqrt((modality.channels or 0) // channels)
        if not self.patch or self.patch**2 * channels != modality.channels or self.grid**2 != modality.length:
            raise UserError(f"EncoderClassifier: {image} is no square grid of square patches of {channels} channels.")
        self.backbone, self.classes, self.channels, self.dim = backbone, classes, channels, backbone.encoder.dim
        self.number = backbone.embedding.catalogue.number(image)
        self.head = nn.Linear(self.dim, classes)

    def forward(self, images: Tensor) -> Look:
        side = self.grid * self.patch
        if images.shape[-2:] != (side, side):
            raise UserError(f"EncoderClassifier: images are {tuple(images.shape[-2:])}, the backbone is for {side}.")
        patches = (2 * images - 1).unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # (B, C, h, p, w, q)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # row, column, channel
        features = self.backbone.encode(vectors_of(patches, self.number)).features.mean(1)
        return Look(features, self.head(features))


class Classifier(ImageClassifier):
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
