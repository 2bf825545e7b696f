"""Which sample comes when: the order of an epoch as a pure function of (seed, epoch).

Position p of an epoch is found without walking to it, so a loader's whole state is one integer, and any
number of ranks and workers can share the same order: position p belongs to rank p mod world.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from mmmask.errors import UserError


def generator(*words: int) -> np.random.Generator:
    """A generator that depends on these numbers alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def sample_generator(seed: int, epoch: int, position: int, view: int = 0) -> np.random.Generator:
    """The generator of one view of a sample: counter-based, so making it costs next to nothing."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, view, position]))


@dataclass(frozen=True)
class EpochOrder:
    """The samples of a shard set, shuffled by shard and inside blocks of `block` samples.

    `streams` interleaves that many independent sequences, each over its own part of the shards: when it is a
    multiple of the world size, a rank touches its own shards only. The order does not depend on the world.
    """

    counts: tuple[int, ...]  # samples per shard
    seed: int = 0
    shuffle: bool = True
    block: int = 16384
    streams: int = 1

    def __post_init__(self) -> None:
        if self.block < 1 or self.streams < 1:
            raise UserError(f"block ({self.block}) and streams ({self.streams}) must be at least 1.")

    def __len__(self) -> int:
        return sum(self.counts)

    def locate(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of an epoch -> (shard, row) of each."""
        shards, ends = _shard_order(self, epoch)
        flat = self._shuffled(epoch, positions) if self.shuffle else positions
        slot = np.searchsorted(ends, flat, side="right")
        start = np.where(slot > 0, ends[slot - 1], 0)
        return shards[slot], flat - start

    def _shuffled(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Position -> place in the concatenation of the shuffled shards."""
        per_stream, longer = divmod(len(self), self.streams)
        stream, step = positions % self.streams, positions // self.streams
        block, within = step // self.block, step % self.block
        flat = np.empty_like(positions)
        for c, b in set(zip(stream.tolist(), block.tolist(), strict=True)):
            first = c * per_stream + min(c, longer) + b * self.block
            length = min(self.block, per_stream + (c < longer) - b * self.block)
            chosen = (stream == c) & (block == b)
            flat[chosen] = first + _block_order(self.seed, epoch, c, b, length)[within[chosen]]
        return flat


@lru_cache(maxsize=8)
def _shard_order(order: EpochOrder, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The shards in the order of this epoch, and where each ends in their concatenation."""
    count = len(order.counts)
    shards = generator(order.seed, epoch).permutation(count) if order.shuffle else np.arange(count)
    return shards, np.cumsum(np.asarray(order.counts, dtype=np.int64)[shards])


@lru_cache(maxsize=64)
def _block_order(seed: int, epoch: int, stream: int, block: int, length: int) -> np.ndarray:
    return generator(seed, epoch, stream, block).permutation(length)


@dataclass(frozen=True)
class Mixture:
    """Several orders drawn from by weight; each goes through its own epochs, whole ones, at its own pace.

    Which set serves position p is a pure function too: in every block of 1,024 positions each set has its
    exact share (largest cumulative remainder), in an order shuffled by (seed, epoch, block).
    """

    orders: tuple[EpochOrder, ...]
    weights: tuple[float, ...]
    samples_per_epoch: int
    seed: int = 0
    block: int = field(default=1024, repr=False)

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.orders) or not all(0 < weight < math.inf for weight in self.weights):
            raise UserError(f"a mixture of {len(self.orders)} sets needs as many positive weights, got {self.weights}.")

    def __len__(self) -> int:
        return self.samples_per_epoch

    @property
    def description(self) -> str:
        """All that the order depends on, besides the number of samples in each shard."""
        first = self.orders[0]
        parts = f"seed={self.seed} block={first.block} streams={first.streams}"
        return f"{parts} weights={list(self.weights)} samples_per_epoch={self.samples_per_epoch}"

    def locate(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of an epoch -> (set, shard, row) of each."""
        overall = positions + epoch * self.samples_per_epoch
        source, turn = np.empty_like(overall), np.empty_like(overall)
        for b in np.unique(overall // self.block).tolist():
            chosen = overall // self.block == b
            sources, turns = self._block(b)
            source[chosen], turn[chosen] = (
                sources[overall[chosen] % self.block],
                turns[overall[chosen] % self.block],
            )
        shard, row = np.empty_like(overall), np.empty_like(overall)
        for s, order in enumerate(self.orders):
            for own_epoch in np.unique(turn[source == s] // len(order)).tolist():
                chosen = (source == s) & (turn // len(order) == own_epoch)
                shard[chosen], row[chosen] = order.locate(own_epoch, turn[chosen] % len(order))
        return source, shard, row

    def _block(self, b: int) -> tuple[np.ndarray, np.ndarray]:
        """For each place of a block: which set serves it, and the how-manieth sample of that set it is."""
        share = np.cumsum([0.0, *self.weights])
        share /= share[-1]  # exactly 1 at the end, as the sum of floats need not be
        before = np.floor(b * self.block * share).astype(np.int64)
        after = np.floor((b + 1) * self.block * share).astype(np.int64)
        first, count = np.diff(before), np.diff(after) - np.diff(before)
        sources = generator(self.seed, b).permutation(np.repeat(np.arange(len(count)), count))
        turns = np.empty(self.block, dtype=np.int64)
        for s in range(len(count)):
            turns[sources == s] = first[s] + np.arange(count[s])
        return sources, turns


@dataclass(frozen=True)
class Batches:
    """Cuts positions `start..total` into global batches of `batch_size * world` for one of `world` ranks.

    Every rank gets the same number of batches and every position is used once. A tail of fewer samples than
    ranks joins the batch before it; with `drop_last` the whole incomplete batch is left out.
    """

    total: int
    batch_size: int
    rank: int = 0
    world: int = 1
    start: int = 0
    drop_last: bool = False

    def __len__(self) -> int:
        full, rest = divmod(max(self.total - self.start, 0), self.batch_size * self.world)
        if self.drop_last or rest == 0 or rest < self.world:
            return full
        return full + 1

    def end(self, batch: int) -> int:
        """The position after the last one of a batch (all ranks together)."""
        last = batch == len(self) - 1 and not self.drop_last
        return self.total if last else self.start + (batch + 1) * self.batch_size * self.world

    def __iter__(self) -> Iterator[np.ndarray]:
        for batch in range(len(self)):
            first = self.start + batch * self.batch_size * self.world
            yield np.arange(first + self.rank, self.end(batch), self.world)
