"""Train an image tokenizer: reconstruct images through their tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.image import PeakSignalNoiseRatio

from mmmask.errors import UserError
from mmmask.tokenizers import Adversary, ImageTokenizer, Perceptual
from tasks.batches import pictures
from tasks.optimizing import adamw
from tasks.pictures import grid, show

SHOWN = 16  # validation images in the sample picture, 8 to a row


class CodeUse(Metric):
    """Share of the vocabulary seen since the last reset, over all ranks."""

    higher_is_better = True
    full_state_update = False
    seen: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros(vocab_size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, ids: Tensor) -> None:
        self.seen += torch.bincount(ids.flatten(), minlength=len(self.seen))

    def compute(self) -> Tensor:
        return (self.seen > 0).float().mean()


class TokenizerTraining(LightningModule):
    """Mean squared error plus the quantizer's loss, and if wanted a perceptual and an adversarial one.

    AdamW, linear warm-up, cosine to zero. Batches hold images under `modality`: uint8 or float in 0..1,
    `(B, C, H, W)`. Each validation writes originals over reconstructions to `samples/` in the run folder, and to
    loggers that take images.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        perceptual: Perceptual | None = None,
        adversary: Adversary | None = None,
        modality: str = "image",
        lr: float = 4e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        super().__init__()
        size, channels = tokenizer.image_size, tokenizer.channels
        if adversary and (adversary.channels != channels or size < adversary.least_size):
            raise UserError(
                f"TokenizerTraining: the adversary is for images of {adversary.channels} channels and at least "
                f"{adversary.least_size} pixels; these have {channels} and {size}. Set its channels and halvings."
            )
        self.tokenizer, self.perceptual, self.adversary = tokenizer, perceptual, adversary
        self.modality, self.lr, self.weight_decay = modality, lr, weight_decay
        self.warmup_steps, self.betas = warmup_steps, betas
        self.val_mse, self.test_mse = MeanSquaredError(), MeanSquaredError()
        self.val_code_use, self.test_code_use = CodeUse(tokenizer.vocab_size), CodeUse(tokenizer.vocab_size)
        self.val_psnr = PeakSignalNoiseRatio(data_range=1.0)
        self._shown: list[Tensor] = []

    @property
    def tokens_per_sample(self) -> int:
        """For the speed in tokens."""
        return self.tokenizer.grid**2

    def setup(self, stage: str) -> None:
        if self.adversary and isinstance(self.trainer.strategy, ModelParallelStrategy):
            raise UserError("TokenizerTraining: an adversary does not train with sharded weights; use ddp.")

    def configure_optimizers(self) -> Any:
        return adamw(self, self, self.lr, self.betas, self.weight_decay, self.warmup_steps)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = pictures(self, batch, self.modality)
        reconstruction = self.tokenizer(images)
        mse = F.mse_loss(reconstruction.images.float(), images)
        losses = {"mse": mse}
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(images, reconstruction.images.float())
        if self.adversary is not None:
            verdict = self.adversary(
                images,
                reconstruction.images.float(),
                sum(losses.values()),
                self.tokenizer.last_layer,
                self.global_step,
            )
            losses |= {"adversarial": verdict.of_generator, "discriminator": verdict.of_discriminator}
        losses["quantizer"] = reconstruction.loss
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, batch_size=len(images))
        for name, part in losses.items():
            self.log(f"train/{name}", part, prog_bar=name == "mse", batch_size=len(images))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        images, ids, reconstructed = self._there_and_back(batch)
        for name, metric in (("mse", self.val_mse), ("psnr", self.val_psnr)):
            metric(reconstructed, images)
            self.log(f"val/{name}", metric, prog_bar=True, batch_size=len(images))
        self.val_code_use(ids)
        self.log("val/code_use", self.val_code_use, prog_bar=True, batch_size=len(images))
        missing = SHOWN - sum(pair.shape[1] for pair in self._shown)
        if missing > 0:
            self._shown.append(torch.stack([images[:missing], reconstructed[:missing]]).cpu())

    def on_validation_epoch_end(self) -> None:
        shown, self._shown = self._shown, []
        picture = None
        if shown:
            # A row of originals, their reconstructions below, and the next row.
            pairs = torch.cat(shown, dim=1)
            rows = [image for eight in pairs.split(8, dim=1) for image in eight.flatten(0, 1)]
            picture = grid(rows, min(8, pairs.shape[1]))
        show(self, "reconstruction", picture)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        images, ids, reconstructed = self._there_and_back(batch)
        self.test_mse(reconstructed, images)
        self.test_code_use(ids)
        self.log("test/mse", self.test_mse, batch_size=len(images))
        self.log("test/code_use", self.test_code_use, batch_size=len(images))

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        return {"key": batch["key"], **self.tokens(batch)}

    def tokens(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The token ids `(B, h, w)` of a batch, by modality: what `mmmask tokenize` writes."""
        return {self.modality: self.tokenizer.encode(pictures(self, batch, self.modality).to(self.device))}

    def _there_and_back(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Images, their tokens, and the images that the tokens stand for."""
        images = pictures(self, batch, self.modality)
        ids = self.tokenizer.encode(images)
        return images, ids, self.tokenizer.decode(ids).float().contiguous()  # as torchmetrics needs it
