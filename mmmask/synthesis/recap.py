"""ReCAP (Liu et al. 2025): cheap steps between full ones.

A full step chooses the tokens of a whole group of steps. The further steps of the group pass only these tokens through
the model; keys and values of all others, visible or still masked, are those of the full step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.synthesis.generator import Given, ImageGenerator
from mmmask.synthesis.noise import Noise
from mmmask.synthesis.orders import Order
from mmmask.synthesis.sampling import Contexts, Decoded, Rest, Sampler, begin
from mmmask.synthesis.schedules import Schedule, Step
from mmmask.tokens import BLANK, Memory, rows
from mmmask.transformer.caches import Growing, Kept, recalled


class ReCAP(Sampler):
    """Decodes with groups of one full step and some local ones. Needs no training of its own.

    Args:
        schedule: of all steps; of `remask`, that of the last step of a group counts.
        full: so many steps at the beginning are full ones, each alone.
        local: cheap steps after each further full one.
        order: by which the tokens of a group are chosen (default: the likeliest).
        top_k: draw among so many likeliest words only.
        top_p: draw among the likeliest words that have this probability together.
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        full: int = 0,
        local: int = 1,
        order: Order | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> None:
        super().__init__(schedule, order, top_k, top_p, reuse=False)
        if full < 0 or local < 0:
            raise UserError(f"ReCAP: full and local are numbers of steps, 0 or more; given: {full} and {local}.")
        self.full, self.local = full, local

    def settings(self) -> dict[str, object]:
        return {**super().settings(), "full": self.full, "local": self.local}

    def groups(self) -> list[range]:
        """Which steps make a group."""
        single = min(self.full, len(self.schedule))
        starts = [*range(single), *range(single, len(self.schedule), 1 + self.local), len(self.schedule)]
        return [range(a, b) for a, b in pairwise(starts)]

    @torch.no_grad()
    def steps(
        self,
        model: ImageGenerator,
        given: Given,
        noise: Noise | Sequence[int],
        ids: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Iterator[Decoded]:
        """Decode step by step; see `Sampler.steps`. All samples must have as many blanks."""
        ids, noise = begin(model, given, noise, ids, len(self.schedule))
        left = (ids == BLANK).sum(1)
        if left.min() != left.max():
            raise UserError("ReCAP: samples of a batch must have equally many tokens to fill; take them apart.")
        counts = self.schedule.counts(int(left[0]))
        contexts = Contexts(model, given, any(step.guidance for step in self.schedule.steps), guidance)
        evaluations, few, passes = 0, 0, None
        for number, group in enumerate(self.groups()):
            sizes = [a - b for a, b in pairwise(counts[group.start : group.stop + 1])]
            revealing = [step for step, size in zip(group, sizes, strict=True) if size]
            if revealing:
                guided = any(self.schedule.steps[step].guidance for step in revealing)
                needed = contexts if guided or model.reuses else contexts.alone()  # reused memory is of both branches
                memory = passes.heard() if passes is not None and model.reuses else None
                passes = _Group(needed, ids, sum(sizes), memory, again=len(revealing) > 1)
                self._choose(passes, number, revealing, noise)
                evaluations += needed.branches * len(given)
            for step, size in zip(group, sizes, strict=True):
                if size and passes is not None:
                    few += passes.contexts.branches * len(given) * passes.look_again(self.schedule.steps[step])
                    places, chances = self._reveal(passes, step, size, noise)
                    ids = passes.ids
                    yield Decoded(ids, evaluations, few, self.schedule.steps[step], places, chances)
                else:
                    yield Decoded(ids, evaluations, few)

    def _choose(self, passes: _Group, number: int, revealing: list[int], noise: Noise) -> None:
        """The full step: which tokens the steps of a group that reveal some are to reveal, in which order."""
        steps, draw = self.schedule.steps, len(self.schedule) + number  # a draw of its own, at temperature 1
        logits, asked = passes.look(steps[revealing[0]]), passes.split.asked
        _, chances = self.draw(logits, 1.0, draw, asked, noise)
        scores = self.order(chances, asked, passes.length, number, steps[revealing[-1]].remask, noise)
        passes.take(scores.argsort(dim=1, descending=True, stable=True)[:, : passes.size], logits)

    def _reveal(self, passes: _Group, step: int, size: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """Fill in the next of the group; where, and the log-probabilities of the words."""
        places = passes.places[:, passes.done :][:, :size]
        temperature = self.schedule.steps[step].temperature
        words, chances = self.draw(passes.logits[:, :size], temperature, step, places, noise)
        passes.reveal(words)
        return places, chances


class _Group:
    """The passes through the model for the tokens of one group; both branches of guidance, if asked, are one batch."""

    def __init__(
        self, contexts: Contexts, ids: Tensor, size: int, memory: Memory | None = None, again: bool = True
    ) -> None:
        """`memory` is that of the last group, `again` says that there will be passes over the tokens of this one
        alone."""
        self.known, self.unheard = memory, ids[:, :0]
        self.contexts, self.model, self.ids, self.size = contexts, contexts.model, ids, size
        self.length, self.done, self.fresh = ids.shape[1], 0, True
        self.split = Rest(ids).split()
        decoder, encoder = self.model.backbone.decoder, self.model.backbone.encoder
        self.kept: list[Kept] = [Kept() for _ in decoder.blocks if again]
        self.grown: list[Growing] = [Growing() for _ in encoder.blocks if again]

    def look(self, step: Step) -> Tensor:
        """Guided logits `(B, A, V)` of all that is asked, from a full pass."""
        both, split = self.contexts.repeated, self.split.map(self.contexts.repeated)
        tokens, context = self.model.tokens(both(self.ids)), self.contexts.all
        if self.known is not None:
            self.memory: Memory = self.known
        else:
            encoder = None if self.model.reuses else self.grown or None
            self.memory = self.model.remember(tokens, split, context, None, encoder)
        logits = self.model.answer(tokens, split, context, self.memory, self.kept or None)
        return self.contexts.guide(logits, step.guidance)

    def take(self, chosen: Tensor, logits: Tensor) -> None:
        """These columns `(B, n)` of the asked are the group; of all others keys and values are kept."""
        asked = self.split.asked
        self.places, self.logits = asked.gather(1, chosen), rows(logits, chosen)
        if not self.kept:
            return
        columns = chosen
        total, first = asked.shape[1], 0
        if self.model.backbone.mode == "joint":
            columns, total, first = self.places, self.length, len(self.memory.tokens)
        others = torch.ones(len(columns), total, device=columns.device).scatter(1, columns, 0.0)
        others = others.argsort(dim=1, descending=True, stable=True)[:, : total - self.size]
        self.caches = recalled(self.kept, self.contexts.repeated(others + first))
        self.kept.clear()

    def look_again(self, step: Step) -> bool:
        """A pass over the tokens of the group alone, unless the full one was just made."""
        if self.fresh:
            self.fresh = False
            return False
        few = self.model.tokens(self.ids).select(self.places).map(self.contexts.repeated)
        logits = self.model.answer_few(few, self.done, self.contexts.all, self.heard(), self.caches)
        self.logits = self.contexts.guide(logits, step.guidance)
        return True

    def reveal(self, words: Tensor) -> None:
        """The next of the group are these words."""
        now = self.places[:, self.done :][:, : words.shape[1]]
        self.ids = self.ids.scatter(1, now, words)
        self.done += words.shape[1]
        self.unheard = torch.cat([self.unheard, now], 1)

    def heard(self) -> Memory:
        """The memory, with what has been revealed since it was asked for last."""
        if self.unheard.shape[1]:
            new = self.model.tokens(self.ids).select(self.unheard).map(self.contexts.repeated)
            self.memory = self.model.remember_more(new, self.contexts.all, self.memory, self.grown)
            self.unheard = self.unheard[:, :0]
        return self.memory
