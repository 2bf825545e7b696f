"""Where prototypes of each look begin: at its means over clusters of all looks, the better of which count more."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmmask.discovery.look_clusters import look_clusters
from mmmask.errors import UserError

CLASSES, EACH = 6, 40
CLASS = np.repeat(np.arange(CLASSES), EACH)
LABELS = np.where((CLASS < 3) & (np.arange(len(CLASS)) % 2 == 0), CLASS, -1)


def look(noise, seed):
    """Directions around one of its own for each class."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(CLASSES, 8))[CLASS] + noise * draw.normal(size=(len(CLASS), 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def means(rows):
    return np.stack([rows[c == CLASS].sum(0) for c in range(CLASSES)])


def cosines(a, b):
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    return (a * b).sum(-1)


def test_centres_are_the_means_of_each_look_and_labelled_classes_come_first():
    parts = {"a": look(0.05, 0), "b": look(0.05, 1)}
    found = look_clusters(parts, LABELS, CLASSES)
    assert found.weights == {"a": 0.5, "b": 0.5}
    assert found.classes == 3
    for centres, rows in zip(found.centres, parts.values(), strict=True):
        assert_allclose(centres[:3], means(rows)[:3], rtol=1e-5)
        assert_allclose(sorted(centres[3:, 0]), sorted(means(rows)[3:, 0]), rtol=1e-5)


def test_a_look_that_groups_labelled_samples_badly_hardly_counts_and_has_centres_all_the_same():
    parts = {"noise": look(9.0, 2), "good": look(0.3, 3)}
    found = look_clusters(parts, LABELS, CLASSES, weigh=True)
    assert found.weights["good"] >= 0.85
    assert cosines(found.centres[1][:3], means(parts["good"])[:3]).min() > 0.99
    assert np.isfinite(found.centres).all()
    assert found.centres[0].any(1).all()


def test_an_absent_look_is_no_part_of_its_means():
    parts = {"a": look(0.05, 0), "b": look(0.05, 1)}
    parts["b"][1::2] = 0
    found = look_clusters(parts, LABELS, CLASSES)
    assert_allclose(found.centres[1][:3], means(parts["b"])[:3], rtol=1e-5)


def test_without_a_label_it_is_said_that_there_is_none():
    with pytest.raises(UserError, match="none of the rows are labelled"):
        look_clusters({"a": look(0.1, 0)}, np.full(len(CLASS), -1), CLASSES, weigh=True)
