"""The samples of shard sets as batches: read, skipped or refused, and put together."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from datamodules import handover
from datamodules.order import Mixture, sample_generator
from datamodules.readers import Reader
from datamodules.shards import BadSample, Shard, ShardError, ShardSet
from mmmask.errors import UserError
from mmmask.modalities import entry_of

log = logging.getLogger(__name__)
Missing = Literal["error", "mask", "leave out"]
Request = tuple[int, np.ndarray]  # epoch, positions
_no_draws = sample_generator(0, 0, 0)  # handed to readers that draw nothing


@dataclass(frozen=True)
class Tolerance:
    """What to do with samples that cannot be used."""

    on_error: Literal["raise", "skip"] = "raise"
    missing: Missing = "error"
    max_skipped: float = 0.01  # share of the samples read; above it the run stops

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip") or self.missing not in get_args(Missing):
            raise UserError(f"on_error is 'raise' or 'skip', missing 'error', 'mask' or 'leave out'; got {self}.")


class Samples(Dataset[Any]):
    """Reads the samples of a mixture of shard sets; asked for (epoch, positions), answers with a batch."""

    def __init__(
        self,
        sets: list[ShardSet],
        order: Mixture,
        readers: Mapping[str, Reader],
        tolerance: Tolerance,
        seed: int,
        views: int = 1,
    ) -> None:
        """`views`: how often what draws is read, each time with draws of its own, as `name`, `name@1` and so on."""
        self.sets, self.order, self.readers, self.tolerance, self.seed = sets, order, dict(readers), tolerance, seed
        self.views = views
        self.columns = {
            entry_of(name, view): reader
            for name, reader in self.readers.items()
            for view in range(views if reader.draws else 1)
        }
        if views > 1 and len(self.columns) == len(self.readers):
            raise UserError(
                f"data.views is {views}, but they would all be the same: let a reader draw (crop: random, flip, drop), "
                "or leave views at 1."
            )
        if reserved := {"key", "present", "skipped"} & set(self.readers):
            raise UserError(f"a modality cannot be called '{min(reserved)}': batches use that name themselves.")
        if tolerance.missing != "mask":
            self._require_all()
        else:
            ShardSet.of([shard for shards in sets for shard in shards.shards]).require(
                [reader.field for reader in self.readers.values()]
            )
        self._examples: dict[str, Any] = {}
        self.reading: Any = None  # shared with the loader: the position at which each worker is

    def _require_all(self) -> None:
        for shards in self.sets:
            shards.require([reader.field for reader in self.readers.values()])
            for name, reader in self.readers.items():
                count, first = shards.missing(reader.field)
                if count:
                    raise ShardError(
                        f"{count} samples have no '{reader.field}' (modality '{name}'), the first is {first}. "
                        "Remove the modality, or set missing: mask (or leave out)."
                    )

    def __getitem__(self, request: Request) -> dict[str, Any] | UserError:
        """The batch of these positions of an epoch without the samples skipped; or what is wrong with it.

        Errors are returned: raised in a worker they would come wrapped in its traceback.
        """
        try:
            batch = self._batch(*request)
        except UserError as error:
            return error
        return batch if get_worker_info() is None else handover.packed(batch)

    def _batch(self, epoch: int, positions: np.ndarray) -> dict[str, Any]:
        source, shard, row = self.order.locate(epoch, positions)
        places = [self.sets[s].shards[h] for s, h in zip(source.tolist(), shard.tolist(), strict=True)]
        columns: dict[str, list[Any]] = {name: [] for name in ("key", *self.columns)}
        skipped: list[tuple[str, str]] = []
        worker = get_worker_info()
        for position, place, sample in zip(positions.tolist(), places, row.tolist(), strict=True):
            if worker:
                self.reading[worker.id] = position
            try:
                values = self._sample(place, sample, epoch, position)
            except (BadSample, ValueError, TypeError, OverflowError) as error:
                problem = _describe(place, sample, error)
                if self.tolerance.on_error == "raise":
                    raise BadSample(problem) from error
                skipped.append((place.name, problem))
                continue
            for name, value in values.items():
                columns[name].append(value)
        if not columns["key"]:
            raise BadSample(f"all {len(skipped)} samples of a batch are bad; the first: {skipped[0][1]}")
        return self._collate(columns, skipped)

    def place(self, epoch: int, position: int) -> str:
        """Where a position of an epoch is, in words."""
        source, shard, row = (index.item() for index in self.order.locate(epoch, np.array([position])))
        found = self.sets[source].shards[shard]
        return f"shard {found.name}: sample '{found.key(row)}'"

    def readers_of(self, key: str) -> Mapping[str, Reader]:
        """How the sample of this key is read."""
        return self.readers

    def _sample(self, shard: Shard, sample: int, epoch: int, position: int) -> dict[str, Any]:
        values: dict[str, Any] = {"key": shard.key(sample)}
        for name, reader in self.readers_of(values["key"]).items():
            content = shard.read(sample, reader.field)
            if content is None and self.tolerance.missing != "mask":
                raise BadSample(f"no '{reader.field}' (modality '{name}')")
            for view in range(self.views if reader.draws else 1):
                rng = sample_generator(self.seed, epoch, position, view) if reader.draws else _no_draws
                values[entry_of(name, view)] = None if content is None else reader.read(content, rng)
        return values

    def _collate(self, columns: dict[str, list[Any]], skipped: list[tuple[str, str]]) -> dict[str, Any]:
        """Columns -> batch. With `missing: mask`, `present[name]` (B,) says which samples have a modality."""
        batch: dict[str, Any] = {"key": columns["key"], "skipped": skipped}
        present: dict[str, torch.Tensor] = {}
        for name, reader in self.columns.items():
            values = columns[name]
            has = [value is not None for value in values]
            if not all(has):
                like = next((value for value in values if value is not None), None)
                absent = reader.absent(self._example(name) if like is None else like)
                values = [absent if value is None else value for value in values]
            batch[name] = reader.collate(values)
            present[name] = torch.tensor(has)
        if self.tolerance.missing == "mask":
            batch["present"] = present
        return batch

    def _example(self, name: str) -> Any:
        """Any value of a modality, for its shape, when no sample of a batch has it."""
        if name not in self._examples:
            reader = self.columns[name]
            places = ((shard, row) for shards in self.sets for shard in shards.shards for row in range(len(shard)))
            self._examples[name] = None
            for shard, row in places:
                with suppress(BadSample, ValueError, TypeError, OverflowError):
                    if (content := shard.read(row, reader.field)) is not None:
                        self._examples[name] = reader.read(content, sample_generator(0, 0, 0))
                        break
        return self._examples[name]


def _describe(shard: Shard, sample: int, error: Exception) -> str:
    what = str(error) or type(error).__name__
    return what if what.startswith("shard ") else f"shard {shard.name}: sample '{shard.key(sample)}': {what}"


@dataclass
class Skips:
    """Samples left out since the epoch began, per shard."""

    read: int = 0
    per_shard: Counter[str] = field(default_factory=Counter)

    def add(self, batch: dict[str, Any], tolerance: Tolerance) -> None:
        """Count what a batch left out; too large a share stops the run."""
        skipped = batch.pop("skipped")
        self.read += len(batch["key"]) + len(skipped)
        for shard, problem in skipped:
            if not self.per_shard[shard]:
                log.warning("skipped a bad sample (first of its shard): %s", problem)
            self.per_shard[shard] += 1
        total = sum(self.per_shard.values())
        if total > max(1, tolerance.max_skipped * max(self.read, 100)):
            worst, count = self.per_shard.most_common(1)[0]
            raise ShardError(
                f"{total} of {self.read} samples were bad, above max_skipped={tolerance.max_skipped:g}; "
                f"{count} of them in {worst}. Run: mmmask shards verify {os.path.dirname(worst) or '.'}"
            )

    def report(self) -> None:
        """One line at the end of an epoch."""
        if total := sum(self.per_shard.values()):
            shards = ", ".join(f"{shard}: {count}" for shard, count in self.per_shard.most_common(5))
            log.warning("skipped %d bad samples of %d this epoch (%s)", total, self.read, shards)
