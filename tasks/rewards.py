"""What finished images are worth to a policy: the judgement of an adversary that learns, or of a fixed measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.heads import ClassVector, Realness
from mmmask.metrics.frechet import frechet_distance, matrix_power, read_statistics
from mmmask.synthesis import ImageGenerator
from tasks.evaluating import extractor_of
from tasks.feature_maps import FeatureMaps


class Reward(nn.Module, ABC):
    """Images `(B, C, H, W)` in 0..1, drawn for `given` classes or texts, to what they are worth `(B,)`: more is better.

    What is frozen is no child of it: checkpoints hold what learns alone.
    """

    @abstractmethod
    def forward(self, images: Tensor, given: Tensor) -> Tensor: ...

    def check(self, generator: ImageGenerator) -> None:
        """Refuse a generator whose images it cannot judge."""


class LearningReward(Reward):
    """One that learns along with the policy."""

    @abstractmethod
    def loss(self, real: Tensor, drawn: Tensor, given: Tensor) -> Tensor:
        """How badly it tells real images from drawn ones `(B, C, H, W)` of the same `given`."""


class Adversarial(LearningReward):
    """AdaNAT's own: a projected discriminator, which learns to tell drawn images as the policy learns to deceive it.

    Args:
        features: frozen network that looks at the images.
        classes: how many the images follow; or:
        text: width of the vectors of texts that they follow.
        width: of the heads.
        dim: of the vector of a class, of which `depth` layers are made.
    """

    def __init__(
        self,
        features: FeatureMaps,
        classes: int | None = None,
        text: int | None = None,
        width: int = 64,
        dim: int = 512,
        depth: int = 8,
    ) -> None:
        super().__init__()
        if (classes is None) == (text is None):
            raise UserError("Adversarial: give either classes, how many there are, or text, the width of its vectors.")
        self.classes = classes
        self.__dict__["features"] = features.eval().requires_grad_(False)
        self.vector = None if classes is None else ClassVector(classes, dim, depth)
        self.heads = nn.ModuleList(Realness(channels, text or dim, width) for channels in features.channels)

    def check(self, generator: ImageGenerator) -> None:
        if self.classes != generator.classes:
            follows = f"{generator.classes} classes" if generator.classes else "texts"
            raise UserError(f"Adversarial: the generator follows {follows}, the reward {self.classes or 'texts'}.")

    def forward(self, images: Tensor, given: Tensor) -> Tensor:
        return self.logits(images, given).mean(1).sigmoid()

    def loss(self, real: Tensor, drawn: Tensor, given: Tensor) -> Tensor:
        """Binary cross entropy of both."""
        return F.softplus(-self.logits(real, given)).mean() + F.softplus(self.logits(drawn, given)).mean()

    def logits(self, images: Tensor, given: Tensor) -> Tensor:
        """How real each place at each depth looks `(B, T)`."""
        with torch.no_grad():
            maps = self.__dict__["features"].to(images.device)(images)
        wanted = F.normalize(given.mean(1), dim=1) if self.vector is None else self.vector(given)
        return torch.cat([head(seen, wanted) for head, seen in zip(self.heads, maps, strict=True)], 1)


class FrechetReward(Reward):
    """Minus the Frechet distance (FID) to real images of all that are judged together, and how much each lowers it.

    Take several times as many at once as there are features. The paper reports a collapse with FID as the reward; for
    what happens with this one see docs/results/decoding.md.

    Args:
        statistics: mean and covariance of real features, as `mmmask evaluate --save_statistics` keeps them.
        judge: classifier of mmmask whose features are compared; or:
        inception: weights of FID's Inception, as torch-fidelity publishes them.
    """

    def __init__(self, statistics: Path, judge: Path | None = None, inception: Path | None = None) -> None:
        super().__init__()
        extractor = extractor_of(judge, inception).eval().requires_grad_(False)
        self.__dict__["extractor"] = extractor
        mean, covariance = read_statistics(statistics, extractor.dim)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("root", matrix_power(covariance, 0.5), persistent=False)

    def forward(self, images: Tensor, given: Tensor) -> Tensor:
        """An image of more weight moves the mean m by d = f - m, and the covariance S by d d^T - S."""
        features = self.__dict__["extractor"].to(images.device)(images).features.double()
        mean, root = self.get_buffer("mean"), self.get_buffer("root")
        deviation = features - features.mean(0)
        covariance = deviation.T @ deviation / len(deviation)
        distance = frechet_distance(features.mean(0), covariance, mean, root)
        pull = torch.eye(len(mean), device=images.device) - root @ matrix_power(root @ covariance @ root, -0.5) @ root
        by_mean = 2 * deviation @ (features.mean(0) - mean)
        by_covariance = ((deviation @ pull) * deviation).sum(1) - (pull * covariance).sum()
        return -(distance + by_mean + by_covariance).float()


class Recognised(Reward):
    """How sure a classifier is of the class that was asked for: a reward model. A policy pleases it with images that
    are ever more alike: see docs/decoding.md.

    Args:
        judge: classifier of mmmask.
    """

    def __init__(self, judge: Path) -> None:
        super().__init__()
        self.__dict__["extractor"] = extractor_of(judge, None).requires_grad_(False)

    def check(self, generator: ImageGenerator) -> None:
        if generator.classes is None:
            raise UserError("Recognised: the generator follows texts; there is no class to recognise.")

    def forward(self, images: Tensor, given: Tensor) -> Tensor:
        chances = self.__dict__["extractor"].to(images.device)(images).logits.softmax(1)
        return chances.gather(1, given[:, None])[:, 0]
