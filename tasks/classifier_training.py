"""Train a classifier: the judge of `mmmask evaluate --judge` and of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from mmmask.errors import UserError
from mmmask.metrics import EncoderClassifier, ImageClassifier
from mmmask.tokenizers.ranks import ranks, sum_over_ranks
from tasks.batches import entry, pictures
from tasks.beginning import begin_from
from tasks.optimizing import adamw

UNLABELLED = -1  # as the data readers mark a sample without a label


class ClassifierTraining(LightningModule):
    """Cross entropy with label smoothing; samples without a label (-1) count neither here nor in the accuracy.

    AdamW, linear warm-up, cosine to zero. Batches hold images under `image`, uint8 or float in 0..1, `(B, C, H, W)`,
    and classes `(B,)` under `label`. Batch norms see the samples of their rank alone.

    Args:
        classifier: what is trained.
        image: which entry of the batch to look at.
        label: which entry holds the classes.
        label_smoothing: share of the target spread over all classes.
        lr: peak learning rate.
        betas: AdamW's averaging.
        weight_decay: on matrices; biases and norms do not decay.
        warmup_steps: linear growth of the learning rate.
        init_from: run folder, or exported model, with whose encoder an `EncoderClassifier` begins.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        image: str = "image",
        label: str = "label",
        label_smoothing: float = 0.05,
        lr: float = 4e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        init_from: Path | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"ClassifierTraining: label_smoothing is a share from 0 to below 1; given: {label_smoothing}."
            )
        if classifier.classes < 2:
            raise UserError(f"ClassifierTraining: the classifier knows {classifier.classes} class; it needs 2 or more.")
        if init_from is not None and not isinstance(classifier, EncoderClassifier):
            raise UserError(
                f"ClassifierTraining: a {type(classifier).__name__} has no backbone to begin with init_from; set "
                "classifier to an EncoderClassifier."
            )
        self.init_from = init_from
        self.classifier, self.image, self.label = classifier, image, label
        self.label_smoothing, self.lr, self.betas = label_smoothing, lr, betas
        self.weight_decay, self.warmup_steps = weight_decay, warmup_steps
        self.val_loss = MeanMetric()
        self.val_accuracy, self.test_accuracy = (
            MulticlassAccuracy(classifier.classes, average="micro", ignore_index=UNLABELLED) for _ in range(2)
        )

    @property
    def uses_all_weights(self) -> bool:
        """Whether each step has gradients for all: DDP must know. A backbone's decoder has none here."""
        return not isinstance(self.classifier, EncoderClassifier)

    def setup(self, stage: str) -> None:
        if isinstance(self.classifier, EncoderClassifier):
            begin_from(self, self.classifier.backbone, self.init_from, stage)

    def configure_optimizers(self) -> Any:
        return adamw(self, self.classifier, self.lr, self.betas, self.weight_decay, self.warmup_steps)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Look at classes while they are still on the CPU, where looking costs nothing."""
        labels, classes = entry(self, batch, self.label), self.classifier.classes
        if len(wrong := labels[(labels >= classes) | (labels < UNLABELLED)]):
            raise UserError(
                f"ClassifierTraining: class {wrong[0].item()} in the data, but the classifier knows 0 to "
                f"{classes - 1}; set its classes."
            )
        return batch

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images, labels = self._images(batch), entry(self, batch, self.label)
        total, count = _cross_entropy(self.classifier(images).logits, labels, self.label_smoothing)
        # The mean over the labelled samples of all ranks; DDP divides the sum of gradients by the number of ranks.
        loss = total * ranks()[1] / sum_over_ranks(count).clamp(min=1)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        images, labels = self._images(batch), entry(self, batch, self.label)
        logits = self.classifier(images).logits
        total, count = _cross_entropy(logits, labels)
        self.val_loss(total / count.clamp(min=1), count)
        self.val_accuracy(logits, labels)
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=len(images))
        self.log("val/accuracy", self.val_accuracy, prog_bar=True, batch_size=len(images))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        images, labels = self._images(batch), entry(self, batch, self.label)
        self.test_accuracy(self.classifier(images).logits, labels)
        self.log("test/accuracy", self.test_accuracy, batch_size=len(images))

    def _images(self, batch: dict[str, Any]) -> Tensor:
        images, channels = pictures(self, batch, self.image), self.classifier.channels
        if images.shape[1] != channels:
            raise UserError(
                f"ClassifierTraining: '{self.image}' has {images.shape[1]} channels, the classifier is for {channels}; "
                "set its channels, or those of the reader."
            )
        return images


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Its sum over the samples that have a label, and their number."""
    total = F.cross_entropy(
        logits.float(), labels, reduction="sum", ignore_index=UNLABELLED, label_smoothing=label_smoothing
    )
    return total, (labels != UNLABELLED).sum().to(total.dtype)
