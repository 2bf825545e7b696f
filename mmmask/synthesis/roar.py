"""Random-order decoding (4M): a step asks for a few random places alone, and keeps all it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmmask.synthesis.generator import Given, ImageGenerator
from mmmask.synthesis.noise import Noise
from mmmask.synthesis.sampling import Contexts, Decoded, Rest, Sampler, begin
from mmmask.tokens import Split


class ROAR(Sampler):
    """Decodes random places. What is asked at once does not see what else is still blank; `remask` and `order` have
    nothing to say.

    Args:
        schedule: how many stay blank after each step, and how words are drawn there.
        top_k: draw among so many likeliest words only.
        top_p: draw among the likeliest words that have this probability together.
    """

    @torch.no_grad()
    def steps(
        self,
        model: ImageGenerator,
        given: Given,
        noise: Noise | Sequence[int],
        ids: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Iterator[Decoded]:
        """Decode step by step; see `Sampler.steps`."""
        ids, noise = begin(model, given, noise, ids, len(self.schedule))
        contexts = Contexts(model, given, any(step.guidance for step in self.schedule.steps), guidance)
        rest, evaluations = Rest(ids), 0
        counts = torch.tensor([self.schedule.counts(n) for n in rest.left.tolist()]).T  # (S + 1, B)
        for number, step in enumerate(self.schedule.steps):
            if torch.equal(counts[number], counts[number + 1]):
                yield Decoded(ids, evaluations)
                continue
            known = rest.split(ids)
            rest.choose(noise.gumbel(number, rest.asked), counts[number + 1])
            split = Split(known.known, rest.known, known.known_valid, rest.known_valid)
            logits, _, branches = contexts.answer(model.tokens(ids), split, step, None)
            evaluations += branches * len(given)
            words, chances = self.draw(logits, step.temperature, number, rest.known, noise)
            ids = rest.fill(ids, words)
            yield Decoded(ids, evaluations, 0, step, rest.known, chances)
