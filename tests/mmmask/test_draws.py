"""Draws have the laws they should, and are those of a sample whatever is around it."""

import numpy as np
import pytest

from mmmask.draws import Draws


def test_uniform_numbers_are_uniform_and_independent():
    found = Draws(np.arange(2000)).uniform((1,), 50)
    assert 0 < found.min() < 1e-4
    assert 1 - 1e-4 < found.max() < 1
    counts = np.histogram(found, 20, (0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi squared, 19 degrees, 1 in 1,000
    others = [Draws(np.arange(2000)).uniform(use, 50) for use in ((2,), (1, 0), (0, 1))]
    for other in [found[:, ::-1], found[::-1], *others]:
        assert abs(np.corrcoef(found.ravel(), other.ravel())[0, 1]) < 0.01


@pytest.mark.parametrize("alphas", [[0.05, 0.05, 0.3], [1.0, 2.0, 4.0], [100.0, 50.0, 1.0]])
def test_dirichlet_draws_have_its_means_and_spreads(alphas):
    alphas = np.array(alphas)
    logs = Draws(np.arange(20_000)).log_dirichlet((0,), np.tile(alphas, (20_000, 1)))[:, 0]
    found = np.exp(logs - logs.max(1, keepdims=True))
    found /= found.sum(1, keepdims=True)
    a0 = alphas.sum()
    std = np.sqrt(alphas * (a0 - alphas) / (a0**2 * (a0 + 1)))
    np.testing.assert_allclose(found.mean(0), alphas / a0, atol=4 * std.max() / 141)
    np.testing.assert_allclose(found.std(0), std, rtol=0.03)


def test_a_sample_draws_the_same_in_any_batch():
    whole = Draws(np.array([5, 6, 7]))
    alone = whole.of(np.array([2]))
    assert (whole.uniform((3, 1), 4, 2)[2] == alone.uniform((3, 1), 4, 2)[0]).all()
    alphas = np.ones((3, 2))
    assert (whole.log_dirichlet((0,), alphas)[2] == alone.log_dirichlet((0,), alphas[2:])[0]).all()


def test_a_modality_of_weight_0_gets_nothing():
    logs = Draws(np.arange(4)).log_dirichlet((0,), np.tile([0.0, 1.0], (4, 1)))
    assert np.isneginf(logs[:, 0, 0]).all()
    assert np.isfinite(logs[:, 0, 1]).all()
