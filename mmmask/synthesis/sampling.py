"""The decoding loop: from blank tokens to an image, a few tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.synthesis.generator import Conditions, Context, Given, ImageGenerator
from mmmask.synthesis.noise import Noise
from mmmask.synthesis.orders import Confident, Order
from mmmask.synthesis.policy import Decision
from mmmask.synthesis.schedules import CosineSchedule, Schedule, Step
from mmmask.tokens import BLANK, Memory, Split, TokenSet


class Decoded(NamedTuple):
    """Where decoding is after a step: ids `(B, L)`, BLANK where still masked, and how many forward passes it took."""

    ids: Tensor
    evaluations: int  # of samples: 2 for each with guidance, else 1
    few: int = 0  # further passes, of a few tokens alone
    step: Step | Decision | None = None  # how it was done; None: nothing was
    places: Tensor | None = None  # (B, n): for which words were drawn in this step
    chances: Tensor | None = None  # (B, n): their log-probabilities


class Sampler:
    """How to decode.

    Args:
        schedule: how much is masked after each step, and how words are drawn there (default: MaskGIT's cosine).
        order: which of the drawn words are kept (default: the likeliest).
        top_k: draw among so many likeliest words only.
        top_p: draw among the likeliest words that have this probability together.
        reuse: encode each token once, if the model can (ENAT); without it all known tokens are encoded at each step.
        tempered: how likely a word is that was drawn counts at the temperature it was drawn at (4M), not at 1.
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        order: Order | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        reuse: bool = True,
        tempered: bool = False,
    ) -> None:
        if (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
            raise UserError(f"sampling: top_k must be 1 or more, top_p above 0 and at most 1; given: {top_k}, {top_p}.")
        self.schedule, self.order = schedule or CosineSchedule(), order or Confident()
        self.top_k, self.top_p, self.reuse, self.tempered = top_k, top_p, reuse, tempered

    def settings(self) -> dict[str, Any]:
        """All that decides what is drawn, beside model and seeds."""
        return {
            "class": type(self).__name__,
            "steps": [asdict(step) for step in self.schedule.steps],
            "each_reveals": self.schedule.each_reveals,
            "order": type(self.order).__name__,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "reuse": self.reuse,
            "tempered": self.tempered,
        }

    def with_(self, **settings: float) -> Sampler:
        """The same with other settings of its schedule: steps, temperature, guidance."""
        changed = copy(self)
        changed.schedule = self.schedule.with_(**settings)
        return changed

    def sample(
        self, model: ImageGenerator, given: Given, noise: Noise | Sequence[int], ids: Tensor | None = None
    ) -> Tensor:
        """Token ids `(B, L)` for classes `(B,)` or texts; see `steps`."""
        *_, last = self.steps(model, given, noise, ids)
        return last.ids

    @torch.no_grad()
    def steps(
        self,
        model: ImageGenerator,
        given: Given,
        noise: Noise | Sequence[int],
        ids: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Iterator[Decoded]:
        """Decode step by step, for the classes or texts `given`. `noise`: a seed for each sample.

        Of `ids` `(B, L)` only blanks are filled (inpainting). `guidance` `(B,)` multiplies that of the schedule.
        """
        ids, noise = begin(model, given, noise, ids, len(self.schedule))
        contexts = Contexts(model, given, guided=any(step.guidance for step in self.schedule.steps), factor=guidance)
        rest = Rest(ids)
        counts = torch.tensor([self.schedule.counts(n) for n in rest.left.tolist()]).T  # (S + 1, B)
        split, memory, evaluations = rest.split(), None, 0
        reuses = self.reuse and model.reuses
        for number, step in enumerate(self.schedule.steps):
            if torch.equal(counts[number], counts[number + 1]):  # what is drawn here would all be masked again
                yield Decoded(ids, evaluations)
                continue
            tokens = model.tokens(ids)
            logits, memory, branches = contexts.answer(tokens, split, step, memory)
            evaluations += branches * len(given)
            words, chances = self.draw(logits, step.temperature, number, split.asked, noise)
            scores = self.order(chances, split.asked, ids.shape[1], number, step.remask, noise)
            places = split.asked
            ids = rest.reveal(ids, words, scores, counts[number + 1])
            memory = memory if reuses else None
            split = rest.split(None if reuses else ids)
            yield Decoded(ids, evaluations, 0, step, places, chances)

    def draw(
        self, logits: Tensor, temperature: float | Tensor, step: int, places: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Words `(B, n)` for these places, and their log-probabilities, at temperature 1 if not `tempered`.

        As in 4M, which words are likely is decided before the temperature: a hot draw is still one among the likely.
        """
        if not isinstance(temperature, Tensor) and temperature == 0:
            words = logits.argmax(-1)
        else:
            logits, plain = self._likely(logits) / temperature, logits
            words = noise.choose(logits, step, places)
            logits = logits if self.tempered else plain
        return words, logits.log_softmax(-1).gather(-1, words[..., None])[..., 0]

    def _likely(self, logits: Tensor) -> Tensor:
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[..., -1:], -torch.inf)
        if self.top_p is not None:
            ordered, places = logits.sort(-1, descending=True)
            chances = ordered.softmax(-1)
            beyond = chances.cumsum(-1) - chances >= self.top_p  # the likeliest always stays
            logits = logits.masked_fill(beyond.scatter(-1, places, beyond), -torch.inf)
        return logits


def leaning(logits: Tensor, weights: Sequence[float], guidance: float | Tensor) -> Tensor:
    """Of logits of branches with parts of what is given, and last without: `c + guidance (c - u)`, where c is
    `u + sum of weight (part - u)`."""
    *parts, without = logits.chunk(1 + len(weights))
    away = torch.stack([share * (part - without) for share, part in zip(weights, parts, strict=True)]).sum(0)
    return (parts[0] if tuple(weights) == (1.0,) else without + away) + guidance * away


class Contexts:
    """Contexts with what is given, or parts of it, and without, as one batch; all are asked only where they count."""

    def __init__(self, model: ImageGenerator, given: Given, guided: bool, factor: Tensor | None) -> None:
        self.model, self.n, self.factor = model, len(given), factor
        self.weights = given.weights if isinstance(given, Conditions) else (1.0,)
        self.guided = guided or not self.can_do_without
        self.all = model.contexts(given, self.guided)

    @property
    def branches(self) -> int:
        """With each part of what is given and without, or the first alone."""
        return 1 + len(self.weights) if self.guided else 1

    @property
    def can_do_without(self) -> bool:
        """Whether a step without guidance needs one branch alone."""
        return self.weights == (1.0,)

    def repeated(self, x: Tensor) -> Tensor:
        """For all branches."""
        return torch.cat([x] * self.branches) if self.guided else x

    def guide(self, logits: Tensor, guidance: float | Tensor) -> Tensor:
        """Of the logits of all branches those to draw by, in float32; `guidance` is one number or `(B, 1, 1)`."""
        if not self.guided:
            return logits.float()
        weight = guidance if self.factor is None else guidance * self.factor[:, None, None]
        return leaning(logits.float(), self.weights, weight)

    def answer(
        self, tokens: TokenSet, split: Split, step: Step, memory: Memory | None
    ) -> tuple[Tensor, Memory | None, int]:
        """Guided logits `(B, A, V)`, the memory of all branches, how many branches were asked."""
        fills_memory = self.model.reuses and split.known.shape[1] > 0
        if self.guided and step.guidance == 0 and self.can_do_without and memory is None and not fills_memory:
            return self.model(tokens, split, self.alone().all)[0].float(), None, 1
        logits, memory = self.model(tokens.map(self.repeated), split.map(self.repeated), self.all, memory)
        return self.guide(logits, step.guidance), memory, self.branches

    def alone(self) -> Contexts:
        """The branch with what is given, for steps that need no other."""
        if not self.guided or not self.can_do_without:
            return self
        tokens, condition, _ = self.all
        if tokens is not None:
            tokens = tokens.map(lambda part: part[: self.n])
        if condition is not None:
            condition = type(condition)(*([part[: self.n] for part in side] for side in condition))
        first = copy(self)
        first.all, first.guided = Context(tokens, condition), False
        return first


class Rest:
    """Which places are still blank, and which were filled in the last step; all by gathers of fixed shape.

    How many are blank in each sample, `(B,)`, is kept on the host: it decides on shapes.
    """

    def __init__(self, ids: Tensor) -> None:
        blank = ids == BLANK
        self.left, self.length = blank.sum(1).cpu(), ids.shape[1]
        self.asked = _places(blank, int(self.left.max()))
        self.known, self.known_valid = self._all_known(ids)

    def split(self, ids: Tensor | None = None) -> Split:
        """What is asked, and what is known: since the last step or, of `ids`, altogether."""
        known, known_valid = (self.known, self.known_valid) if ids is None else self._all_known(ids)
        return Split(known, self.asked, known_valid, _up_to(self.left, self.asked))

    def reveal(self, ids: Tensor, words: Tensor, scores: Tensor, then: Tensor) -> Tensor:
        """Fill in the words with the highest scores; those with the lowest, `then` `(B,)`, stay blank."""
        chosen = self.choose(scores, then)
        return self.fill(ids, words.gather(1, chosen))

    def choose(self, scores: Tensor, then: Tensor) -> Tensor:
        """Columns `(B, n)` of the asked with the highest scores, which become the known; those with the lowest,
        `then` `(B,)`, stay asked."""
        now, asked = self.left, self.asked
        valid = _up_to(now, asked)
        rising = (scores if valid is None else scores.masked_fill(~valid, torch.inf)).argsort(1)
        # The places from `then` to `now`; a sample with fewer goes round to others, whose ids it leaves as they are.
        most = torch.arange(int((now - then).max()), device=asked.device)
        slots = most + then.to(asked.device)[:, None]
        chosen = rising.gather(1, slots % asked.shape[1])
        self.known = asked.gather(1, chosen)
        self.known_valid = None if _even(now - then) else slots < now.to(asked.device)[:, None]
        self.left, self.asked = then, asked.gather(1, rising[:, : int(then.max())])
        return chosen

    def fill(self, ids: Tensor, words: Tensor) -> Tensor:
        """The ids `(B, L)` with these words `(B, n)` at the places that were chosen."""
        if self.known_valid is not None:
            words = torch.where(self.known_valid, words, ids.gather(1, self.known))
        return ids.scatter(1, self.known, words)

    def _all_known(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        known = self.length - self.left
        places = _places(ids != BLANK, int(known.max()))
        return places, _up_to(known, places)


def _places(which: Tensor, most: int) -> Tensor:
    """The first so many places `(B, most)`, those that are meant before the others."""
    return which.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :most]


def _up_to(counts: Tensor, like: Tensor) -> Tensor | None:
    """Which of the first so many places `(B, n)` are meant; None: all."""
    if _even(counts):
        return None
    return torch.arange(like.shape[1], device=like.device) < counts.to(like.device)[:, None]


def _even(counts: Tensor) -> bool:
    return bool((counts == counts[0]).all())


def begin(
    model: ImageGenerator, given: Given, noise: Noise | Sequence[int], ids: Tensor | None, steps: int
) -> tuple[Tensor, Noise]:
    """Ids to begin with, all blank if none are given, and their noise; refuses what does not fit together."""
    noise = noise.to(given.device) if isinstance(noise, Noise) else Noise(noise, given.device)
    if ids is None:
        ids = torch.full((len(given), model.modality.length), BLANK, device=given.device)
    _check(model, given, ids, noise.seeds, steps)
    return ids, noise


def _check(model: ImageGenerator, given: Given, ids: Tensor, seeds: Tensor, steps: int) -> None:
    if steps > model.modality.length:
        raise UserError(f"{steps} steps for {model.modality.length} tokens: some would reveal none; take fewer.")
    if len(seeds) != len(ids):
        raise UserError(f"{len(seeds)} seeds for {len(ids)} images; give one for each.")
    if len(given) != len(ids):
        raise UserError(f"{len(given)} classes or texts are given for {len(ids)} images; give one for each.")
    model.tokens(ids)  # refuses a grid of another size
    model.backbone.embedding.check(model.modality.name, ids)
    if model.classes is not None and isinstance(given, Tensor) and not given.is_floating_point():
        wrong = given[(given >= model.classes) | (given < BLANK)]
        if len(wrong):
            raise UserError(f"class {wrong[0].item()} is out of range: the model knows 0 to {model.classes - 1}.")
