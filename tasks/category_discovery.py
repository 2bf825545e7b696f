"""Train features and classes together: known classes by some labels, new ones by none (Vaze et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from mmmask.discovery import GET, MMGCD, UNLABELLED, Encoder, Fusion, LearnedFusion, MeanFusion, SimGCD
from mmmask.discovery.discoverer import Adapter, Discoverer
from mmmask.discovery.look_clusters import look_clusters
from mmmask.discovery.output_space import STUDENT_TEMPERATURE, sharpened
from mmmask.discovery.protocol import Protocol
from mmmask.discovery.space import Parts
from mmmask.errors import UserError
from mmmask.heads import DiscoveryHead
from mmmask.parallelize import set_weight
from mmmask.tokenizers.ranks import sum_over_ranks
from mmmask.transformer import add_low_rank
from tasks.batches import entry
from tasks.beginning import begin_from
from tasks.codec_task import CodecTask
from tasks.judging import SHORT, Judged, write_assigned, write_classes
from tasks.optimizing import Decay, adamw
from tasks.training.ema import EMA
from tasks.training.loops import is_last_step, validation_follows

SETS = ("", "inductive/")  # validation data: those of training, of which the unlabelled count; others


class Clustering(pl.Callback):
    """Where features alone are learned, their clusters are the categories: in each validation, and at the end."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *others: Any) -> None:
        if is_last_step(trainer) or validation_follows(trainer):
            cast(CategoryDiscovery, pl_module).begin_prototypes()


