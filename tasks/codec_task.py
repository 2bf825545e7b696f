"""What tasks have in common whose batches hold raw data that codecs turn into tokens."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from mmmask.tokenizers.codec import Codec
from tasks.finished import fingerprints, same_codecs


class CodecTask(LightningModule):
    """Tokens are made on the CPU, and only they go to the device; a checkpoint knows with which codecs."""

    codecs: dict[str, Codec]

    uses_all_weights = False  # a modality that no sample of a batch has, or asks for, gives no gradients

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["codecs"] = fingerprints(self.codecs)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        same_codecs(self.codecs, checkpoint, "the checkpoint")

    def _there(self, part: Tensor) -> Tensor:
        return part.to(self.device, non_blocking=True)
