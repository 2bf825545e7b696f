"""Categories: distances to all centres are made block by block, and say the same."""

import tracemalloc

import numpy as np
import pytest

from mmmask.discovery import categories
from mmmask.discovery.calibration import Calibration
from mmmask.discovery.categories import Category, Discovery
from mmmask.discovery.space import Space
from mmmask.discovery.tables import write_assignments


def discovery(count, dim, rng):
    """Each category has a centre, the last one two."""
    centres = rng.normal(size=(count + 1, dim)).astype(np.float32)
    owner = np.append(np.arange(count), count - 1)
    them = [Category(n, str(n), False) for n in range(count)]
    return Discovery(them, Space(), centres, owner, np.ones(count), Calibration(4.0, 0.5, 0), 5.0, count)


@pytest.mark.parametrize("block", [1, 70, 10**6])
def test_blocks_say_what_whole_distances_do(block, monkeypatch):
    rng = np.random.default_rng(0)
    found, rows, members = discovery(7, 5, rng), rng.normal(size=(83, 5)).astype(np.float32), rng.integers(0, 7, 83)
    monkeypatch.setattr(categories, "BLOCK", block)
    gaps = ((rows[:, None].astype(float) - found.centres) ** 2).sum(2)
    whole = np.concatenate([gaps[:, :6], gaps[:, 6:].min(1, keepdims=True)], axis=1)
    odds = np.exp(-whole / 4) / np.exp(-whole / 4).sum(1, keepdims=True)
    at = np.arange(83)
    own, near = found.of_members(rows, members), found.nearest(rows)
    order = whole.argsort(1)
    assert np.array_equal(own.category, members)
    assert np.array_equal(own.second, np.where(order[:, 0] == members, order[:, 1], order[:, 0]))
    np.testing.assert_allclose(own.confidence, odds[at, members], rtol=1e-9)
    np.testing.assert_allclose(own.distance, np.sqrt(whole[at, members]), rtol=1e-9)
    assert np.array_equal(np.stack([near.category, near.second], axis=1), order[:, :2])
    np.testing.assert_allclose(near.confidence, odds.max(1), rtol=1e-9)
    np.testing.assert_allclose(near.distance, np.sqrt(whole.min(1)), rtol=1e-9)


def test_new_samples_are_known_new_unsure_or_far(tmp_path):
    them = [Category(0, "hats", True), Category(1, "new-01", False)]
    centres, sure = np.array([[0, 0], [4, 0]], dtype=np.float32), Calibration(4.0, 0.6, 10)
    found = Discovery(them, Space(), centres, np.arange(2), np.ones(2), sure, 3.0, 2)
    rows = np.array([[0.1, 0], [3.9, 0], [1.95, 0], [0, 2.9], [0, 3.1], [4, -3.1], [0, 0]], dtype=np.float32)
    nothing = np.arange(7) == 6
    assigned = found.nearest(rows, nothing)
    kinds = write_assignments(tmp_path / "a.csv", list("abcdefg"), assigned, them, sure.threshold)
    assert kinds == ["known", "new", "unsure", "known", "far", "far", "far"]
    table = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()]
    assert [row[1:4] for row in table[1:5]] == [
        ["0", "hats", "known"],
        ["1", "new-01", "new"],
        ["", "", "unsure"],
        ["0", "hats", "known"],
    ]
    assert table[3][5] == table[5][5] == "hats"  # the nearest, where none is given


def test_memory_does_not_grow_with_rows_times_categories():
    """The distances of all are 200 MB; what is kept of a row is 40 bytes."""
    rng = np.random.default_rng(0)
    found, rows, members = discovery(500, 4, rng), np.zeros((50_000, 4), dtype=np.float32), np.zeros(50_000, dtype=int)
    tracemalloc.start()
    try:
        found.of_members(rows, members)
        found.nearest(rows)
        assert tracemalloc.get_traced_memory()[1] < 80e6
    finally:
        tracemalloc.stop()
