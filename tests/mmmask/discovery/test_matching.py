"""Matching clusters to classes, by hand and against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.clustering import adjusted_rand_score

from mmmask.discovery import adjusted_rand, contingency, match, matched_accuracy


def test_accuracy_by_hand():
    clusters, classes = [900, 900, 900, 5, 5, 7], [0, 0, 1, 1, 1, 2]
    found = matched_accuracy(clusters, classes, old=[0])
    assert (found.all, found.old, found.new) == pytest.approx((5 / 6, 1.0, 3 / 4))


def test_more_classes_than_clusters_leave_some_without():
    table = contingency([0, 0, 1], [0, 1, 2])
    assert sorted(match(table).tolist()) == [-1, 0, 1]
    found = matched_accuracy([0, 0, 0], [0, 0, 1], old=[0, 1])
    assert (found.all, found.new) == (pytest.approx(2 / 3), None)


def test_adjusted_rand_equals_torchmetrics():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, 200), rng.integers(3, 11, 200)
    other[:120] = one[:120]
    expected = adjusted_rand_score(torch.tensor(one), torch.tensor(other)).item()
    assert adjusted_rand(one, other) == pytest.approx(expected, abs=1e-6)
    assert adjusted_rand(one, one + 7) == 1
    assert adjusted_rand(one, np.zeros(200)) == 0
    assert adjusted_rand([1], [2]) == 1
