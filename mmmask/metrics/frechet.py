"""The Frechet distance of features, between normal distributions of the same mean and covariance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmmask.errors import UserError


def read_statistics(path: Path, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of real features of so many numbers (mu, sigma in .npz)."""
    try:
        with np.load(path) as content:
            mean, covariance = (torch.from_numpy(content[name]).double() for name in ("mu", "sigma"))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no file of statistics: an .npz with mu and sigma.") from error
    if mean.shape != (dim,):
        raise UserError(f"{path} is of {len(mean)} features, the extractor has {dim}.")
    return mean, covariance


def frechet_distance(mean: Tensor, covariance: Tensor, real_mean: Tensor, real_root: Tensor) -> Tensor:
    """|m - m_r|^2 + tr(S + S_r - 2 (S_r^1/2 S S_r^1/2)^1/2); `real_root` is S_r^1/2."""
    apart, mixed = mean - real_mean, matrix_power(real_root @ covariance @ real_root, 0.5)
    return apart @ apart + (covariance + real_root @ real_root - 2 * mixed).trace()


def matrix_power(matrix: Tensor, power: float) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues; tiny ones are rounding, and have no inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    values = torch.where(values > 1e-10 * values[-1], values, torch.inf if power < 0 else 0.0)
    return vectors * values**power @ vectors.T
