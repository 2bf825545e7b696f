"""Where Lightning's loops are in a training, and how to put them there again.

The one place that knows their private parts (lightning is pinned below 2.7).
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl


def is_last_step(trainer: pl.Trainer) -> bool:
    if trainer.should_stop or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps):
        return True
    epochs = trainer.max_epochs
    last_epoch = epochs is not None and epochs != -1 and trainer.current_epoch + 1 >= epochs
    return last_epoch and trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates after the batch that has just ended."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether a run that ends now ends before or within a validation."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    at_batch_end = progress.ready == progress.processed > progress.completed
    return trainer.validating or (at_batch_end and validation_follows(trainer))


def go_on(trainer: pl.Trainer, validation_due: bool) -> None:
    """Take up a run where its checkpoint left it, with the validation that it still had to make.

    Lightning itself goes on exactly within an epoch. Between two epochs it is put where an uninterrupted run would
    be; what it does of its own there gives a batch too many or repeats an epoch, depending on the settings.
    """
    fit, batches = trainer.fit_loop, trainer.fit_loop.epoch_loop
    between_epochs = fit.epoch_progress.current.completed == fit.epoch_progress.current.ready
    if validation_due:
        stepped, batches._batches_that_stepped = batches._batches_that_stepped, trainer.global_step - 1
        fit.epoch_progress.current.completed -= between_epochs
        trainer.validating = True
        batches.val_loop.restarting = False
        batches.val_loop.run()
        trainer.training = True
        fit.epoch_progress.current.completed += between_epochs
        batches._batches_that_stepped = stepped
    if between_epochs:
        fit.restarting = False
        for loop in (fit, batches, batches.val_loop):
            loop.on_iteration_done()
        batches.batch_progress.reset_on_run()


def count_finished_epoch(checkpoint: dict[str, Any]) -> None:
    """Count an epoch whose last batch is done as done: `go_on` knows how to begin the next one."""
    fit = checkpoint["loops"]["fit_loop"]
    batches, epochs = fit["epoch_loop.batch_progress"], fit["epoch_progress"]
    if batches["is_last_batch"] and epochs["total"]["processed"] == epochs["total"]["started"] - 1:
        for counts in (batches["total"], batches["current"]):
            counts["completed"] = counts["ready"]
        for counts in (epochs["total"], epochs["current"]):
            counts["processed"] += 1
            counts["completed"] += 1
        fit["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
