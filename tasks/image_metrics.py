"""What many images are worth together: what a search makes small, and what the best policy is chosen by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mmmask.errors import UserError
from mmmask.metrics.frechet import frechet_distance, matrix_power, read_statistics
from tasks.evaluating import extractor_of
from tasks.finished import digest, fingerprint


class ImageMetric(Metric, ABC):
    """A number for images, over all ranks; less is better."""

    higher_is_better = False
    full_state_update = False

    @abstractmethod
    def update(self, images: Tensor, given: Tensor) -> None:
        """Look at images `(B, C, H, W)` in 0..1, drawn for these classes `(B,)` or text vectors."""

    @abstractmethod
    def compute(self) -> Tensor: ...

    def settings(self) -> dict[str, Any]:
        """What its numbers depend on: a search does not go on with another."""
        return {"class": type(self).__name__}


class FrechetDistance(ImageMetric):
    """How far features of images are from those of real ones (FID, if the features are Inception's).

    Args:
        statistics: mean and covariance of real features, as `mmmask evaluate --save_statistics` keeps them.
        judge: run folder of a trained classifier, or an exported one, whose features are compared; or:
        inception: weights of FID's Inception, as torch-fidelity publishes them.
    """

    number: Tensor
    total: Tensor
    squares: Tensor
    real_mean: Tensor
    real_root: Tensor

    def __init__(self, statistics: Path, judge: Path | None = None, inception: Path | None = None) -> None:
        super().__init__()
        for path in (statistics, judge, inception):
            if path is not None and not path.exists():
                raise UserError(f"{path} does not exist: it is needed to tell what images are worth.")
        if (judge is None) == (inception is None):
            raise UserError("FrechetDistance: give either judge, a classifier of mmmask, or inception, FID's weights.")
        extractor = extractor_of(judge, inception).eval().requires_grad_(False)
        self.__dict__["extractor"] = extractor  # no child: checkpoints need not hold it
        mean, covariance = read_statistics(statistics, extractor.dim)
        self.register_buffer("real_mean", mean, persistent=False)
        self.register_buffer("real_root", matrix_power(covariance, 0.5), persistent=False)
        self.of = {"real images": digest(statistics.read_bytes()), "looks through": fingerprint(extractor)}
        for name, shape in (("number", ()), ("total", mean.shape), ("squares", covariance.shape)):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self.of}

    @torch.no_grad()
    def update(self, images: Tensor, given: Tensor) -> None:
        features = self.__dict__["extractor"].to(images.device)(images).features.double()
        self.number += len(features)
        self.total += features.sum(0)
        self.squares += features.T @ features

    def compute(self) -> Tensor:
        if self.number < 2:
            raise UserError("a Frechet distance needs two images at least.")
        mean = self.total / self.number
        covariance = (self.squares - self.number * mean.outer(mean)) / (self.number - 1)
        return frechet_distance(mean, covariance, self.real_mean, self.real_root)
