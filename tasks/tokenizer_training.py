"""Train a tokenizer: reconstruct images, other maps, or vectors, through their tokens."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torchmetrics import Metric

from mmmask.errors import UserError
from mmmask.tokenizers import Adversary, ImageTokenizer, Intensity, Perceptual, Tokenizer
from tasks.batches import complete
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
    """The error of the tokenizer's kind of data plus the quantizer's loss, and for pictures, if wanted, a perceptual
    and an adversarial one.

    AdamW, linear warm-up, cosine to zero. Batches hold the data under `modality`: images uint8 or float in 0..1,
    `(B, C, H, W)`, unless the tokenizer's `content` says otherwise. Each validation writes originals over
    reconstructions to `samples/` in the run folder, and to loggers that take images.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        perceptual: Perceptual | None = None,
        adversary: Adversary | None = None,
        modality: str = "image",
        lr: float = 4e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        super().__init__()
        _check_judges(tokenizer, perceptual, adversary)
        self.tokenizer, self.perceptual, self.adversary = tokenizer, perceptual, adversary
        self.modality, self.lr, self.weight_decay = modality, lr, weight_decay
        self.warmup_steps, self.betas = warmup_steps, betas
        measures = tokenizer.content.measures
        self.val_errors: Any = nn.ModuleDict(measures(tokenizer.channels))
        self.test_errors: Any = nn.ModuleDict(measures(tokenizer.channels))
        self.val_code_use, self.test_code_use = CodeUse(tokenizer.vocab_size), CodeUse(tokenizer.vocab_size)
        self._shown: list[Tensor] = []

    @property
    def tokens_per_sample(self) -> int:
        """For the speed in tokens."""
        return self.tokenizer.length

    def setup(self, stage: str) -> None:
        if self.adversary and isinstance(self.trainer.strategy, ModelParallelStrategy):
            raise UserError("TokenizerTraining: an adversary does not train with sharded weights; use ddp.")

    def configure_optimizers(self) -> Any:
        return adamw(self, self, self.lr, self.betas, self.weight_decay, self.warmup_steps)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        data, content = self._data(batch), self.tokenizer.content
        output, _, of_quantizer = self.tokenizer(data)
        losses = {content.error: content.loss(output.float(), data)}
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(data, output.float())
        if self.adversary is not None:
            assert isinstance(self.tokenizer, ImageTokenizer)
            verdict = self.adversary(
                data,
                output.float(),
                sum(losses.values()),
                self.tokenizer.last_layer,
                self.global_step,
            )
            losses |= {"adversarial": verdict.of_generator, "discriminator": verdict.of_discriminator}
        losses["quantizer"] = of_quantizer
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, batch_size=len(data))
        for name, part in losses.items():
            self.log(f"train/{name}", part, prog_bar=name == content.error, batch_size=len(data))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        data, ids, found = self._there_and_back(batch)
        for name, metric in self.val_errors.items():
            metric(found, data)
            self.log(f"val/{name}", metric, prog_bar=True, batch_size=len(data))
        self.val_code_use(ids)
        self.log("val/code_use", self.val_code_use, prog_bar=True, batch_size=len(data))
        missing = SHOWN - sum(pair.shape[1] for pair in self._shown)
        pair = [self.tokenizer.content.picture(some[: max(0, missing)]) for some in (data, found)]
        if missing > 0 and pair[0] is not None:
            self._shown.append(torch.stack(pair).cpu())  # type: ignore[arg-type]

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
        data, ids, found = self._there_and_back(batch)
        for name, metric in self.test_errors.items():
            metric(found, data)
            self.log(f"test/{name}", metric, batch_size=len(data))
        self.test_code_use(ids)
        self.log("test/code_use", self.test_code_use, batch_size=len(data))

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        return {"key": batch["key"], **self.tokens(batch)}

    def tokens(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The token ids of a batch, `(B, h, w)` of images, by modality: what `mmmask tokenize` writes."""
        return {self.modality: self.tokenizer.encode(self._data(batch).to(self.device))}

    def _data(self, batch: dict[str, Any]) -> Tensor:
        """What the batch holds, of all samples, as the tokenizer takes it."""
        return self.tokenizer.content.read(complete(self, batch, self.modality))

    def _there_and_back(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Data, their tokens, and the data that the tokens stand for."""
        data = self._data(batch)
        ids = self.tokenizer.encode(data)
        found = self.tokenizer.decode(ids).contiguous()  # as torchmetrics needs it
        return data, ids, found.float() if found.is_floating_point() else found


def _check_judges(tokenizer: Tokenizer, perceptual: Perceptual | None, adversary: Adversary | None) -> None:
    """Refuse a perceptual or an adversarial loss that is not for such data."""
    if not (perceptual or adversary):
        return
    if not isinstance(tokenizer, ImageTokenizer) or not isinstance(tokenizer.content, Intensity):
        raise UserError("TokenizerTraining: an adversary and a perceptual loss judge pictures only: leave them out.")
    size, channels = tokenizer.image_size, tokenizer.channels
    if adversary and (adversary.channels != channels or size < adversary.least_size):
        raise UserError(
            f"TokenizerTraining: the adversary is for images of {adversary.channels} channels and at least "
            f"{adversary.least_size} pixels; these have {channels} and {size}. Set its channels and halvings."
        )
