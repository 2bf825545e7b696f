"""What Lightning and torch complain of, in one sentence."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mmmask.errors import RunFailed, UserError
from tasks.training.ranks import who_is_gone


@contextmanager
def lightning_sentences(trainer: pl.Trainer | None = None) -> Iterator[None]:
    """What Lightning refuses is a mistake in the settings: a sentence, without its traceback. So is the end of a
    run by the loss of a process or of memory."""
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, ZeroDivisionError) as error:
        innermost = list(traceback.walk_tb(error.__traceback__))[-1][0].f_code.co_filename
        if not isinstance(error, MisconfigurationException) and "lightning" not in Path(innermost).parts:
            raise
        raise UserError(f"the trainer refuses: {' '.join(str(error).split()).rstrip('.')}.") from error
    except RuntimeError as error:
        if message := _in_words(error, trainer):
            raise message from error
        raise


def _in_words(error: RuntimeError, trainer: pl.Trainer | None) -> UserError | None:
    """The RuntimeErrors that have a known cause outside of the program."""
    text = str(error)
    if "Error(s) in loading state_dict" in text:
        first = text.splitlines()[1].strip().rstrip(".")
        return UserError(f"the checkpoint is not one of this model ({first}). Use the config.yaml beside it.")
    if isinstance(error, torch.OutOfMemoryError) or re.search("not enough memory|can't allocate memory", text):
        return RunFailed(
            "out of memory. Make data.batch_size smaller (and trainer.accumulate_grad_batches larger), or set "
            "parallel.activation_checkpointing, or shard the model: --config trainer/fsdp2.yaml."
        )
    if "DataLoader" in text:
        loaders: list[Any] = [trainer.train_dataloader, trainer.val_dataloaders] if trainer else []
        found = [loader.who_died() for loader in loaders if hasattr(loader, "who_died")]
        return RunFailed(f"{next(filter(None, found), ' '.join(text.split()))}. Go on from the last checkpoint.")
    if re.search(r"Connection (closed|reset) by peer|gloo|NCCL|ProcessGroup|DistBackendError|TCPStore", text):
        return RunFailed(f"{who_is_gone(trainer)}. The run ends; go on from its last checkpoint.")
    return None
