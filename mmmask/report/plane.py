"""Samples on a plane, neighbours beside neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmmask.errors import UserError

LEAST = 10  # samples; of fewer there is no map
DIRECTIONS = 50  # that t-SNE is given


def on_a_plane(rows: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    """Places `(n, 2)` in 0..1 of rows `(n, D)`, by t-SNE of their leading directions."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise UserError("the map needs scikit-learn, which is not installed: pip install 'mmmask[report]'.") from None
    if len(rows) < LEAST:
        return np.zeros((0, 2))
    wide = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    vectors = np.linalg.eigh(wide.T @ wide)[1][:, ::-1][:, :DIRECTIONS]
    lead = wide @ vectors
    lead += 1e-6 * lead.std() * np.random.default_rng(seed).normal(size=lead.shape)  # equal rows must differ
    near = min(30.0, (len(rows) - 1) / 3)
    found = TSNE(perplexity=near, init="pca", max_iter=500, random_state=seed, n_jobs=1).fit_transform(lead)
    low, high = found.min(0), found.max(0)
    return ((found - low) / np.maximum(high - low, 1e-9)).astype(np.float64)
