"""`ShardData`: shard sets as a LightningDataModule."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import lightning.pytorch as pl

from datamodules.loading import ShardLoader
from datamodules.order import EpochOrder, Mixture
from datamodules.readers import Reader
from datamodules.samples import Missing, Samples, Tolerance
from datamodules.selection import Labelled, Where
from datamodules.shards import Allow, ShardSet, Urls
from mmmask.errors import UserError

log = logging.getLogger(__name__)
Stage = Literal["train", "val", "test", "predict"]


@dataclass
class Source:
    """A set of shards in a mixture, and how often it is drawn from relative to the others."""

    shards: Urls
    weight: float = 1.0


class _StateForTheLoader(pl.Callback):
    """Builds the training loader again after the checkpoint is read, if it was built before.

    A task that asks for `trainer.estimated_stepping_batches`, as most schedules do, has it built so early
    that Lightning would never load its state, and the run would begin its epoch anew without a word.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop
        if trainer.ckpt_path and loop._combined_loader is not None:
            loop._combined_loader.reset()  # ends its workers
            loop._combined_loader = None


class ShardData(pl.LightningDataModule):
    """Training, validation, test and prediction data from WebDataset shards.

    Args:
        train: shards to train on: a path, a pattern, a list, or `modality: pattern` for aligned folders.
        modalities: batch name -> reader, e.g. `image: {class_path: Image, init_args: {field: jpg}}`; only
            training has their random crops and flips.
        val: shards to validate on.
        test: shards to test on (default: val).
        predict: shards to predict on (default: test).
        mixture: further training sets: a list of `{shards: ..., weight: ...}`; `train` has weight 1.
        samples_per_epoch: length of an epoch of a mixture (default: all samples of all sets).
        batch_size: samples per rank and step.
        num_workers: reading processes per rank.
        seed: decides the order of the samples and their augmentation.
        block: samples are shuffled within blocks of this many.
        where: which samples a stage sees, e.g. `train: {part: split, values: [train]}`; test and predict are asked for
            their own only if they have shards of their own.
        labelled: a protocol of category discovery, and how often training draws the samples that it labels.
        views: how often each training sample is read, with draws of its own each time.
        val_train: validate on the training samples too, in their order, as the first validation data.
        streams: interleaved independent sequences of shards; a multiple of the number of ranks keeps each
            rank on its own shards.
        drop_last: leave out the last, smaller batch of a training epoch.
        on_error: `raise` or `skip` bad samples.
        missing: what to do about modalities that a sample lacks: `error`, `mask` (see `present` in the batch), or
            `leave out` the sample.
        max_skipped: share of bad samples above which a run stops.
        allow: what URLs may reach: `local` files, `remote` machines (http, s3, ...), or any shell command (`pipe`).
        timeout: seconds after which a silent worker counts as dead (0: never).
    """

    def __init__(
        self,
        train: Urls,
        modalities: dict[str, Reader],
        val: Urls | None = None,
        test: Urls | None = None,
        predict: Urls | None = None,
        mixture: list[Source] | None = None,
        samples_per_epoch: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        block: int = 16384,
        streams: int = 1,
        where: dict[Stage, Where] | None = None,
        labelled: Labelled | None = None,
        views: int = 1,
        val_train: bool = False,
        drop_last: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        missing: Missing = "error",
        max_skipped: float = 0.01,
        allow: Allow = "local",
        timeout: float = 600,
    ) -> None:
        super().__init__()
        if not modalities:
            raise UserError("data.modalities is empty: name at least one, e.g. image: {class_path: Image}.")
        if seed < 0 or timeout < 0 or (samples_per_epoch is not None and samples_per_epoch < 1):
            raise UserError(
                "data: seed and timeout must be 0 or more, samples_per_epoch 1 or more; "
                f"they are {seed}, {timeout:g} and {samples_per_epoch}."
            )
        if views < 1 or (labelled and mixture):
            raise UserError(f"data: views ({views}) must be 1 or more, and labelled and mixture do not go together.")
        self.train, self.val, self.test, self.predict = train, val, test or val, predict or test or val
        where = where or {}
        self.where = {"train": where.get("train"), "val": where.get("val")}
        self.where["test"] = where.get("test") if test else self.where["val"]
        self.where["predict"] = where.get("predict") if predict else self.where["test"]
        self.labelled, self.views, self.val_train = labelled, views, val_train
        self.modalities = modalities
        self.mixture = mixture or []
        self.samples_per_epoch = samples_per_epoch
        self.batch_size, self.num_workers, self.drop_last, self.timeout = (
            batch_size,
            num_workers,
            drop_last,
            timeout,
        )
        self.seed, self.block, self.streams = seed, block, streams
        self.tolerance = Tolerance(on_error, missing, max_skipped)
        self.allow = allow

    def setup(self, stage: str) -> None:
        """Make sure that Lightning gives the training loader its state back."""
        if self.trainer and not any(isinstance(c, _StateForTheLoader) for c in self.trainer.callbacks):  # type: ignore[attr-defined]
            self.trainer.callbacks.append(_StateForTheLoader())  # type: ignore[attr-defined]

    def train_dataloader(self) -> ShardLoader:
        """The training mixture, shuffled."""
        sources = [Source(self.train), *self.mixture]
        _tell_of_unlike_crops(self.modalities)
        sets = [self._opened(source.shards, "train") for source in sources]
        weights = tuple(source.weight for source in sources)
        length = self.samples_per_epoch or sum(len(s) for s in sets)
        if self.labelled:
            sets, weights = self.labelled.split(sets[0])
        orders = tuple(EpochOrder(s.counts, self.seed, True, self.block, self.streams) for s in sets)
        order = Mixture(orders, weights, length, self.seed)
        return self._loader(sets, order, self.modalities, self.drop_last, self.views)

    def val_dataloader(self) -> ShardLoader | list[ShardLoader]:
        """Every validation sample once, in the order of the shards; those of training before, if asked for."""
        loaders = [self._in_order(self.train, "train")] if self.val_train else []
        loaders += [self._in_order(self.val, "val")] if self.val else []
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> ShardLoader:
        """Every test sample once, in the order of the shards."""
        return self._in_order(self._given(self.test, "test"), "test")

    def predict_dataloader(self) -> ShardLoader:
        """Every sample to predict once, in the order of the shards."""
        return self._in_order(self._given(self.predict, "predict"), "predict")

    @staticmethod
    def _given(urls: Urls | None, stage: str) -> Urls:
        if not urls:
            raise UserError(f"data.{stage} is not set: name the shards to {stage} on.")
        return urls

    def _opened(self, urls: Urls, stage: Stage) -> ShardSet:
        shards = ShardSet(urls, self.allow)
        if where := self.where[stage]:
            shards = where.of(shards)
        if self.tolerance.missing != "leave out":
            return shards
        return shards.having([reader.field for reader in self.modalities.values()])

    def _in_order(self, urls: Urls, stage: Stage) -> ShardLoader:
        shards = self._opened(urls, stage)
        order = Mixture((EpochOrder(shards.counts, shuffle=False),), (1.0,), len(shards))
        steady = {name: reader.steady() for name, reader in self.modalities.items()}
        return self._loader([shards], order, steady, drop_last=False)

    def _loader(
        self, sets: list[ShardSet], order: Mixture, readers: dict[str, Reader], drop_last: bool, views: int = 1
    ) -> ShardLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        samples = Samples(sets, order, readers, self.tolerance, self.seed, views)
        return ShardLoader(
            samples, self.batch_size, self.num_workers, rank, world, drop_last, self.timeout, self._recount
        )

    def _recount(self, more: int) -> None:
        """Lightning counts the batches of an epoch too, and ends it when it has had as many as there are."""
        if more and self.trainer:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
            for count in ("ready", "started", "processed", "completed"):
                setattr(progress, count, getattr(progress, count) + more)


def _tell_of_unlike_crops(readers: Mapping[str, Reader]) -> None:
    """Images and drawings of one sample that are seen through unlike windows do not fit each other."""
    unlike = {reader.cropping: name for name, reader in readers.items() if reader.cropping}
    if len(unlike) > 1 and any(cropping.draws for cropping in unlike):
        log.warning(
            "%s of a sample are cropped or flipped in different ways; if they show the same scene, give "
            "them the same pad, crop, scale and flip.",
            " and ".join(sorted(unlike.values())),
        )
