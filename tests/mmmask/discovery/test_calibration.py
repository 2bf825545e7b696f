"""Confidence says how often an assignment is right, and the threshold keeps what it promises on samples never seen."""

import numpy as np
import pytest

from mmmask.discovery.calibration import FEWEST, calibrated, confidences


def samples(count, seed):
    """Squared distances to four centres and the true ones: the nearest is right the more often the clearer it is."""
    rng = np.random.default_rng(seed)
    true = rng.integers(4, size=count)
    squares = 2.0 + rng.normal(size=(count, 4))
    squares[np.arange(count), true] -= 1.5
    return squares - squares.min(), true


def kept(found, squares, true):
    sure = confidences(squares, found.temperature).max(1) >= found.threshold
    return sure.mean(), (squares.argmin(1) == true)[sure].mean()


def test_what_is_to_be_expected_is_what_comes_where_the_threshold_alone_promises_too_much():
    fresh, promised, expected, came = samples(20_000, 999), [], [], []
    for seed in range(100):
        found = calibrated(*samples(60, seed), 0.9, seed)
        promised.append(found.reached)
        expected.append(found.tested)
        came.append(kept(found, *fresh))
    promised, expected, came = (np.array(part) for part in (promised, expected, came))
    # of all assigned ones: thresholds that keep more are right less often
    right = [np.average(part[:, 1], weights=part[:, 0]) for part in (promised, expected, came)]
    assert right[0] > right[2] + 0.02
    assert right[1] == pytest.approx(right[2], abs=0.015)
    assert expected[:, 0].mean() == pytest.approx(came[:, 0].mean(), abs=0.03)


def test_with_many_samples_the_wanted_accuracy_is_reached():
    found = calibrated(*samples(20_000, 0), 0.9)
    coverage, accuracy = kept(found, *samples(20_000, 1))
    assert accuracy == pytest.approx(0.9, abs=0.01)
    assert found.tested == pytest.approx((coverage, accuracy), abs=0.03)


def test_few_samples_are_not_parted():
    assert calibrated(*samples(FEWEST - 1, 0), 0.9).tested is None
    assert calibrated(*samples(FEWEST, 0), 0.9).tested is not None
