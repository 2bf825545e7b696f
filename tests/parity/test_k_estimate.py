"""The number of classes is estimated as by the published code, but each number of clusters is looked at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmmask.discovery import ClassCount, KMeans

FIXTURES = Path(__file__).parent.parent / "fixtures" / "gcd"


@pytest.fixture(scope="module")
def reference():
    values = json.loads((FIXTURES / "k_estimate.json").read_text())
    return values, values["results"]["n_init10"]


@pytest.fixture(scope="module")
def counted():
    data = load_file(FIXTURES / "k_estimate.safetensors")
    labels = np.where(data["mask_lab"] > 0, data["labels"], -1)
    return ClassCount(data["features"], labels, seeds=1, method=KMeans(1))


def test_inertia_is_no_higher_and_labelled_accuracy_as_published_where_it_is_equal(reference, counted):
    """Where ours is lower these are other clusters, whose accuracy may differ."""
    values, published = reference
    equal = 0
    for k, inertia, accuracy in zip(
        range(5, 21), values["inertia_by_k"], published["labelled_accuracy_by_k"], strict=True
    ):
        found = counted.at(k)
        assert found.inertia[0] < inertia * 1.0001
        if found.inertia[0] > inertia * 0.9999:
            assert found.accuracy[0] == pytest.approx(accuracy, abs=0.03), k
            equal += 1
    assert equal >= 4


def test_brent_is_within_two_of_the_best_and_looks_at_no_number_twice(reference, counted):
    values, published = reference
    curve = counted.sweep(range(5, 21))
    looked_at = []

    class Counting(ClassCount):
        def _cluster(self, k, seed):
            looked_at.append(k)
            return super()._cluster(k, seed)

    fresh = Counting(counted.features, counted.labels, seeds=1, method=counted.method)
    estimate, asked = fresh.brent(20)
    assert abs(int(estimate) - curve.best) <= 2
    assert abs(int(estimate) - values["k_true"]) <= 2
    assert asked[:3] == [k for _, k, _ in published["brent_evaluations"][:3]]
    assert len(asked) > len(looked_at) == len(set(looked_at))
