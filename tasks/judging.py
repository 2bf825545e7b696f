"""How well the samples of one data set were discovered: all looks together, and each by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mmmask.metrics import DiscoveryScores

SHORT = ("all", "old", "new")  # what is told of single looks


class Judged(nn.Module):
    """Scores of a fused prediction and, if there are several, of single looks, over all ranks."""

    def __init__(self, old: Iterable[int], looks: Sequence[str]) -> None:
        super().__init__()
        old, self.names = list(old), ["", *(f"{name}/" for name in looks)] if len(looks) > 1 else [""]
        self.scores = nn.ModuleList(DiscoveryScores(old) for _ in self.names)

    def update(self, fused: Tensor, logits: Tensor, there: Tensor, labels: Tensor, judged: Tensor) -> None:
        """Of fused logits `(B, K)`, those of looks `(M, B, K)`, which there are `(M, B)`, classes `(B,)`, and which
        samples are judged `(B,)`."""
        predictions = torch.cat([fused[None], logits]).argmax(-1)
        counted = torch.cat([judged[None], judged & there])
        for score, found, mine in zip(self.scores, predictions, counted, strict=False):
            score.update(found[mine], labels[mine])  # type: ignore[operator]

    def results(self) -> dict[str, Tensor]:
        """By name, without those of which there was nothing to judge; the next begin anew. All ranks must ask."""
        results: dict[str, Tensor] = {}
        for name, score in zip(self.names, self.scores, strict=True):
            assert isinstance(score, DiscoveryScores)
            if not score.update_called:
                continue
            found = score.compute()
            score.reset()
            wanted = SHORT if name else found
            results |= {name + part: found[part].float() for part in wanted if not found[part].isnan()}
        return results
