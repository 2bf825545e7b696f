"""Ward and a CMS-like mean shift: baselines for small sets."""

import numpy as np
import pytest
from test_kmeans import blobs

from mmmask.discovery import mean_shift, ward
from mmmask.discovery.agglomerative import drawn_to_neighbours
from mmmask.errors import UserError
from mmmask.metrics.matching import agreement


def test_ward_finds_what_is_apart():
    rows, true, _ = blobs(300, spread=0.2)
    clusters = ward(rows, 8)
    assert sorted(set(clusters)) == list(range(8))
    assert agreement(clusters, true)["all"] == 1


def test_one_step_moves_half_way_to_the_mean_of_the_other_nearest_rows():
    rows = blobs(50)[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gaps = ((rows[:, None] - rows) ** 2).sum(-1)
    np.fill_diagonal(gaps, np.inf)
    expected = 0.5 * rows + 0.5 * rows[np.argsort(gaps, axis=1)[:, :8]].mean(1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(drawn_to_neighbours(rows), expected, rtol=1e-4, atol=1e-5)


def test_twins_are_neighbours_of_each_other():
    rows = np.repeat(np.eye(4, dtype=np.float32), 12, axis=0)
    np.testing.assert_allclose(drawn_to_neighbours(rows), rows, atol=1e-6)


def test_mean_shift_beats_ward_alone_on_noisy_rows():
    rows, true, labels = blobs(600, spread=1.3)
    clusters, steps = mean_shift(rows, labels, 8)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert steps >= 1
    assert agreement(clusters, true)["all"] > agreement(ward(unit, 8), true)["all"] + 0.05


def test_what_is_too_large_or_too_few_is_one_sentence():
    rows, _, labels = blobs(20)
    with pytest.raises(UserError, match="takes at most 15000 rows, found 15001: use KMeans"):
        ward(np.zeros((15001, 2), dtype=np.float32), 3)
    with pytest.raises(UserError, match="k=21 clusters were asked for, but there are 20 rows"):
        ward(rows, 21)
    with pytest.raises(UserError, match="30 neighbours were asked for, but there are 20 rows"):
        mean_shift(rows, labels, 8, neighbours=30)
