"""Train any-to-any prediction (4M): ask for some tokens of any modalities, given some tokens of any others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torchmetrics import MeanMetric

from mmmask.errors import UserError
from mmmask.heads import Alignment, answers
from mmmask.masking import DirichletMask
from mmmask.modalities import Modality
from mmmask.parallelize import whole
from mmmask.report.modality_table import modality_table
from mmmask.synthesis import AnyToAny
from mmmask.synthesis.any_to_any import Decoder
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.ranks import ranks, sum_over_ranks
from mmmask.tokens import Data
from mmmask.transformer import AmongTargets, MaskedTransformer
from tasks.beginning import begin_as_codes, begin_from
from tasks.codec_task import CodecTask
from tasks.optimizing import Decay, adamw
from tasks.pictures import show
from tasks.retrieving import Retrieval, RetrievalScores
from tasks.token_budget import TokenBudget, one_end
from tasks.training.randomness import common_generator

MASKS = 0  # what seeds are drawn for
SHOWN = 6  # samples in a table of predictions


@dataclass
class Example:
    """What a validation shows: `wanted` modalities predicted from those `given`."""

    given: list[str]
    wanted: list[str]


class CrossModal(CodecTask):
    """Cross entropy of the asked tokens, under 4M's masking.

    Batches hold the raw data that the codecs read, and `present` where samples lack some. Masks are a function of
    each sample's seed, so that the number of ranks changes nothing.

    Args:
        modalities: the codec of each, under the name it has here.
        backbone: made for these modalities (FourM).
        masks: which tokens are known and asked, made for these modalities (DirichletMask).
        decoders: how modalities are decoded, where not as `decoder_for` says.
        alignment: of modalities whose vectors are to be compared (Alignment), over the samples of one device.
        codes_begin: words begin as alike as what they stand for: codes of a tokenizer, bits, coordinates.
        loss: mean over modalities of their means (mod), or over all answers (token); or weights of modalities in that
            mean, where they are not 1.
        examples: what validations show a picture of.
        retrieval: what validations look for, among the first `retrieval_samples`.
        retrieval_samples: how many; the time it takes grows with their square.
        lr: peak learning rate.
        betas: AdamW's averaging.
        weight_decay: on matrices; biases and norms do not decay.
        warmup_tokens: known and asked tokens in which the learning rate grows; each sample counts for as many as
            `masks` allows.
        total_tokens: those after which the training ends, and the cosine with it (default: by trainer.max_steps).
        decay: what follows the growth: constant, or cosine to zero.
        init_from: run folder, or exported model, with whose backbone this one begins; modalities that it lacks are new.
    """

    model: AnyToAny

    def __init__(
        self,
        modalities: dict[str, Codec],
        backbone: Callable[[Sequence[Modality]], MaskedTransformer],
        masks: Callable[[Sequence[Modality]], DirichletMask],
        decoders: dict[str, Decoder] | None = None,
        alignment: Alignment | None = None,
        codes_begin: bool = False,
        loss: Literal["mod", "token"] | dict[str, float] = "mod",
        examples: list[Example] | None = None,
        retrieval: list[Retrieval] | None = None,
        retrieval_samples: int = 128,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        warmup_tokens: float = 0.0,
        total_tokens: float | None = None,
        decay: Decay = "cosine",
        init_from: Path | None = None,
    ) -> None:
        super().__init__()
        known = [codec.modality(name) for name, codec in modalities.items()]
        self.backbone, self.masks = backbone(known), masks(known)
        self.__dict__["codecs"] = modalities  # no children: they are not trained
        self.alignment = alignment
        if codes_begin:
            begin_as_codes(self.backbone, modalities)
        self.__dict__["model"] = AnyToAny(self.backbone, modalities, decoders, alignment)
        self.rule = AmongTargets([number for number, modality in enumerate(known) if modality.kind == "sequence"])
        self.by_token, self.loss_weights = loss == "token", self._weights(loss if isinstance(loss, dict) else {})
        self.examples = examples or []
        for example in self.examples:
            for name in (*example.given, *example.wanted):
                self.model.catalogue.number(name)
        self.retrieval = RetrievalScores(retrieval or [], retrieval_samples, self.model)
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.warmup_tokens, self.decay, self.init_from = warmup_tokens, decay, init_from
        self.budget = TokenBudget(total_tokens, self.tokens_per_sample) if total_tokens is not None else None
        self.val_losses = {m.name: MeanMetric() for m in known if m.vocab_size}
        self.metrics = torch.nn.ModuleList(self.val_losses.values())  # so that they follow to devices and ranks
        self._shown: dict[str, Any] | None = None

    @property
    def tokens_per_sample(self) -> int:
        """For the speed in tokens: known and asked ones."""
        return self.masks.known[1] + self.masks.asked[1]

    def setup(self, stage: str) -> None:
        if stage == "fit":
            one_end(self, self.budget, self.decay)
        begin_from(self, self.backbone, self.init_from, stage)

    def configure_callbacks(self) -> list[Callback]:
        return [self.budget] if self.budget else []

    def configure_optimizers(self) -> Any:
        settings = self.lr, self.betas, self.weight_decay
        if not self.warmup_tokens and not self.budget:
            return adamw(self, self, *settings, 0, self.decay)
        self.trainer.fit_loop.setup_data()  # Lightning has not asked for the loader yet
        loader: Any = self.trainer.train_dataloader
        step = loader.batch_size * ranks()[1] * self.trainer.accumulate_grad_batches * self.tokens_per_sample
        if not (budget := self.budget):
            return adamw(self, self, *settings, round(self.warmup_tokens / step), self.decay)
        lengths = self.warmup_tokens / step, self.decay, budget.total / step
        return adamw(self, self, *settings, *lengths, position=lambda _: budget.spent / step)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        data = self.model.read(batch)
        loss = self._over_ranks(self._errors(data, batch, batch_idx, training=True))
        if self.alignment is not None:
            apart = self._apart(self.alignment, data)
            self.log("train/alignment", apart, batch_size=len(batch["key"]))
            loss = loss + self.alignment.weight * apart
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["key"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        data = self.model.read(batch)
        found = self._errors(data, batch, batch_idx, training=False)
        if self.alignment is not None:
            self.log("val/alignment", self._apart(self.alignment, data), batch_size=len(batch["key"]), sync_dist=True)
        for name, part in found.items():
            self.val_losses[name].update(part.total / max(1, part.number), part.number)
        self.retrieval.keep(batch)
        if self._shown is None:
            self._shown = {name: value[:SHOWN] for name, value in batch.items() if name not in ("key", "present")}
            self._shown["present"] = {name: part[:SHOWN] for name, part in batch.get("present", {}).items()}

    def on_validation_epoch_start(self) -> None:
        for metric in self.val_losses.values():
            metric.reset()

    def on_validation_epoch_end(self) -> None:
        """The loss of each modality and their mean; what is found again; a table of predictions for each example."""
        means = {name: metric.compute() for name, metric in self.val_losses.items()}
        there = {name: mean for name, mean in means.items() if not mean.isnan()}
        self.log_dict({f"val/{name}": mean for name, mean in there.items()})
        if there:
            self.log("val/loss", torch.stack(list(there.values())).mean(), prog_bar=True)
        shown, self._shown = self._shown, None
        with self._predicting():
            self.log_dict({f"val/{name}": share for name, share in self.retrieval.compute(self.model).items()})
            tables = [None if shown is None else self._table(example, shown) for example in self.examples]
        for example, table in zip(self.examples, tables, strict=True):
            show(self, f"{'-'.join(example.given)}-to-{'-'.join(example.wanted)}", table)

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        """The model as each rank needs it to predict by itself: in eval mode, all weights whole."""
        self.model.eval()
        try:
            with whole(self):
                yield
        finally:
            self.backbone.train(self.training)

    def _table(self, example: Example, batch: dict[str, Any]) -> Tensor:
        sources = {name: self.model.source(name) for name in (*example.given, *example.wanted)}
        given = {name: batch[sources[name]] for name in example.given}
        there = {name: batch["present"][sources[name]] for name in given if sources[name] in batch["present"]}
        visible = {name: has[:, None].expand(-1, self.model.catalogue[name].length) for name, has in there.items()}
        predicted = self.model.predict(given, example.wanted, visible=visible)
        seen = {name: self.model.codec(name).seen for name in predicted}
        return modality_table(
            {name: self._kept(name, batch) for name in example.given},
            {name: seen[name](raw) for name, raw in predicted.items()},
            {name: self._kept(name, batch) for name in example.wanted},
        )

    def _kept(self, name: str, batch: dict[str, Any]) -> Any:
        """What tokens keep of the raw data, to be looked at."""
        data, codec = self.model.read(batch, [name])[name], self.model.codec(name)
        ids = torch.from_numpy(data.ids) if data.values is None else data.values
        return codec.seen(codec.decode(ids, torch.from_numpy(data.length)))

    def _apart(self, alignment: Alignment, data: dict[str, Data]) -> Tensor:
        """How far the vectors of the modalities of a sample are from each other."""
        own = {name: data[name] for name in alignment.names}
        there = {name: torch.from_numpy(some.length > 0).to(self.device) for name, some in own.items()}
        return alignment.loss(self.model.vectors(self.model.tokens(own)), there)

    def _errors(
        self, data: dict[str, Data], batch: dict[str, Any], batch_idx: int, training: bool
    ) -> dict[str, answers.Errors]:
        count, (rank, world) = len(batch["key"]), ranks()
        generator = common_generator(self, training, batch_idx, MASKS)
        seeds = torch.randint(2**62, (count * world,), generator=generator)[rank::world]
        question = self.masks(data, seeds.numpy().astype("uint64"))
        known, asked = question.known.map(self._there), question.asked.map(self._there)
        wanted = self._there(question.wanted)

        def errors(features: Tensor) -> dict[str, answers.Errors]:
            return answers.errors(self.model.embedding, asked, features, wanted)

        return self.backbone(known, asked, self.rule, errors)

    def _over_ranks(self, found: dict[str, answers.Errors]) -> Tensor:
        """The loss over the answers of all ranks; DDP divides the sum of gradients by the number of ranks."""
        counts = sum_over_ranks(torch.tensor([float(part.number) for part in found.values()], device=self.device))
        totals = torch.stack([part.total for part in found.values()]) * ranks()[1]
        if self.by_token:
            return totals.sum() / counts.sum().clamp(min=1)
        weights = totals.new_tensor([self.loss_weights[name] for name in found])
        return (weights * totals / counts.clamp(min=1)).sum() / weights.sum()

    def _weights(self, given: dict[str, float]) -> dict[str, float]:
        """Of all modalities that have answers in the mean of their losses."""
        names = [m.name for m in self.model.catalogue.modalities if m.vocab_size]
        weights = dict.fromkeys(names, 1.0) | given
        if wrong := [name for name in given if name not in names]:
            raise UserError(
                f"CrossModal: loss weighs {wrong[0]}, of which nothing can be asked; those that can be are "
                f"{', '.join(names)}."
            )
        if not all(0 <= weight < float("inf") for weight in given.values()) or not sum(weights.values()):
            raise UserError(f"CrossModal: weights in loss are 0 or more, and not all 0; they are {given}.")
        return weights
