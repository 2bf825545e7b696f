"""Budgets agree with their definition: means, exact sums, caps and minima."""

import numpy as np
import pytest

from mmmask.draws import Draws
from mmmask.masking.budgets import budgets

DRAWS, TOTAL = 10_000, 128
EQUAL = [[0.01] * 4, [1.0] * 4, [10.0] * 4]
UNCAPPED = [10**6] * 4
LAWS = {  # alphas, least, most
    "one alone": ([1000.0, 0.0, 0.0, 0.0], 0, UNCAPPED),
    "some never": ([5.0, 0.5, 0.5, 0.0], 0, UNCAPPED),
    "few at a time": ([0.02, 0.01, 0.01, 0.05], 0, [200, 100, 50, 4]),
    "capped": ([0.2, 1.0, 3.0, 0.5], 0, [40, 20, 128, 10]),
    "with minima": ([0.5, 1.0, 3.0, 2.0], 3, UNCAPPED),
    "capped, with minima": ([1.0, 1.0, 3.0, 2.0], 2, [200, 30, 50, 10]),
}


def drawn(alphas, n=DRAWS, least=0, most=UNCAPPED, seed=0):
    shape = np.ones((n, 1), dtype=np.int64)
    draws = Draws(np.arange(n) + seed * 10**6)
    return budgets(np.full(n, TOTAL), np.asarray(alphas) * shape, np.full(4, least), np.asarray(most) * shape, draws)


def by_definition(alphas, least, most):
    """One sample after the other, as 4M defines it."""
    rng, alphas, found = np.random.default_rng(1), np.asarray(alphas), []
    while len(found) < DRAWS:
        shares = np.zeros((5, len(alphas)))
        shares[:, alphas > 0] = rng.dirichlet(alphas[alphas > 0], 5)  # the last four for what is left, fewer than four
        one = np.floor(shares[0] * TOTAL).astype(int)
        for more in shares[1 : 1 + TOTAL - one.sum()]:
            one[more.argmax()] += 1
        one = np.minimum(one, most)
        if (one >= least).all():
            found.append(one)
    return np.array(found)


@pytest.mark.parametrize("alphas", EQUAL)
def test_all_is_given_out_and_the_means_of_equals_are_those_of_the_distribution(alphas):
    found, alphas = drawn(alphas), np.asarray(alphas)
    assert (found.sum(1) == TOTAL).all()
    a0 = alphas.sum()
    std = TOTAL * np.sqrt(alphas * (a0 - alphas) / (a0**2 * (a0 + 1)))
    assert (np.abs(found.mean(0) - TOTAL / 4) < 3 * std / np.sqrt(DRAWS)).all()


@pytest.mark.parametrize("law", LAWS)
def test_it_is_the_loop_over_samples_that_4m_defines(law):
    """Means are within three deviations of those of as many samples drawn by the definition, and spreads are alike.
    (Rounding and caps move the means of unequal alphas away from those of the distribution.)"""
    alphas, least, most = LAWS[law]
    slow, fast = by_definition(alphas, least, most), drawn(alphas, least=least, most=most)
    assert (fast >= least).all()
    assert (fast <= most).all()
    assert (fast.sum(1) <= TOTAL).all()
    error = np.sqrt((slow.var(0) + fast.var(0)) / DRAWS)
    assert (np.abs(slow.mean(0) - fast.mean(0)) <= 3 * error).all()
    np.testing.assert_allclose(slow.std(0), fast.std(0), rtol=0.05)
    np.testing.assert_array_equal(fast.max(0)[np.equal(alphas, 0)], 0)


def test_minima_hold_where_luck_alone_would_hardly_ever_bring_them():
    found = drawn([0.01] * 4, 500, least=3, most=[200, 100, 50, 4])
    assert (found >= 3).all()
    assert (found <= [200, 100, 50, 4]).all()
    assert (found.sum(1) <= TOTAL).all()
    hopeless = drawn([1000.0, 0.0, 0.0, 0.0], 500, least=3)
    assert (hopeless == [119, 3, 3, 3]).all()


def test_the_same_seed_draws_the_same():
    assert (drawn([0.1] * 4, 50, seed=3) == drawn([0.1] * 4, 50, seed=3)).all()
    assert (drawn([0.1] * 4, 50, seed=3) != drawn([0.1] * 4, 50, seed=4)).any()
