"""How well classes were discovered, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from mmmask.metrics.matching import (
    ClassRow,
    Meetings,
    accuracies,
    adjusted_rand,
    check_ids,
    class_table,
    meetings,
    normalized_mutual_information,
)


class DiscoveryScores(Metric):
    """Accuracy of all, old and new classes, the same balanced over classes, NMI and ARI.

    Predictions of all ranks are gathered, then clusters are matched with classes once: matched on each rank by
    itself, accuracies would be too high. Give the samples to be judged, usually the unlabelled ones, each once.
    """

    higher_is_better = True
    full_state_update = False
    predictions: list[Tensor]
    labels: list[Tensor]

    def __init__(self, old: Iterable[int]) -> None:
        """`old` are the classes that have labelled samples, by their ids."""
        super().__init__()
        self.old = frozenset(int(label) for label in old)
        self.add_state("predictions", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Predicted clusters `(N,)`, any integers, and true classes `(N,)`."""
        check_ids(predictions, labels)
        self.predictions.append(predictions.detach().long())
        self.labels.append(labels.detach().long())

    def compute(self) -> dict[str, Tensor]:
        """`all`, `old`, `new`, `balanced_all`, `balanced_old`, `balanced_new`, `nmi`, `ari`.

        NaN says that there is nothing to judge: no sample of an old, or of a new, class.
        """
        met = self._meetings()
        scores = accuracies(class_table(met, self.old))
        scores |= {"nmi": normalized_mutual_information(met.counts), "ari": adjusted_rand(met.counts)}
        return {name: torch.tensor(score, device=self.device) for name, score in scores.items()}

    def meetings(self) -> Meetings:
        """How often clusters and classes meet, over all ranks: all of them must ask for it."""
        with self.sync_context():
            return self._meetings()

    def table(self) -> list[ClassRow]:
        """One row per class, over all ranks: all of them must ask for it."""
        return class_table(self.meetings(), self.old)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """A rank without samples has something to gather too: others would wait for it."""
        for state in (self.predictions, self.labels):
            if not len(state):
                state.append(torch.empty(0, dtype=torch.long, device=self.device))
        super().sync(*args, **kwargs)

    def _meetings(self) -> Meetings:
        return meetings(dim_zero_cat(self.predictions), dim_zero_cat(self.labels))
