"""From a shard set to batches: exact order, exact resume, bad samples counted, the same for every rank."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datamodules.order import Batches, Mixture, sample_generator
from datamodules.readers import Reader
from datamodules.shards import BadSample, Shard, ShardError, ShardSet
from mmmask.errors import UserError

log = logging.getLogger(__name__)
Request = tuple[int, np.ndarray]  # epoch, positions
_no_draws = sample_generator(0, 0, 0)  # handed to readers that draw nothing


@dataclass(frozen=True)
class Tolerance:
    """What to do with samples that cannot be used."""

    on_error: Literal["raise", "skip"] = "raise"
    missing: Literal["error", "mask"] = "error"
    max_skipped: float = 0.01  # share of the samples read; above it the run stops

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip") or self.missing not in ("error", "mask"):
            raise UserError(f"on_error is 'raise' or 'skip', missing 'error' or 'mask'; got {self}.")


class Samples(Dataset[Any]):
    """Reads the samples of a mixture of shard sets; asked for (epoch, positions), answers with a batch."""

    def __init__(
        self,
        sets: list[ShardSet],
        order: Mixture,
        readers: Mapping[str, Reader],
        tolerance: Tolerance,
        seed: int,
    ) -> None:
        self.sets, self.order, self.readers, self.tolerance, self.seed = sets, order, dict(readers), tolerance, seed
        if reserved := {"key", "present", "skipped"} & set(self.readers):
            raise UserError(f"a modality cannot be called '{min(reserved)}': batches use that name themselves.")
        self._draws = any(reader.draws for reader in self.readers.values())
        if tolerance.missing == "error":
            self._require_all()

    def _require_all(self) -> None:
        for shards in self.sets:
            shards.require([reader.field for reader in self.readers.values()])
            for name, reader in self.readers.items():
                count, first = shards.missing(reader.field)
                if count:
                    raise ShardError(
                        f"{count} samples have no '{reader.field}' (modality '{name}'), the first is {first}. "
                        "Remove the modality, or set missing: mask."
                    )

    def __getitem__(self, request: Request) -> dict[str, Any] | UserError:
        """The batch of these positions of an epoch without the samples skipped; or what is wrong with it.

        Errors are returned: raised in a worker they would come wrapped in its traceback.
        """
        try:
            batch = self._batch(*request)
        except UserError as error:
            return error
        return batch if get_worker_info() is None else _for_the_pipe(batch)

    def _batch(self, epoch: int, positions: np.ndarray) -> dict[str, Any]:
        source, shard, row = self.order.locate(epoch, positions)
        places = [self.sets[s].shards[h] for s, h in zip(source.tolist(), shard.tolist(), strict=True)]
        columns: dict[str, list[Any]] = {name: [] for name in ("key", *self.readers)}
        skipped: list[tuple[str, str]] = []
        for position, place, sample in zip(positions.tolist(), places, row.tolist(), strict=True):
            try:
                values = self._sample(
                    place, sample, sample_generator(self.seed, epoch, position) if self._draws else _no_draws
                )
            except (BadSample, ValueError) as error:
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

    def _sample(self, shard: Shard, sample: int, rng: np.random.Generator) -> dict[str, Any]:
        values: dict[str, Any] = {"key": shard.key(sample)}
        for name, reader in self.readers.items():
            content = shard.read(sample, reader.field)
            if content is None and self.tolerance.missing == "error":
                raise BadSample(f"no '{reader.field}' (modality '{name}')")
            values[name] = None if content is None else reader.read(content, rng)
        return values

    def _collate(self, columns: dict[str, list[Any]], skipped: list[tuple[str, str]]) -> dict[str, Any]:
        """Columns -> batch. With `missing: mask`, `present[name]` (B,) says which samples have a modality."""
        batch: dict[str, Any] = {"key": columns["key"], "skipped": skipped}
        present: dict[str, torch.Tensor] = {}
        for name, reader in self.readers.items():
            values = columns[name]
            has = [value is not None for value in values]
            if not all(has):
                like = next((value for value in values if value is not None), None)
                values = [reader.absent(like) if value is None else value for value in values]
            batch[name] = reader.collate(values)
            present[name] = torch.tensor(has)
        if self.tolerance.missing == "mask":
            batch["present"] = present
        return batch


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


class ShardLoader:
    """Batches of one rank. Its state is the epoch and how many samples of it all ranks together have had.

    Resuming continues with exactly the batches an uninterrupted run would have given, with any number of
    workers; with another world or batch size it goes on at the same sample. Then the place in the epoch has
    another number of batches behind it: `on_recount` is told how many more (or fewer, below 0).
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        timeout: float = 0,
        on_recount: Callable[[int], None] = lambda more: None,
    ) -> None:
        if batch_size < 1 or num_workers < 0:
            raise UserError(f"batch_size ({batch_size}) must be at least 1 and num_workers ({num_workers}) at least 0.")
        self.samples, self.batch_size, self.drop_last = samples, batch_size, drop_last
        self.rank, self.world = rank, world
        self.on_recount = on_recount
        self.epoch = self.position = 0
        self.skips = Skips()
        self._resumed = False
        self._plan = _Plan()
        if not len(self._batches(0)):
            raise UserError(
                f"{len(samples.order)} samples are too few for {world} ranks with batch_size={batch_size}"
                f"{' and drop_last: true' if drop_last else ''}. Use fewer ranks or smaller batches."
            )
        self._loader = DataLoader(
            samples,
            batch_size=None,  # a request is a whole batch already
            sampler=self._plan,
            collate_fn=_unchanged,
            num_workers=num_workers,
            worker_init_fn=_leave_interrupts_to_the_main_process,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            timeout=timeout if num_workers else 0,
        )

    batch_sampler = None  # Lightning asks

    @property
    def sampler(self) -> ShardLoader:
        """Lightning looks here for `set_epoch`."""
        return self

    @property
    def _iterator(self) -> Any:
        """Lightning looks here for the workers to end with a run. (Left to the garbage collector, which closes
        their queues first, each would take five seconds to go.)"""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, none: None) -> None:
        self._loader._iterator = none

    def set_epoch(self, epoch: int) -> None:
        """Start this epoch at the next iteration; the epoch being resumed is left where it is."""
        if epoch != self.epoch or not self._resumed:
            self.epoch, self.position, self._resumed = epoch, 0, False

    def _batches(self, start: int) -> Batches:
        return Batches(len(self.samples.order), self.batch_size, self.rank, self.world, start, self.drop_last)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._batches(0))

    @property
    def delivered(self) -> int:
        """Batches of this epoch that are behind us, as this rank's batches are now."""
        return len(self) - len(self._batches(self.position))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._resumed:
            self.position = 0
        self._resumed = False
        self.skips = Skips()
        batches = self._batches(self.position)
        self._plan.epoch, self._plan.batches = self.epoch, batches
        for count, received in enumerate(self._loader):
            if isinstance(received, UserError):
                raise received
            self.position = batches.end(count)
            batch = _from_the_pipe(received)
            self.skips.add(batch, self.samples.tolerance)
            if count == len(batches) - 1:
                self.skips.report()
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """A few integers, and what the data was."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "delivered": self.delivered,
            "data": [shards.fingerprint for shards in self.samples.sets],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was taken; other data than then is refused."""
        data = [shards.fingerprint for shards in self.samples.sets]
        if state["data"] != data:
            raise UserError(
                f"the checkpoint was trained on other data ({state['data']}) than is given now ({data}): "
                "its place in the epoch means nothing here. Give the same shards, or start from its weights only."
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self._resumed = True
        self.on_recount(self.delivered - state["delivered"])


class _Plan:
    """The sampler of the inner loader: which batches to ask the workers for."""

    epoch = 0
    batches = Batches(0, 1)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Request]:
        for positions in self.batches:
            yield self.epoch, positions


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches all processes; a worker that ended by itself would be waited for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


SMALL = 1 << 18  # bytes


class _Narrow(NamedTuple):
    """64-bit ids on their way through the pipe as 32-bit ones."""

    ids: np.ndarray


def _for_the_pipe(batch: dict[str, Any]) -> dict[str, Any]:
    """Small tensors leave a worker as arrays, through the pipe: a shared-memory file for each costs far more.

    The pipe's time is proportional to the bytes, so integers that fit travel in half of theirs.
    """
    return {name: _packed(value) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _packed(tensor: torch.Tensor) -> torch.Tensor | np.ndarray | _Narrow:
    if tensor.element_size() * tensor.numel() > SMALL:
        return tensor
    array = tensor.numpy()
    if array.dtype == np.int64 and ((narrow := array.astype(np.int32)) == array).all():
        return _Narrow(narrow)
    return array


def _from_the_pipe(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: _unpacked(value) for name, value in batch.items()}


def _unpacked(value: Any) -> Any:
    if isinstance(value, _Narrow):
        return torch.from_numpy(value.ids).long()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