class CategoryDiscovery(CodecTask):
    """An objective of mmmask.discovery over looks at two views of each sample.

    Batches hold the raw data that the codecs read, in two views (`data.views: 2`; of `Vectors` alone one, which their
    dropout makes two of); the objective sees those of one device. Labels come from the protocol alone: those of a batch
    only judge. The first validation data must be those of training (`data.val_train: true`). Nothing is chosen by what
    validations say: the last weights count.

    Args:
        encoder: what sees the samples (BackboneEncoder, Towers).
        classes: K, old and new together.
        protocol: file that says which samples are labelled; `mmmask protocol` writes it.
        objective: what is learned (SimGCD, GET, MMGCD).
        fusion: one prediction of all looks (MeanFusion, ConfidenceFusion; LearnedFusion, whose weights tell how well
            each look groups the labelled samples when prototypes begin).
        width: numbers of a feature.
        projector_width: numbers that are contrasted, made of a feature.
        projector_hidden: width of the layers between.
        features_first: share of the training in which features alone are learned, by the objective's contrast; then
            prototypes, of each look its own, begin as the clusters of the training samples. 0: both from the start, and
            all looks share the prototypes. 1: features alone (GCD); prototypes are clusters, and learn nothing.
        teacher_warmup: share of the training in which teachers grow sure, from when there are prototypes.
        train_blocks: only the last blocks of the encoder learn, so many (default: all of it).
        low_rank: of the blocks of the encoder, only products of this rank beside their matrices learn (LoRA).
        encoder_rate: share of the learning rate that the encoder has.
        label: entry of a batch with classes, for validations; null if nobody knows them: then nothing is judged.
        seed: of the clustering.
        lr: peak learning rate.
        betas: AdamW's averaging.
        weight_decay: on matrices; biases and norms do not decay.
        warmup_steps: linear growth of the learning rate.
        decay: what follows: constant, or cosine to zero.
        init_from: run folder, or exported model, with whose backbone that of the encoder begins.
    """

    model: Discoverer

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        protocol: Path,
        objective: SimGCD | GET | MMGCD,
        fusion: Fusion | None = None,
        width: int = 128,
        projector_width: int = 128,
        projector_hidden: int = 512,
        features_first: float = 0.0,
        teacher_warmup: float = 0.15,
        train_blocks: int | None = None,
        low_rank: int | None = None,
        encoder_rate: float = 1.0,
        label: str | None = "label",
        seed: int = 0,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.05,
        warmup_steps: int = 20,
        decay: Decay = "cosine",
        init_from: Path | None = None,
    ) -> None:
        super().__init__()
        self.protocol = Protocol.read(protocol)
        self.places = self.protocol.numbers()
        looks = list(encoder.widths)
        self._check(classes, looks, objective, fusion, features_first, teacher_warmup, encoder_rate)
        self.encoder = encoder
        self.adapters = torch.nn.ModuleDict({name: Adapter(size, width) for name, size in encoder.widths.items()})
        own = len(looks) if features_first else 0
        self.head = DiscoveryHead(width, classes, projector_width, projector_hidden, looks=own)
        self.head.prototypes.requires_grad_(features_first < 1)
        self.fusion = fusion or MeanFusion()
        self.__dict__["codecs"] = encoder.codecs
        adapters = cast(Mapping[str, Adapter], self.adapters)
        self.__dict__["model"] = Discoverer(encoder, adapters, self.head, self.fusion)
        self.objective, self.classes, self.label, self.seed = objective, classes, label, seed
        self.features_first, self.teacher_warmup = features_first, teacher_warmup
        self.low_rank, self.encoder_rate = low_rank, encoder_rate
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.warmup_steps, self.decay, self.init_from = warmup_steps, decay, init_from
        if train_blocks is not None and low_rank is not None:
            raise UserError("CategoryDiscovery: give train_blocks or low_rank, not both.")
        if train_blocks is not None:
            encoder.train_last(train_blocks)
        self.judged = torch.nn.ModuleList(Judged(self.protocol.old, looks) for _ in SETS)
        self._has_products = False
        self._assigned: list[tuple[str, int, float]] = []  # of this rank: key, category, confidence
        self._known = 0  # labelled samples in the first validation data
        self._begun: bool | None = False  # whether prototypes have begun; None: an earlier mmmask did not write it down

    def _check(
        self,
        classes: int,
        looks: list[str],
        objective: SimGCD | GET | MMGCD,
        fusion: Fusion | None,
        features_first: float,
        teacher_warmup: float,
        encoder_rate: float,
    ) -> None:
        if classes < len(self.protocol.old):
            raise UserError(
                f"CategoryDiscovery: classes is {classes}, but the protocol knows {len(self.protocol.old)} old ones; "
                "give as many as there are, old and new."
            )
        if len(looks) < 2 and not isinstance(objective, SimGCD):
            raise UserError(
                f"CategoryDiscovery: {type(objective).__name__} ties two or more looks together, here is one "
                f"({looks[0]}); take SimGCD, or give more modalities."
            )
        if isinstance(fusion, LearnedFusion) and (not features_first or len(fusion.log_weights) != len(looks)):
            raise UserError(
                "CategoryDiscovery: LearnedFusion has a weight for each look, found when prototypes begin: set "
                f"features_first above 0 and modalities to {len(looks)}, or take Mean- or ConfidenceFusion."
            )
        if not 0 <= features_first <= 1 or not 0 < teacher_warmup <= 1 or not 0 < encoder_rate <= 1:
            raise UserError(
                "CategoryDiscovery: features_first is a share from 0 to 1, teacher_warmup and encoder_rate are "
                f"above 0, at most 1; they are {features_first}, {teacher_warmup} and {encoder_rate}."
            )

    def setup(self, stage: str) -> None:
        if self.init_from is not None:
            if (backbone := self.model.backbone) is None:
                raise UserError("CategoryDiscovery: init_from fills a backbone; Towers bring weights of their own.")
            begin_from(self, backbone, self.init_from, stage)
        if self.low_rank is not None and not self._has_products:
            self._has_products = True
            blocks = [block for stack in self.encoder.some_stacks() for block in stack]
            self.encoder.requires_grad_(False)
            add_low_rank(blocks, self.low_rank)

    def configure_optimizers(self) -> Any:
        if self.trainer.estimated_stepping_batches == float("inf"):
            raise UserError("CategoryDiscovery: nothing says when the training ends; set trainer.max_steps.")
        settings = self.lr, self.betas, self.weight_decay, self.warmup_steps, self.decay
        return adamw(self, self, *settings, rates=lambda name: self.encoder_rate if name.startswith("enc") else 1.0)

    def configure_callbacks(self) -> list[pl.Callback]:
        return [Clustering()] if self.features_first == 1 else []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Once features were learned alone, prototypes begin as clusters; before, and if not, as they were made."""
        if not 0 < self.features_first < 1:
            return
        if self.trainer.global_step < self._first_step():
            self._begun = False
        elif not self._begun:
            self.begin_prototypes()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        labels = self._given(batch["key"])
        share = self.trainer.global_step / self.trainer.estimated_stepping_batches
        temperature = sharpened((share - self.features_first) / self.teacher_warmup)
        terms = self.objective(self.model.looks(batch), labels.clamp(min=0), labels >= 0, temperature)
        if self.trainer.global_step < self._first_step():
            terms = {name: terms[name] for name in ("info_nce", "supervised_contrast")} | {"loss": terms["contrast"]}
        for name, term in terms.items():
            self.log(f"train/{name}", term, prog_bar=name == "loss", batch_size=len(batch["key"]))
        return terms["loss"]

    @torch.no_grad()
    def begin_prototypes(self) -> None:
        """Prototypes of each look become its means over clusters of the training samples, those of the old classes in
        their places. Clusters are found in all looks side by side."""
        weigh = isinstance(self.fusion, LearnedFusion)
        found = look_clusters(*self._training_samples(), self.classes, weigh, self.seed)
        if found.classes < len(self.protocol.old):
            raise UserError("CategoryDiscovery: not all old classes have labelled samples among the training samples.")
        self._begun = True
        set_weight(self.head.prototypes.weight, torch.from_numpy(found.centres))
        EMA.begin_anew(self, self.head.prototypes.weight)
        if isinstance(self.fusion, LearnedFusion):
            self.fusion.set(list(found.weights.values()))

    def _training_samples(self) -> tuple[Parts, NDArray[np.int64]]:
        """Directions of all training samples by look, rows of zeros where one is absent, and the labels given."""
        self.trainer.fit_loop.epoch_loop.val_loop.setup_data()
        loaders: Any = self.trainer.val_dataloaders
        if not loaders:
            raise UserError(
                "CategoryDiscovery: features_first clusters the training samples; set data.val_train: true."
            )
        self.model.eval()
        rows, labels = [], []
        for batch in loaders[0] if isinstance(loaders, list) else loaders:
            rows.append(self.model.directions(batch).float().cpu())
            labels.append(self._given(batch["key"]).cpu())
        self.model.train()
        return dict(zip(self.encoder.widths, torch.cat(rows, 1).numpy(), strict=True)), torch.cat(labels).numpy()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["prototypes_begun"] = self._begun

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._begun = checkpoint.get("prototypes_begun")

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Of the training samples, those count that are not labelled; of others, all that have a class."""
        if training := dataloader_idx == 0:
            self._known += int((self._given(batch["key"]) != UNLABELLED).sum())
        self._judge(self.judged[dataloader_idx], batch, spare_labelled=training)

    def on_validation_epoch_end(self) -> None:
        known = sum_over_ranks(torch.tensor([float(self._known)], device=self.device))
        self._known = 0
        if not self.trainer.sanity_checking and not known:
            raise UserError(
                "CategoryDiscovery: the first validation data have no labelled sample, so they are not those of "
                "training; set data.val_train: true."
            )
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)  # all ranks must ask
        writes = self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
        for where, judged in zip(SETS, self.judged, strict=False):
            if writes and (met := cast(Judged, judged).meetings()) is not None and self.trainer.is_global_zero:
                write_classes(folder, where.strip("/"), met, self.protocol.old)
            self._tell(f"val/{where}", judged)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Inductive: samples that training has not seen."""
        self._judge(self.judged[1], batch)

    def on_test_epoch_end(self) -> None:
        self._tell("test/", self.judged[1])

    def on_predict_start(self) -> None:
        if self.features_first and self._begun is False:
            raise UserError(
                "CategoryDiscovery: there are no categories yet, for features alone were learned so far "
                "(features_first): go on with the run (mmmask resume) and give --ckpt_path its last checkpoint."
            )

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        """The number of the category of each sample, the old classes first, and how likely it is said to be."""
        logits, there = self._looked(batch)
        odds, categories = (self.model.fusion(logits, there) / STUDENT_TEMPERATURE).softmax(-1).max(-1)
        self._assigned += zip(batch["key"], categories.tolist(), odds.tolist(), strict=True)
        return {"key": batch["key"], "category": categories, "confidence": odds}

    def on_predict_epoch_end(self) -> None:
        path = Path(self.trainer.default_root_dir) / "predictions.csv"
        write_assigned(path, self._assigned, self.protocol.names or self.protocol.old)
        self._assigned = []
        rank_zero_info(f"the category of each sample: {path}")

    def _judge(self, judged: Any, batch: dict[str, Any], spare_labelled: bool = False) -> None:
        if self.label is None:
            return
        labels, (logits, there) = self._there(entry(self, batch, self.label)), self._looked(batch)
        counted = labels >= 0
        if spare_labelled:
            counted &= self._given(batch["key"]) == UNLABELLED
        judged.update(self.model.fusion(logits, there), logits, there, labels, counted)

    def _looked(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Cosines `(M, B, K)` of looks with prototypes, and which looks there are `(M, B)`: one of each sample."""
        logits, there = self.model(batch)
        if not (seen := there.any(0)).all():
            key, looks = batch["key"][int((~seen).int().argmax())], ", ".join(self.encoder.widths)
            raise UserError(
                f"sample '{key}' has none of {looks} (an empty text is none): no class can be found for it; leave it "
                "out."
            )
        return logits, there

    def _tell(self, where: str, judged: Any) -> None:
        for name, score in judged.results().items():
            self.log(where + name, score, prog_bar=name in SHORT)

    def _given(self, keys: Sequence[str]) -> Tensor:
        """The place of the class that the protocol gives samples `(B,)`, -1 for none."""
        return self._there(torch.tensor([self.places.get(key, UNLABELLED) for key in keys]))

    def _first_step(self) -> int:
        """Where prototypes begin to learn: one step at least is theirs, unless features alone are learned."""
        steps = int(self.trainer.estimated_stepping_batches)
        return min(round(self.features_first * steps), steps - (self.features_first < 1))
