"""How much parts of samples count: what groups the labelled ones best."""

import numpy as np

from mmmask.discovery.trust import trusted

CLASSES, EACH = 8, 30
CLASS = np.repeat(np.arange(CLASSES), EACH)
LABELS = np.where((CLASS < 4) & (np.arange(len(CLASS)) % 2 == 0), CLASS, -1)


def part(known, noise, seed):
    """Rows that tell these classes apart, and no others."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(CLASSES, 16))
    centres[[c not in known for c in range(CLASSES)]] = 0.3 * draw.normal(size=16)
    rows = centres[CLASS] + noise * draw.normal(size=(len(CLASS), 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_part_that_says_nothing_counts_nothing():
    weights, tried = trusted({"good": part(range(8), 0.4, 0), "noise": part((), 1.0, 1)}, LABELS, CLASSES)
    assert weights["good"] >= 0.85
    assert {trial.weights["good"] for trial in tried[:2]} == {0.0, 1.0}


def test_parts_that_tell_different_classes_apart_both_count():
    weights, _ = trusted({"one": part((0, 1, 4, 5), 0.2, 0), "other": part((2, 3, 6, 7), 0.2, 1)}, LABELS, CLASSES)
    assert min(weights.values()) >= 0.3
    assert abs(sum(weights.values()) - 1) < 1e-6


def test_a_part_that_known_classes_do_not_need_joins_for_the_sake_of_new_ones():
    known_alone, all_of_them = part((0, 1, 2, 3), 0.2, 0), part(range(8), 0.2, 1)
    weights, tried = trusted({"known alone": known_alone, "all": all_of_them}, LABELS, CLASSES)
    assert min(max(trial.accuracy) for trial in tried) == 1  # labels do not say which is better
    assert weights["all"] > 0


def test_what_is_always_grouped_alike_but_wrongly_is_not_trusted():
    three = np.eye(16, dtype=np.float32)[CLASS % 3]
    weights, tried = trusted({"good": part(range(8), 0.6, 0), "three": three}, LABELS, CLASSES)
    assert max(tried, key=lambda trial: trial.stability).weights["three"] == 1
    assert weights["good"] >= 0.5


def test_a_part_alone_counts_whole_and_nothing_is_tried():
    assert trusted({"one": part(range(8), 0.2, 0)}, LABELS, CLASSES) == ({"one": 1.0}, [])
