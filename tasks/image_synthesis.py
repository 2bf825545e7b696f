"""Train image synthesis: predict the masked tokens of images from the visible ones and a class or text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from mmmask.errors import UserError
from mmmask.masking import MaskContext, MaskSampler, RatioMask
from mmmask.synthesis import ImageGenerator, Sampler
from mmmask.tokenizers import ImageTokenizer, TextEncoder
from mmmask.tokenizers.ranks import ranks, sum_over_ranks
from mmmask.tokens import Memory, Split, TokenSet
from mmmask.transformer import MaskedTransformer
from tasks.batches import entry, pictures
from tasks.beginning import begin_from
from tasks.finished import fingerprint, same_tokenizer, tokenizer_of
from tasks.optimizing import Decay, adamw
from tasks.pictures import grid, show
from tasks.training.ema import EMA
from tasks.training.randomness import common_generator

IGNORED = -100  # the label of padding, as cross entropy has it
SHOWN, COLUMNS = 40, 10  # images in a sample picture


class ImageSynthesis(LightningModule):
    """Cross entropy, with label smoothing, of the masked tokens; the backbone decides the family (AutoNAT, ENAT).

    Batches hold token ids under `image`, or images if there is a tokenizer, and classes or text vectors under
    `given`. Masks and dropped conditions are drawn for the batch of all ranks, so that their number changes nothing.

    Args:
        backbone: AutoNAT, ENAT, or another masked transformer.
        tokenizer: run folder of its training, or an exported model; needed for pictures and to train on images.
        text_encoder: makes vectors of captions, for a backbone that follows texts.
        image: which entry of the batch to learn.
        given: which entry images follow: classes `(B,)`, -1 for none, text vectors, or captions.
        masks: how many tokens are masked, and which.
        sampler: how pictures are drawn at validations.
        unconditional: share of samples that are learned without class or text, for guidance.
        reuse: share of steps in which visible tokens come from an earlier step, for a backbone that can reuse them.
        label_smoothing: share of the target spread over all words.
        lr: peak learning rate.
        betas: AdamW's averaging.
        weight_decay: on matrices; biases and norms do not decay.
        warmup_steps: linear growth of the learning rate.
        decay: what follows: constant, or cosine to zero.
        init_from: run folder, or exported model, with whose backbone this one begins, as far as they are alike.
    """

    tokenizer: ImageTokenizer | None
    text_encoder: TextEncoder | None

    def __init__(
        self,
        backbone: MaskedTransformer,
        tokenizer: Path | None = None,
        text_encoder: TextEncoder | None = None,
        image: str = "image",
        given: str = "label",
        masks: MaskSampler | None = None,
        sampler: Sampler | None = None,
        unconditional: float = 0.15,
        reuse: float = 0.5,
        label_smoothing: float = 0.1,
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.96),
        weight_decay: float = 0.03,
        warmup_steps: int = 5000,
        decay: Decay = "constant",
        init_from: Path | None = None,
    ) -> None:
        super().__init__()
        for name, share in (("unconditional", unconditional), ("reuse", reuse), ("label_smoothing", label_smoothing)):
            if not 0 <= share < 1:
                raise UserError(f"ImageSynthesis: {name} is a share from 0 to below 1; given: {share}.")
        self.generator = ImageGenerator(backbone)
        self.image, self.given = image, given
        self.masks, self.sampler = masks or RatioMask(), sampler or Sampler()
        self.unconditional, self.reuse, self.label_smoothing = unconditional, reuse, label_smoothing
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.warmup_steps, self.decay, self.init_from = warmup_steps, decay, init_from
        # Not a child: it is not trained, so checkpoints need not hold it.
        self.__dict__["tokenizer"] = tokenizer_of(tokenizer, self.generator)[0] if tokenizer else None
        self.__dict__["text_encoder"] = text_encoder
        self.val_loss = MeanMetric()
        self._shown: Tensor | None = None

    @property
    def uses_all_weights(self) -> bool:
        """Whether each step has gradients for all: DDP must know. Weights for reuse have them in some steps alone."""
        return not self.generator.reuses

    @property
    def tokens_per_sample(self) -> int:
        """For the speed in tokens."""
        return self.generator.modality.length

    def setup(self, stage: str) -> None:
        begin_from(self, self.generator.backbone, self.init_from, stage)

    def configure_optimizers(self) -> Any:
        return adamw(self, self.generator, self.lr, self.betas, self.weight_decay, self.warmup_steps, self.decay)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Look at ids and classes while they are still on the CPU, where looking costs nothing."""
        ids, given, classes = batch.get(self.image), batch.get(self.given), self.generator.classes
        if isinstance(ids, Tensor) and ids.ndim < 4:
            self.generator.backbone.embedding.check(self.generator.modality.name, ids)
        if classes is not None and isinstance(given, Tensor) and len(wrong := given[(given >= classes) | (given < -1)]):
            raise UserError(
                f"ImageSynthesis: class {wrong[0].item()} in the data, but the backbone knows 0 to {classes - 1}; "
                "set its classes."
            )
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.tokenizer is not None:
            checkpoint["tokenizer"] = fingerprint(self.tokenizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.tokenizer is not None:
            same_tokenizer(self.tokenizer, checkpoint, "the checkpoint")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        total, count = self._cross_entropy(batch, batch_idx, training=True)
        # The mean over the masked tokens of all ranks; DDP divides the sum of gradients by the number of ranks.
        loss = total * ranks()[1] / sum_over_ranks(count)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["key"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        total, count = self._cross_entropy(batch, batch_idx, training=False)
        self.val_loss.update(total / count, count)
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=len(batch["key"]))
        if self._shown is None:
            self._shown = self._given(batch)[:SHOWN]

    def on_validation_epoch_end(self) -> None:
        """Pictures of the classes in order, or of the first texts of the validation."""
        given, self._shown = self._shown, None
        if self.tokenizer is None:
            return
        columns = min(self.generator.classes or COLUMNS, COLUMNS)
        if self.generator.classes is not None:
            given = torch.arange(columns, device=self.device).repeat(SHOWN // COLUMNS)
        picture = None
        if given is not None:
            picture = grid(self.generate(given, range(len(given))).cpu(), columns)
        show(self, "generated", picture)

    @torch.no_grad()
    def generate(self, given: Tensor, seeds: Any) -> Tensor:
        """Images `(B, C, H, W)` in 0..1 for classes or texts."""
        ids = self.sampler.sample(self.generator, given, seeds)
        side = round(ids.shape[1] ** 0.5)
        with torch.autocast(ids.device.type, enabled=False):
            return self._tokenizer().decode(ids.view(-1, side, side)).float()

    def _cross_entropy(self, batch: dict[str, Any], batch_idx: int, training: bool) -> tuple[Tensor, Tensor]:
        """Its sum over the masked tokens of this rank, and their number."""
        ids, given = self._ids(batch), self._given(batch)
        draw, tokens = _Draw(self, training, batch_idx, len(ids)), self.generator.tokens(ids)
        context = MaskContext(self._progress() if training else 0.0, rank=draw.rank, world=draw.world)
        if training:
            given = self._sometimes_without(given, draw)
        split = self.masks(tokens, context, draw.generator(MASKS)).map(lambda part: part.to(ids.device))
        condition, memory = self.generator.context(given), None
        if training and self.generator.reuses and draw.one(REUSE) < self.reuse:
            earlier, split = _in_two(split, draw)
            memory = self._remembered(tokens, earlier, given)
        logits, _ = self.generator(tokens, split, condition, memory)
        labels = ids.gather(1, split.asked)
        if split.asked_valid is not None:
            labels = labels.masked_fill(~split.asked_valid, IGNORED)
        total = F.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            reduction="sum",
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing if training else 0.0,
        )
        return total, (labels != IGNORED).sum().to(total.dtype)

    def _sometimes_without(self, given: Tensor, draw: _Draw) -> Tensor:
        without = (draw.each(CLASSES) < self.unconditional).to(given.device)
        return torch.where(without.view(-1, *[1] * (given.ndim - 1)), self.generator.nothing(given), given)

    @torch.no_grad()
    def _remembered(self, tokens: TokenSet, earlier: Split, given: Tensor) -> Memory | None:
        """What an earlier step of decoding would have left: features by the averaged weights, without dropout."""
        if not earlier.known.shape[1]:
            return None
        training, averages = self.generator.training, EMA.of(self)
        remember = _Remember(self.generator).eval()
        try:
            return torch.func.functional_call(remember, averages, (tokens, earlier, given))
        finally:
            self.generator.train(training)

    def _progress(self) -> float:
        steps = self.trainer.estimated_stepping_batches
        return 0.0 if math.isinf(steps) else min(1.0, self.global_step / steps)

    def _ids(self, batch: dict[str, Any]) -> Tensor:
        """Token ids `(B, L)` of the batch; images are tokenized here."""
        found = pictures(self, batch, self.image)
        if found.ndim == 4:
            with torch.autocast(found.device.type, enabled=False):  # the same ids as in token shards
                found = self._tokenizer().encode(found)
        return found.flatten(1)

    def _given(self, batch: dict[str, Any]) -> Tensor:
        given = entry(self, batch, self.given)
        return given if isinstance(given, Tensor) else self._vectors(given)

    def _vectors(self, captions: Sequence[str]) -> Tensor:
        if self.text_encoder is None:
            raise UserError(
                f"ImageSynthesis: '{self.given}' holds captions; set text_encoder to make vectors of them, or give "
                "shards with vectors."
            )
        return self.text_encoder.to(self.device)(captions)

    def _tokenizer(self) -> ImageTokenizer:
        if self.tokenizer is None:
            raise UserError(
                "ImageSynthesis: there is no tokenizer to make tokens of images, or images of tokens. Set tokenizer to "
                "the run folder of one, or train on token shards (mmmask tokenize)."
            )
        return self.tokenizer.to(self.device)


class _Remember(nn.Module):
    """`ImageGenerator.remember` as a forward pass, for `functional_call`."""

    def __init__(self, generator: ImageGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, tokens: TokenSet, earlier: Split, given: Tensor) -> Memory:
        return self.generator.remember(tokens, earlier, self.generator.context(given))


MASKS, CLASSES, REUSE, PARTS = range(4)  # what is drawn for a batch, each from a generator of its own


class _Draw:
    """Random numbers for the samples of all ranks, of which each takes its own."""

    def __init__(self, task: LightningModule, training: bool, batch_idx: int, samples: int) -> None:
        self.place = task, training, batch_idx
        self.samples = samples
        self.rank, self.world = ranks()

    def generator(self, use: int) -> torch.Generator:
        """The same on all ranks, however many samples they have."""
        return common_generator(*self.place, use)

    def each(self, use: int) -> Tensor:
        """A number for each sample `(B,)`."""
        return torch.rand(self.samples * self.world, generator=self.generator(use))[self.rank :: self.world]

    def one(self, use: int) -> float:
        """One number for all."""
        return float(torch.rand((), generator=self.generator(use)))


def _in_two(split: Split, draw: _Draw) -> tuple[Split, Split]:
    """The known tokens parted at random: those of an earlier step, and those that have become known since."""
    count, generator = split.known.shape[1], draw.generator(PARTS)
    new = round(count * float(torch.rand((), generator=generator)))
    order = torch.randperm(count, generator=generator)
    parts = []
    for columns in (order[new:].to(split.known.device), order[:new].to(split.known.device)):
        valid = None if split.known_valid is None else split.known_valid[:, columns]
        parts.append(Split(split.known[:, columns], split.asked, valid, split.asked_valid))
    return parts[0], parts[1]
