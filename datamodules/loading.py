"""From samples to a loader: exact order, exact resume, the same number of batches for every rank."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.sharedctypes import RawArray
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules import handover
from datamodules.order import Batches
from datamodules.samples import Request, Samples, Skips
from mmmask.errors import UserError
from mmmask.processes import end_with_parent

log = logging.getLogger(__name__)


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
        self.waited = 0.0  # seconds its consumer has waited for batches
        self._resumed = False
        self._plan = _Plan()
        self._workers: list[Any] = []
        self._reading = samples.reading = RawArray("q", num_workers)  # the position at which each worker is
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
            worker_init_fn=_follow_the_main_process,
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
        asked = time.perf_counter()
        if not self._resumed:
            self.position = 0
        self._resumed = False
        self.skips = Skips()
        batches = self._batches(self.position)
        self._plan.epoch, self._plan.batches = self.epoch, batches
        iterator = iter(self._loader)
        self._workers = list(getattr(iterator, "_workers", []))
        for count, received in enumerate(iterator):
            if isinstance(received, UserError):
                raise received
            self.position = batches.end(count)
            batch = handover.unpacked(received)
            self.skips.add(batch, self.samples.tolerance)
            if count == len(batches) - 1:
                self.skips.report()
            self.waited += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()
        self.epoch, self.position = self.epoch + 1, 0

    @property
    def _share(self) -> str:
        return f"{self.batch_size} samples a step on each of {self.world} ranks"

    def who_died(self) -> str | None:
        """Which loading process is gone, and what it was reading."""
        for number, worker in enumerate(self._workers):
            if code := worker.exitcode:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return (
                    f"{self._name(number)} {how} while it read {self.samples.place(self.epoch, self._reading[number])}"
                )
        return None

    def _name(self, number: int) -> str:
        return f"loading worker {number + 1} of {len(self._workers)} (process {self._workers[number].pid})"

    def state_dict(self) -> dict[str, Any]:
        """A few integers, and what the data was."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "delivered": self.delivered,
            "batch": self._share,
            "data": [shards.fingerprint for shards in self.samples.sets],
            "order": self.samples.order.description,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was taken; other data than then is refused."""
        data = [shards.fingerprint for shards in self.samples.sets]
        if state["data"] != data:
            raise UserError(
                f"the checkpoint was trained on other data ({state['data']}) than is given now ({data}): "
                "its place in the epoch means nothing here. Give the same shards, or start from its weights only."
            )
        if state["position"] and state["order"] != (order := self.samples.order.description):
            raise UserError(
                f"the checkpoint was taken within an epoch of the order {state['order']}, the order now is {order}: "
                "its place means nothing here. Keep seed, block, streams, weights and samples_per_epoch as they were."
            )
        if state["batch"] != self._share:
            log.warning(
                "the run goes on with %s; before it was %s: no longer the same run", self._share, state["batch"]
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self._resumed = True
        left = len(self.samples.order) - self.position
        if 0 < left < self.world:
            log.warning("%d samples are left of this epoch, fewer than %d ranks: they are left out", left, self.world)
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


def _follow_the_main_process(worker: int) -> None:
    """Ctrl-C reaches all processes; a worker that ended by itself would be waited for. One that is left behind would
    notice it after five seconds."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
