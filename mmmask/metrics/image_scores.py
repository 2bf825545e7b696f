"""All scores of generated images from one look at each."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from mmmask.errors import UserError
from mmmask.files import written_whole
from mmmask.metrics.extractors import Extractor
from mmmask.metrics.frechet import read_statistics
from mmmask.metrics.manifold import precision_recall


class ImageScores:
    """Frechet distance, inception score, precision, recall, and how often the asked class is recognised."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor.eval()
        self._frechet = FrechetInceptionDistance(_Given(extractor.dim))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it keeps all logits: a few bytes an image
            self._inception = InceptionScore(nn.Identity())
        self._from_file = False
        self._real: list[Tensor] = []
        self._generated: list[Tensor] = []
        self._recognised: list[Tensor] = []

    @torch.no_grad()
    def add_real(self, images: Tensor) -> None:
        """Images to compare with."""
        features = self.extractor(images).features.cpu()
        self._real.append(features)
        if not self._from_file:
            self._frechet.update(features, real=True)

    def add_statistics(self, path: Path) -> None:
        """Mean and covariance of real features from a file (mu, sigma in .npz): the Frechet distance is to these."""
        mean, covariance = read_statistics(path, self.extractor.dim)
        n = 2  # any number gives these back: what counts are sums over n and n - 1
        self._frechet.real_features_sum = n * mean
        self._frechet.real_features_cov_sum = (n - 1) * covariance + n * torch.outer(mean, mean)
        self._frechet.real_features_num_samples = torch.tensor(n)
        self._from_file = True

    def save_statistics(self, path: Path) -> None:
        """Mean and covariance of the real features, for `add_statistics`."""
        if not self._real:
            raise UserError("there are no real images to keep statistics of: give real.")
        features = torch.cat(self._real).double().numpy()
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as stream:
            np.savez(stream, mu=features.mean(0), sigma=np.cov(features, rowvar=False))

    @torch.no_grad()
    def add_generated(self, images: Tensor, classes: Tensor | None = None) -> None:
        """Images to judge, and the classes `(B,)` that were asked for."""
        look = self.extractor(images)
        self._generated.append(look.features.cpu())
        self._frechet.update(look.features.cpu(), real=False)
        self._inception.update(look.logits.cpu())
        if classes is not None:
            self._recognised.append(look.logits.argmax(1).cpu() == classes.cpu())

    def compute(self) -> dict[str, float]:
        """All scores there is enough to compute from."""
        if sum(map(len, self._generated)) < 2:
            raise UserError("scores need two generated images at least.")
        scores = {}
        if self._frechet.real_features_num_samples > 1:
            scores["frechet_distance"] = self._frechet.compute().item()
        with torch.random.fork_rng([]):  # it shuffles
            torch.manual_seed(0)
            scores["inception_score"] = self._inception.compute()[0].item()
        if self._real:
            both = precision_recall(torch.cat(self._real), torch.cat(self._generated))
            scores["precision"], scores["recall"] = both
        if self._recognised:
            scores["consistency"] = torch.cat(self._recognised).double().mean().item()
        return scores


class _Given(nn.Module):
    """Features that are there already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        return features
