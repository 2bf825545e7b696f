"""Budgets agree with their definition: means, exact sums, caps and minima."""

import numpy as np
import pytest

from mmmask.draws import Draws
from mmmask.masking.budgets import budgets

ALPHAS = [[0.01] * 4, [1.0] * 4, [10.0] * 4, [1000.0, 0.0, 0.0, 0.0], [5.0, 0.5, 0.5, 0.0]]
MUCH = np.full(4, 10**6)


def drawn(alphas, n=10_000, total=128, least=0, most=None, seed=0):
    shape = np.ones((n, 1), dtype=np.int64)
    draws = Draws(np.arange(n) + seed * 10**6)
    most = np.asarray(MUCH if most is None else most)
    return budgets(np.full(n, total), np.asarray(alphas) * shape, np.full(4, least), most * shape, draws)


@pytest.mark.parametrize("alphas", ALPHAS)
def test_all_is_given_out_and_the_means_are_those_of_the_distribution(alphas):
    found, alphas = drawn(alphas), np.asarray(alphas)
    assert (found.sum(1) == 128).all()
    expected = 128 * alphas / alphas.sum()
    a0 = alphas.sum()
    std = 128 * np.sqrt(alphas * (a0 - alphas) / (a0**2 * (a0 + 1)))
    # What rounding down leaves, less than one for each, is dealt out by the largest draw, which favours no equal.
    room = 3 * std / 100 + (0 if len(set(alphas)) == 1 else 2)
    assert (np.abs(found.mean(0) - expected) <= room + 1e-9).all()
    assert not found[:, alphas == 0].any()


def test_it_is_the_loop_over_samples_that_4m_defines():
    """The same law as one sample after the other: equal means and spreads of sorted budgets."""
    rng, slow = np.random.default_rng(1), []
    alphas, most = np.array([0.2, 1.0, 3.0, 0.5]), np.array([40, 20, 128, 10])
    for _ in range(4000):
        found = np.floor(rng.dirichlet(alphas) * 128).astype(int)
        for _ in range(128 - found.sum()):
            found[rng.dirichlet(alphas).argmax()] += 1
        slow.append(np.minimum(found, most))
    fast = drawn(alphas, most=most)
    slow = np.array(slow)
    error = np.sqrt(slow.var(0) / len(slow) + fast.var(0) / len(fast))
    assert (np.abs(slow.mean(0) - fast.mean(0)) < 4 * error + 1e-9).all()
    np.testing.assert_allclose(slow.std(0), fast.std(0), rtol=0.05)


def test_caps_and_minima_always_hold():
    found = drawn([0.01] * 4, least=3, most=[200, 100, 50, 4])
    assert (found >= 3).all()
    assert (found <= [200, 100, 50, 4]).all()
    assert (found.sum(1) <= 128).all()
    hopeless = drawn([1000.0, 0.0, 0.0, 0.0], least=3)  # luck alone never brings it
    assert (hopeless == [119, 3, 3, 3]).all()


def test_the_same_seed_draws_the_same():
    assert (drawn([0.1] * 4, 50, seed=3) == drawn([0.1] * 4, 50, seed=3)).all()
    assert (drawn([0.1] * 4, 50, seed=3) != drawn([0.1] * 4, 50, seed=4)).any()
