"""How well the samples of one data set were discovered: all looks together, and each by itself; tables of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor, nn

from mmmask.discovery.ranks import Ranks
from mmmask.discovery.tables import write_table
from mmmask.metrics import DiscoveryScores
from mmmask.metrics.matching import Meetings, class_table
from mmmask.report.confusion import draw_confusion

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

    def meetings(self) -> Meetings | None:
        """How often categories of the fused prediction meet classes, if any of its samples was judged. All ranks must
        ask, before the results."""
        score = self.scores[0]
        assert isinstance(score, DiscoveryScores)
        met = score.meetings() if score.update_called else None
        return met if met is not None and met.counts.size else None

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


def write_classes(folder: Path, name: str, met: Meetings, old: Collection[int]) -> None:
    """`classes.csv`, a row per class with the category that was matched with it, and `confusion.png`; with a name,
    `classes-NAME.csv` and `confusion-NAME.png`."""
    table, name = class_table(met, old), f"-{name}" if name else ""
    head = ("class", "kind", "samples", "found", "category", "category_size")
    kinds = {True: "old", False: "new"}
    rows = [(row.label, kinds[row.old], row.samples, row.found, row.cluster, row.cluster_size) for row in table]
    write_table(folder / f"classes{name}.csv", head, rows)
    draw_confusion(met, table, folder / f"confusion{name}.png")


def write_assigned(path: Path, assigned: Sequence[tuple[str, int, float]], old: Sequence[object]) -> None:
    """A row per sample of all ranks, who all must call it, in the order of the data: key, category, the class that this
    is if it is an old one, confidence."""
    ranks = Ranks()
    parts = ranks.gather(list(assigned))
    if ranks.rank:
        return
    samples = (sample for turn in zip_longest(*parts) for sample in turn if sample is not None)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(key, place, old[place] if place < len(old) else "", f"{odds:.4f}") for key, place, odds in samples]
    write_table(path, ("key", "category", "class", "confidence"), rows)
