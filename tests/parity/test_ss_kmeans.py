"""Semi-supervised k-means equals the published implementation from given centres, and is no worse from its own."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmmask.discovery import KMeans
from mmmask.discovery.seeding import far_apart
from mmmask.metrics import agreement

FIXTURES = Path(__file__).parent.parent / "fixtures" / "gcd"


def vectors(name):
    """Tensors and values; rows with the labelled ones first, as published, and their labels."""
    data = load_file(FIXTURES / f"{name}.safetensors")
    values = json.loads((FIXTURES / f"{name}.json").read_text())
    rows = np.concatenate([data["labelled"], data["unlabelled"]])
    labels = np.concatenate([data["labels"], np.full(len(data["unlabelled"]), -1)])
    return data, values, rows, labels


def scores(clusters, data):
    """All, old, new accuracy on the unlabelled rows; their true classes are numbered anew, the old ones first."""
    old = range(len(np.unique(data["labels"])))
    found = agreement(clusters.labels[len(data["labels"]) :], data["unlabelled_true"], old)
    return [found[part] for part in ("all", "old", "new")]


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_each_iteration_from_given_centres(iterations):
    data, reference, rows, labels = vectors("ss_kmeans_fixed_start")
    values, now = reference["values"], f"iter{iterations}"
    clusters = KMeans(10, iterations=iterations, tolerance=0).fit(rows, labels, start=data["initial_centers"])
    assert np.array_equal(clusters.classes, np.unique(data["labels"]))
    assert np.array_equal(clusters.labels, data[f"{now}.assignment"])
    np.testing.assert_allclose(clusters.centres, data[f"{now}.centers"], rtol=1e-5, atol=1e-6)
    assert clusters.inertia == pytest.approx(values[f"{now}.inertia_recomputed"], rel=1e-6)


def test_convergence_from_given_centres():
    data, reference, rows, labels = vectors("ss_kmeans_fixed_start")
    clusters = KMeans(10, tolerance=0).fit(rows, labels, start=data["initial_centers"])
    assert np.array_equal(clusters.labels, data["final.assignment"])
    np.testing.assert_allclose(clusters.centres, data["final.centers"], rtol=1e-5, atol=1e-6)
    assert clusters.inertia == pytest.approx(reference["values"]["final.inertia"], rel=1e-6)
    assert scores(clusters, data) == pytest.approx(reference["values"]["final.all_old_new"])


class RecordedDraws:
    """Draws one by one, as the published code asks for them."""

    def __init__(self, draws):
        self.draws = iter(draws)

    def random(self, size):
        return np.array([next(self.draws) for _ in range(size)])


def test_draws_by_squared_distance_take_the_published_rows():
    data, _, _, _ = vectors("ss_kmeans_fixed_start")
    means = np.stack([data["labelled"][data["labels"] == label].mean(0) for label in np.unique(data["labels"])])
    draws = RecordedDraws(data["kpp_uniform_draws"])
    assert np.array_equal(far_apart(data["unlabelled"], means, 5, draws, candidates=1), data["kpp_rows"])


def test_draws_without_labelled_centres_take_the_published_rows():
    data, reference, _, _ = vectors("ss_kmeans_fixed_start")
    rows, published = data["unlabelled"], np.random.RandomState(reference["seed"])
    first = published.randint(0, len(rows))
    draws = RecordedDraws([(first + 0.5) / len(rows), *published.random_sample(9)])
    assert np.array_equal(far_apart(rows, None, 10, draws, candidates=1), data["kpp_plain_rows"])


def test_a_cluster_that_begins_empty_is_filled_where_the_published_code_makes_nan():
    data, _, rows, labels = vectors("ss_kmeans_fixed_start")
    clusters = KMeans(10).fit(rows, labels, start=data["empty_cluster.initial_centers"])
    assert np.isfinite(clusters.centres).all()
    assert np.bincount(clusters.labels, minlength=10).min() > 0
    assert clusters.inertia < 12548  # what the published code ends with, on 9 clusters


@pytest.mark.parametrize(("name", "k"), [("ss_kmeans", 12), ("ss_kmeans_fixed_start", 10)])
def test_inertia_and_accuracy_are_no_worse_than_the_best_of_twenty_published_starts(name, k):
    data, reference, rows, labels = vectors(name)
    best = reference.get("inertia") or reference["values"]["best20.inertia"]
    accuracy = reference.get("accuracy_all_old_new") or reference["values"]["best20.all_old_new"]
    clusters = KMeans(k).fit(rows, labels)
    assert clusters.inertia <= best * (1 + 1e-6)
    # where inertia is lower, these are other clusters
    same = clusters.inertia > best * (1 - 1e-6)
    assert scores(clusters, data) == pytest.approx(accuracy, abs=1e-9 if same else 0.01)


def test_plain_kmeans_is_no_worse_than_the_best_of_twenty_published_starts():
    _, reference, rows, _ = vectors("ss_kmeans_fixed_start")
    assert KMeans(10, restarts=10).fit(rows).inertia <= reference["values"]["plain_best20.inertia"] * 1.001
