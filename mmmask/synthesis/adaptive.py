"""Decoding by a policy that looks at each image before each step (AdaNAT, Ni et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.synthesis.generator import Given, ImageGenerator
from mmmask.synthesis.noise import Noise
from mmmask.synthesis.orders import Order
from mmmask.synthesis.policy import Decision, Policy
from mmmask.synthesis.sampling import Contexts, Decoded, Rest, Sampler, begin
from mmmask.tokens import BLANK


class Looked(NamedTuple):
    """What the policy saw, did and meant in a step: features `(B, L, C)`, actions `(B, 4)`, decision."""

    features: Tensor
    actions: Tensor
    decision: Decision


class AdaptiveSampler(Sampler):
    """Decodes as a policy says, for each image by itself.

    Args:
        policy: made for this model and number of tokens.
        order: which of the drawn words are kept (default: the likeliest).
        top_k: draw among so many likeliest words only.
        top_p: draw among the likeliest words that have this probability together.
        reuse: encode each token once, if the model can (ENAT).
    """

    def __init__(
        self,
        policy: Policy,
        order: Order | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        reuse: bool = True,
    ) -> None:
        super().__init__(None, order, top_k, top_p, reuse)
        self.policy = policy

    def settings(self) -> dict[str, object]:
        plain = {name: value for name, value in super().settings().items() if name not in ("steps", "each_reveals")}
        return {"policy": type(self.policy).__name__, "steps": self.policy.steps, **plain}

    def with_(self, **settings: float) -> Sampler:
        raise UserError(f"the policy decides on {', '.join(settings)}; decode by a Sampler with a schedule instead.")

    def steps(
        self,
        model: ImageGenerator,
        given: Given,
        noise: Noise | Sequence[int],
        ids: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Iterator[Decoded]:
        """Decode step by step by what the policy deems best; see `Sampler.steps`."""
        for number, (decoded, _) in enumerate(self.explore(model, given, noise, 0.0, ids, guidance), 1):
            yield decoded
            if not (decoded.ids == BLANK).any():  # the policy was in a hurry: no pass is needed any more
                yield from [Decoded(decoded.ids, decoded.evaluations)] * (self.policy.steps - number)
                return

    @torch.no_grad()
    def explore(
        self,
        model: ImageGenerator,
        given: Given,
        noise: Noise | Sequence[int],
        spread: float,
        ids: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Iterator[tuple[Decoded, Looked]]:
        """Decode with actions that deviate from the policy's by normal noise of this `spread`."""
        steps = self.policy.steps
        ids, noise = begin(model, given, noise, ids, steps)
        contexts, rest = Contexts(model, given, True, guidance), Rest(ids)
        split, memory, aim = rest.split(), None, None
        reuses = self.reuse and model.reuses
        for number in range(steps):
            both = model.tokens(contexts.repeated(ids)), split.map(contexts.repeated), contexts.all
            features, logits, memory = model.survey(*both, memory)
            step = torch.full((len(given),), number, device=given.device)
            features = features[: len(given)].float()  # those of the branch with what is given
            with torch.autocast(features.device.type, enabled=False):
                actions = self.policy.mean(features, step)
            if spread:
                actions = actions + spread * noise.normal(number, actions.shape[1])
            aim = self.policy.aim(actions, step, aim)
            decision = self.policy.decide(aim)
            logits = contexts.guide(logits, decision.guidance[:, None, None])
            temperature = decision.temperature.clamp(min=1e-4)[:, None, None]
            words, chances = self.draw(logits, temperature, number, split.asked, noise)
            remask = decision.remask[:, None]
            scores = self.order(chances, split.asked, ids.shape[1], number, remask, noise)
            places, last = split.asked, number == steps - 1
            then = torch.zeros_like(rest.left) if last else self._masked(decision, ids.shape[1]).minimum(rest.left)
            ids = rest.reveal(ids, words, scores, then)
            memory = memory if reuses else None
            split = rest.split(None if reuses else ids)
            evaluations = contexts.branches * (number + 1) * len(given)
            yield Decoded(ids, evaluations, 0, decision, places, chances), Looked(features, actions, decision)

    def _masked(self, decision: Decision, length: int) -> Tensor:
        """How many tokens of each sample `(B,)` stay masked, on the host."""
        return (length * decision.masked).floor().long().clamp(max=length - 1).cpu()
