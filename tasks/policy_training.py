"""Train a policy that decodes with a finished generator (AdaNAT, Ni et al. 2024): what pays is done more often."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torchmetrics import MeanMetric

from mmmask.errors import UserError
from mmmask.heads import PolicyHead
from mmmask.synthesis import AdaptiveSampler, Decoded, Noise, Policy, Schedule
from mmmask.synthesis.adaptive import Looked
from mmmask.tokenizers import ImageTokenizer
from mmmask.tokenizers.ranks import ranks, sum_over_ranks
from tasks import ppo
from tasks.batches import entry, pictures
from tasks.finished import fingerprint, model_of
from tasks.generating import text_vectors
from tasks.image_metrics import ImageMetric
from tasks.pictures import grid, show
from tasks.rewards import LearningReward, Reward
from tasks.training.randomness import common_generator

ROLLOUTS, JUDGED = range(2)  # what seeds are drawn for
SHOWN, COLUMNS = 40, 10  # images in a sample picture


class PolicyTraining(LightningModule):
    """Proximal policy optimisation of how to decode. Generator and tokenizer are frozen.

    A step draws many images with actions around the policy's, updates the policy by what they are worth, then the
    reward if it learns. Batches hold real images under `image` and classes or text vectors under `given`, of which
    images are drawn too; the real ones of a batch are parted among the updates of the reward.

    Args:
        model: run folder of an image synthesis, or an exported model, with its tokenizer.
        reward: what images are worth.
        start: what the policy does before it has learned anything; of as many steps as it will decode in.
        image: which entry of the batch holds real images.
        given: which entry images follow.
        as_decoded: real images are shown to the reward as the tokenizer gives them back: what it loses is no fault of
            the policy, and otherwise tells drawn ones at once.
        images: drawn in a step, by all ranks together.
        draw_at_once: images, on a device.
        epochs: updates of the policy with the same images.
        reward_updates: of a reward that learns, each with fresh images.
        spread: of the actions that are tried.
        later_spread: the same, from the step `narrow_at` on.
        smoothing: share of the step before in what the policy does next.
        hidden, narrow, wide: sizes of the policy's network, and of the critic's.
        lr: of policy and critic.
        reward_lr: of the reward.
        metric: what the images of a validation are worth, less is better; logged as val/metric, for checkpoints.best.
    """

    def __init__(
        self,
        model: Path,
        reward: Reward,
        start: Schedule,
        image: str = "image",
        given: str = "label",
        as_decoded: bool = False,
        images: int = 4096,
        draw_at_once: int = 128,
        epochs: int = 5,
        reward_updates: int = 5,
        spread: float = 0.6,
        later_spread: float = 0.3,
        narrow_at: int = 500,
        smoothing: float = 0.0,
        hidden: int = 512,
        narrow: int = 128,
        wide: Sequence[int] = (1024, 512),
        lr: float = 1e-5,
        reward_lr: float = 1e-4,
        metric: ImageMetric | None = None,
    ) -> None:
        super().__init__()
        if images < 2 or min(draw_at_once, epochs, reward_updates) < 1 or min(spread, later_spread, lr, reward_lr) <= 0:
            raise UserError(
                "PolicyTraining: images must be 2 or more, for they are compared with each other; draw_at_once, epochs "
                "and reward_updates 1 or more; spread, later_spread, lr and reward_lr above 0."
            )
        self.automatic_optimization = False
        self.decoder = model_of(model)  # no child: it is not trained
        generator = self.decoder.part("generator", model).requires_grad_(False)
        self.decoder.part("tokenizer", model).requires_grad_(False)
        reward.check(generator)
        channels, tokens = generator.backbone.decoder.dim, generator.modality.length
        self.policy = Policy(channels, tokens, len(start), False, smoothing, hidden, narrow, wide)
        self.policy.follow(start)
        self.critic = PolicyHead(channels, 1, self.policy.actor.side, hidden, narrow, wide)
        self.reward = reward
        self.sampler = AdaptiveSampler(self.policy)
        self.image, self.given, self.as_decoded = image, given, as_decoded
        self.images, self.draw_at_once = images, draw_at_once
        self.epochs, self.reward_updates = epochs, reward_updates
        self.spreads, self.narrow_at = (spread, later_spread), narrow_at
        self.lr, self.reward_lr = lr, reward_lr
        self.val_reward, self.metric = MeanMetric(), metric

    @property
    def spread(self) -> float:
        """Of the actions that are tried now."""
        return self.spreads[self.global_step >= self.narrow_at]

    def setup(self, stage: str) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            raise UserError("PolicyTraining: a policy does not train with sharded weights; use ddp.")
        precision = self.trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is not None:
            raise UserError("PolicyTraining: it does not scale losses, as 16-mixed needs it; use bf16-mixed or 32.")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": [*self.policy.parameters(), *self.critic.parameters()]}]
        if isinstance(self.reward, LearningReward):
            groups.append({"params": list(self.reward.parameters()), "lr": self.reward_lr, "betas": (0.5, 0.999)})
        return torch.optim.Adam(groups, lr=self.lr)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["generator"] = fingerprint(self.decoder.parts["generator"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("generator") != fingerprint(self.decoder.parts["generator"]):
            raise UserError("the checkpoint is of a policy for another generator: set model to the one it began with.")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        given, known = self._known(batch)
        size, spread = len(given), self.spread
        optimizer: Any = self.optimizers()
        rollout, worth = self._roll_out(given, self._seeds(batch_idx, ROLLOUTS, self.images), spread)
        found = self._improve(rollout, spread, optimizer)
        self.log_dict({"train/policy": found.policy, "train/critic": found.critic}, batch_size=size)
        self.log("train/reward", worth.mean(), prog_bar=True, batch_size=size)
        if isinstance(self.reward, LearningReward):
            loss = self._learn_to_judge(self.reward, self._real(batch)[known], given, batch_idx, optimizer)
            self.log("train/reward_loss", loss, prog_bar=True, batch_size=size)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        given, _ = self._known(batch)
        drawn = self._draw(given, self._seeds(batch_idx, JUDGED, len(given) * ranks()[1], training=False), 0.0)
        self.val_reward(self._worth(drawn, given))
        self.log("val/reward", self.val_reward, prog_bar=True, batch_size=len(given))
        if self.metric is not None:
            self.metric.update(drawn, given)

    def on_validation_epoch_end(self) -> None:
        """The metric; pictures of the classes in order."""
        if self.metric is not None:
            self.log("val/metric", self.metric.compute().float(), prog_bar=True)  # over all ranks
            self.metric.reset()
        classes = self.decoder.parts["generator"].classes
        if classes is None:
            return
        columns = min(classes, COLUMNS)
        given = torch.arange(columns, device=self.device).repeat(SHOWN // COLUMNS)
        show(self, "generated", grid(self._draw(given, range(len(given)), 0.0).cpu(), columns))

    def _roll_out(self, given: Tensor, seeds: Tensor, spread: float) -> tuple[ppo.Rollout, Tensor]:
        """Draw an image for each seed; what was seen and done, and what the images are worth."""
        shape = len(seeds) * self.policy.steps, self.policy.tokens, self.policy.channels
        kept, filled = torch.empty(shape, dtype=torch.float16), 0
        parts: list[tuple[Tensor, ...]] = []
        worths: list[Tensor] = []
        for some, own in self._batches(given, seeds):
            for number, (decoded, looked) in enumerate(self._decoding(some, own, spread)):
                ids = decoded.ids
                features = looked.features.half()  # as it is kept, so that updates begin with the chances kept
                step = torch.full((len(some),), number, device=self.device)
                with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                    mean, value = self.policy.mean(features.float(), step), self.critic(features.float(), step)
                parts.append((step, looked.actions, ppo.chances(looked.actions, mean, spread), value[:, 0]))
                kept[filled : filled + len(some)] = features
                filled += len(some)
            worths.append(self._worth(self._pictures(ids), some))
        returns = torch.cat([worth.repeat(self.policy.steps) for worth in worths])
        steps, actions, chances, values = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return ppo.Rollout(kept, steps, actions, chances, values, ppo.normalised(returns).cpu()), torch.cat(worths)

    def _improve(self, rollout: ppo.Rollout, spread: float, optimizer: Any) -> ppo.Terms:
        """Update policy and critic, in full precision."""
        for epoch in range(self.epochs):
            optimizer.zero_grad()
            with torch.autocast(self.device.type, enabled=False):
                found = ppo.accumulate(self.policy.mean, self.critic, rollout, spread, self.draw_at_once, self.device)
            # Lightning counts one update: a step is an iteration.
            self._update(optimizer if epoch == 0 else optimizer.optimizer, (self.policy, self.critic))
        return found

    def _learn_to_judge(
        self, reward: LearningReward, real: Tensor, given: Tensor, batch_idx: int, optimizer: Any
    ) -> Tensor:
        """Update the reward, each time with a part of the real images and as many fresh ones; the mean loss."""
        count = max(len(real), self.reward_updates)  # few, at the end of an epoch, are shown more than once
        seeds, losses = self._seeds(batch_idx, JUDGED, count * ranks()[1]), []
        for places in torch.arange(count).tensor_split(self.reward_updates):
            part = (places % len(real)).to(self.device)
            drawn = self._draw(given[part], seeds[places], self.spread)
            optimizer.zero_grad()
            loss = reward.train().loss(real[part], drawn, given[part])
            loss.backward()
            self._update(optimizer.optimizer, (reward,))
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def _update(self, optimizer: Any, trained: Iterable[nn.Module]) -> None:
        """A step with gradients averaged over all ranks, for DDP sees no backward pass here."""
        own = [weight.grad for module in trained for weight in module.parameters() if weight.grad is not None]
        mean = sum_over_ranks(torch.nn.utils.parameters_to_vector(own)) / ranks()[1]
        torch.nn.utils.vector_to_parameters(mean, own)
        optimizer.step()

    def _draw(self, given: Tensor, seeds: Sequence[int] | Tensor, spread: float) -> Tensor:
        """Images `(B, C, H, W)` in 0..1."""
        drawn = []
        for some, own in self._batches(given, torch.as_tensor(list(seeds))):
            *_, (decoded, _) = self._decoding(some, own, spread)
            drawn.append(self._pictures(decoded.ids))
        return torch.cat(drawn)

    def _batches(self, given: Tensor, seeds: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """What is drawn at once, of each seed, with what is given in turn: equally many, for a reward may judge them
        together."""
        turns = torch.arange(len(seeds), device=given.device) % len(given)
        times = -(-len(seeds) // self.draw_at_once)
        return zip(given[turns].tensor_split(times), seeds.tensor_split(times), strict=True)

    def _decoding(self, given: Tensor, seeds: Tensor, spread: float) -> Iterator[tuple[Decoded, Looked]]:
        generator = self.decoder.parts["generator"].to(self.device)
        return self.sampler.explore(generator, given, Noise(seeds), spread)

    @torch.no_grad()
    def _pictures(self, ids: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, enabled=False):
            return self._tokenizer.decode(ids.unflatten(1, (self._tokenizer.grid, -1))).float()

    @torch.no_grad()
    def _worth(self, images: Tensor, given: Tensor) -> Tensor:
        return self.reward.eval()(images, given).float()

    def _seeds(self, batch_idx: int, use: int, count: int, training: bool = True) -> Tensor:
        """Of the images of this rank; those of all ranks do not depend on how many there are."""
        generator, (rank, world) = common_generator(self, training, batch_idx, use), ranks()
        return torch.randint(2**62, (count,), generator=generator)[rank::world]

    @torch.no_grad()
    def _real(self, batch: dict[str, Any]) -> Tensor:
        """Real images `(B, C, H, W)` in 0..1; of tokens, what they stand for."""
        found = pictures(self, batch, self.image)
        if found.ndim < 4:
            return self._pictures(found.flatten(1))
        return self._pictures(self._tokenizer.encode(found).flatten(1)) if self.as_decoded else found

    @property
    def _tokenizer(self) -> ImageTokenizer:
        return self.decoder.parts["tokenizer"].to(self.device)

    def _known(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Classes or text vectors, without those that are none; and which samples `(B,)` have one."""
        given, classes = entry(self, batch, self.given), self.decoder.parts["generator"].classes
        if not isinstance(given, Tensor):
            given = text_vectors(self.decoder, given).to(self.device)
        if classes is None:
            return given, torch.ones(len(given), dtype=torch.bool, device=given.device)
        if len(wrong := given[given >= classes]):
            raise UserError(
                f"PolicyTraining: class {wrong[0].item()} in the data, but the generator knows 0 to {classes - 1}."
            )
        known = given >= 0
        if not known.any():
            raise UserError(f"PolicyTraining: none of the {len(given)} samples of a batch has a class.")
        return given[known], known
