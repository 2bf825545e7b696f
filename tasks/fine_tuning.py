"""Train a head on a backbone that knows all tokens of some modalities: classification, segmentation, depth (4M)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from mmmask.errors import UserError
from mmmask.heads import Readout
from mmmask.modalities import Modality
from mmmask.synthesis import Recognition
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.ranks import ranks, sum_over_ranks
from mmmask.transformer import MaskedTransformer, decodes
from tasks.batches import entry
from tasks.beginning import begin_from
from tasks.codec_task import CodecTask
from tasks.optimizing import Decay, adamw


class FineTuning(CodecTask):
    """The head's loss on what an encoder makes of modalities that are known whole, and the head's metrics.

    Batches hold the raw data that the codecs read, `present` where samples lack some, and the `target`; samples
    without one count nowhere.

    Args:
        modalities: the codec of each, under the name it has in the model to begin with.
        backbone: made for these modalities (FourM); what of it decodes stays as it is.
        head: made for features of so many numbers (ClassHead, SegmentationHead, DepthHead).
        target: which entry of the batch holds what the head should answer.
        train: all of the encoder, or the head alone.
        layer_decay: each block learns with this share of the rate of the block above it.
        lr: peak learning rate, of the head.
        betas: AdamW's averaging.
        weight_decay: on matrices; biases and norms do not decay.
        warmup_steps: linear growth of the learning rate.
        decay: what follows: constant, or cosine to zero.
        init_from: run folder, or exported model, with whose backbone this one begins.
    """

    model: Recognition

    def __init__(
        self,
        modalities: dict[str, Codec],
        backbone: Callable[[Sequence[Modality]], MaskedTransformer],
        head: Callable[[int], Readout],
        target: str = "label",
        train: Literal["all", "head"] = "all",
        layer_decay: float = 1.0,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.05,
        warmup_steps: int = 50,
        decay: Decay = "cosine",
        init_from: Path | None = None,
    ) -> None:
        super().__init__()
        if not 0 < layer_decay <= 1:
            raise UserError(f"FineTuning: layer_decay is a share above 0, at most 1; given: {layer_decay}.")
        self.backbone = backbone([codec.modality(name) for name, codec in modalities.items()])
        self.head = head(self.backbone.encoder.dim)
        self.__dict__["codecs"] = modalities  # no children: they are not trained
        self.__dict__["model"] = Recognition(self.backbone, modalities, self.head)
        self.target, self.only_head, self.layer_decay = target, train == "head", layer_decay
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.warmup_steps, self.decay, self.init_from = warmup_steps, decay, init_from
        for name, weight in self.backbone.named_parameters():
            weight.requires_grad_(not (self.only_head or decodes(name)))
        self.val_loss = MeanMetric()
        self.val_metrics, self.test_metrics = (torch.nn.ModuleDict(self.head.metrics()) for _ in range(2))

    def setup(self, stage: str) -> None:
        begin_from(self, self.backbone, self.init_from, stage)

    def configure_optimizers(self) -> Any:
        return adamw(self, self, self.lr, self.betas, self.weight_decay, self.warmup_steps, self.decay, rates=self.rate)

    def rate(self, name: str) -> float:
        """Which share of the learning rate a parameter has."""
        depth = len(self.backbone.encoder.blocks)
        if block := re.match(r"backbone\.encoder\.blocks\.(\d+)\.", name):
            return self.layer_decay ** (depth - int(block[1]))
        below = name.startswith(("backbone.embedding.", "backbone.registers"))
        return self.layer_decay ** (depth + 1) if below else 1.0

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        total, count = self.head.loss(*self._answered(batch))
        # The mean over what counts on all ranks; DDP divides the sum of gradients by the number of ranks.
        loss = total * ranks()[1] / sum_over_ranks(count).clamp(min=1)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["key"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        answers, wanted = self._answered(batch)
        total, count = self.head.loss(answers, wanted)
        self.val_loss.update(total / count.clamp(min=1), count)
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=len(batch["key"]))
        self._measure("val", self.val_metrics, answers, wanted)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure("test", self.test_metrics, *self._answered(batch))

    def _answered(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What the head answers, and what it should."""
        wanted = self._there(self.head.wanted(entry(self, batch, self.target)))
        if self.target in (present := batch.get("present", {})):
            absent = ~self._there(present[self.target]).view(-1, *[1] * (wanted.ndim - 1))
            wanted = wanted.masked_fill(absent, self.head.ignored)
        tokens = self.model.tokens(batch).map(self._there)
        return self.model(tokens), wanted

    def _measure(self, stage: str, metrics: torch.nn.ModuleDict, answers: Tensor, wanted: Tensor) -> None:
        counted = self.head.counted(answers, wanted)
        for name, metric in metrics.items():
            metric.update(*counted)  # type: ignore[operator]
            self.log(f"{stage}/{name}", metric, prog_bar=True, batch_size=len(answers))  # type: ignore[arg-type]
