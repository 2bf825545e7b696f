"""The order of an epoch: EpochOrder((5, 3), seed=0).locate(epoch=0, positions=[0, 1]) -> shards, rows."""

import math

import numpy as np
import pytest

from datamodules.order import Batches, EpochOrder, Mixture
from mmmask.errors import UserError


def places(order, epoch, positions=None):
    positions = np.arange(len(order)) if positions is None else positions
    return list(zip(*(part.tolist() for part in order.locate(epoch, positions)), strict=True))


@pytest.mark.parametrize("counts", [(7,), (5, 3, 9), (1,) * 20, (100, 1, 50)])
@pytest.mark.parametrize("block", [1, 4, 1000])
@pytest.mark.parametrize("streams", [1, 3, 8])
def test_every_sample_comes_once_per_epoch(counts, block, streams):
    order = EpochOrder(counts, seed=1, block=block, streams=streams)
    expected = [(shard, row) for shard, count in enumerate(counts) for row in range(count)]
    for epoch in range(3):
        assert sorted(places(order, epoch)) == expected


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    order = EpochOrder((50, 60), seed=3)
    assert places(order, 4) == places(EpochOrder((50, 60), seed=3), 4)
    assert places(order, 4) != places(order, 5)
    assert places(order, 4) != places(EpochOrder((50, 60), seed=4), 4)


def test_any_position_is_found_without_walking_to_it():
    order = EpochOrder((50, 60, 70), seed=3, block=16, streams=2)
    whole = places(order, 2)
    some = np.array([179, 3, 64, 3])
    assert places(order, 2, some) == [whole[p] for p in some]


def test_without_shuffling_samples_keep_the_order_of_the_shards():
    assert places(EpochOrder((2, 3), shuffle=False), 0) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_streams_keep_each_rank_on_its_own_shards():
    order = EpochOrder((100,) * 8, seed=0, block=50, streams=4)
    touched = [{shard for shard, _ in places(order, 0, np.arange(rank, 800, 4))} for rank in range(4)]
    assert all(len(shards) == 2 for shards in touched)
    assert len(set.union(*touched)) == 8


def test_shuffling_mixes_across_shards_within_a_block():
    order = EpochOrder((100,) * 10, seed=0, block=500)
    assert len({shard for shard, _ in places(order, 0, np.arange(100))}) == 5


@pytest.mark.parametrize("total", [1, 7, 24, 25, 26, 27, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_ranks_share_every_position_in_equally_many_batches(total, world, batch_size):
    ranks = [list(Batches(total, batch_size, rank, world)) for rank in range(world)]
    if total < world:
        assert all(not batches for batches in ranks)
        return
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) for batches in ranks for batch in batches)
    assert sorted(p for batches in ranks for batch in batches for p in batch) == list(range(total))


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_going_on_in_another_world_gives_exactly_the_rest(stop):
    before = Batches(103, 4, 0, 3)
    start = before.end(stop - 1)
    rest = [p for rank in range(2) for batch in Batches(103, 5, rank, 2, start) for p in batch]
    assert sorted(rest) == list(range(start, 103))


def test_drop_last_leaves_out_the_incomplete_batch():
    batches = list(Batches(10, 4, drop_last=True))
    assert [len(batch) for batch in batches] == [4, 4]


def test_a_mixture_gives_each_set_its_share_and_each_sample_its_turn():
    orders = (EpochOrder((40,), seed=0), EpochOrder((1000,), seed=0))
    mixture = Mixture(orders, (1.0, 3.0), samples_per_epoch=1024 * 4)
    drawn = places(mixture, 0)
    first = [row for source, _, row in drawn if source == 0]
    assert len(first) == 1024
    counts = np.bincount(first, minlength=40)
    assert counts.max() - counts.min() <= 1  # whole epochs of the small set, one after the other
    second = [row for source, _, row in drawn if source == 1]
    assert len(set(second[:1000])) == 1000


def test_a_mixture_goes_on_through_its_sets_in_the_next_epoch():
    orders = (EpochOrder((100,), seed=0), EpochOrder((10_000,), seed=0))
    mixture = Mixture(orders, (1.0, 9.0), samples_per_epoch=1000)
    rows = [row for epoch in range(5) for source, _, row in places(mixture, epoch) if source == 1]
    assert len(rows) == len(set(rows)), "no sample of the large set comes again before all have come"


def test_wrong_weights_are_refused():
    with pytest.raises(UserError, match="positive weights"):
        Mixture((EpochOrder((4,)),), (0.0,), 4)


@pytest.mark.parametrize("weights", [(1.0, 0.2, 0.6), (1.0, 0.1, 0.4, 0.4), (1.0, 0.1, 0.1, 0.8, 0.8)])
def test_weights_whose_sum_is_not_exact_fill_every_block(weights, monkeypatch):
    def exact(numbers):  # as `sum` adds since Python 3.12
        numbers = list(numbers)
        return math.fsum(numbers) if isinstance(numbers[0], float) else sum(numbers)

    monkeypatch.setattr("datamodules.order.sum", exact, raising=False)
    mixture = Mixture(tuple(EpochOrder((50,)) for _ in weights), weights, samples_per_epoch=4096)
    source, _, _ = mixture.locate(0, np.arange(4096))
    assert np.allclose(np.bincount(source) / 4096, np.array(weights) / math.fsum(weights), atol=1e-3)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight):
    with pytest.raises(UserError, match="positive weights"):
        Mixture((EpochOrder((4,)),), (weight,), 4)
