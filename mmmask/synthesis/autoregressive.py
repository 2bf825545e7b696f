"""Sequences of an any-to-any model, word by word: what its spans are filled with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.heads import answers
from mmmask.synthesis.generator import Conditions
from mmmask.synthesis.noise import Noise
from mmmask.synthesis.sampling import Sampler, leaning
from mmmask.tokens import TokenSet
from mmmask.transformer import MaskedTransformer, PlacedEmbedding
from mmmask.transformer.caches import Growing


class Autoregressive:
    """Decodes the answer to a sequence whose spans are left out: a sentinel, the words of its span, the next
    sentinel, and so on; the sentinel after the last span ends it.

    Keys and values of memory and words are computed once, and all branches of guidance are one batch.

    Args:
        temperature: how freely words are drawn, 0 for the likeliest.
        guidance: how far to lean towards the conditions: w in `c + w (c - u)`.
        top_k: draw among so many likeliest words only.
        top_p: draw among the likeliest words that have this probability together.
        most: words of an answer (default: twice the length of the modality).
    """

    def __init__(
        self,
        temperature: float = 1.0,
        guidance: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        most: int | None = None,
    ) -> None:
        if temperature < 0:
            raise UserError(f"Autoregressive: temperature is {temperature}; give 0 or more.")
        self.temperature, self.guidance, self.most = temperature, guidance, most
        self.words = Sampler(top_k=top_k, top_p=top_p)

    def with_(self, **settings: float) -> Autoregressive:
        """The same with another temperature or guidance."""
        if wrong := [name for name in settings if name not in ("temperature", "guidance")]:
            raise UserError(f"Autoregressive has no such setting ({', '.join(wrong)}): it decodes word by word.")
        limits = self.words.top_k, self.words.top_p, self.most
        numbers = {"temperature": self.temperature, "guidance": self.guidance} | settings
        return Autoregressive(numbers["temperature"], numbers["guidance"], *limits)

    @torch.no_grad()
    def sample(
        self, backbone: MaskedTransformer, name: str, given: Conditions, spans: Tensor, noise: Noise | Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Answers `(B, n)` for sequences of which so many `spans` `(B,)` are left out, and their lengths `(B,)`."""
        embedding = backbone.embedding
        assert isinstance(embedding, PlacedEmbedding)
        modality, number = embedding.catalogue[name], embedding.catalogue.number(name)
        if modality.kind != "sequence" or modality.sentinels is None:
            raise UserError(f"Autoregressive: {name} is no sequence with sentinels.")
        first, device = modality.sentinels[0], given.device
        noise = noise.to(device) if isinstance(noise, Noise) else Noise(noise, device)
        guided = self.guidance != 0 or given.weights != (1.0,)
        known = TokenSet.below([*given.parts, given.without]) if guided else given.parts[0]
        branches = 1 + len(given.weights) if guided else 1
        memory = backbone.keep(backbone.encode(known))
        caches = [Growing() for _ in backbone.decoder.blocks]
        last = first + spans.to(device)
        words = [torch.full((len(given),), first, device=device)]
        done = torch.zeros(len(given), dtype=torch.bool, device=device)
        length = torch.ones(len(given), dtype=torch.long, device=device)
        for place in range((self.most or 2 * modality.length) - 1):
            fed = words[-1][:, None].repeat(branches, 1)
            asked = TokenSet(torch.full_like(fed, number), torch.full_like(fed, place), fed)
            features = backbone.decode(asked, memory, caches=caches)
            logits = answers.logits(embedding, name, features).float()
            logits = leaning(logits, given.weights, self.guidance) if guided else logits
            drawn, _ = self.words.draw(logits, self.temperature, place, fed[: len(given)] * 0, noise)
            words.append(torch.where(done, 0, drawn[:, 0]))
            length += ~done
            done = done | (words[-1] == last)
            if bool(done.all()):
                break
        return torch.stack(words, 1), length
