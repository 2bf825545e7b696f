"""What an any-to-any model finds again, in validations: of all samples the one that belongs to what is given.

Where both sides are aligned it compares their vectors, elsewhere likelihoods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.metrics import Recall
from mmmask.synthesis import AnyToAny, log_likelihoods
from mmmask.tokenizers.ranks import ranks

TOPS = (1, 5)


@dataclass
class Retrieval:
    """Given these modalities of a sample, `find` which of all samples' data of another belongs to it."""

    given: list[str]
    find: str


class RetrievalScores(nn.Module):
    """R@1 and R@5 among the first `count` validation samples, of those that have all that is given and to be found.

    The work is shared out: each rank is given some samples, and looks for what belongs to them among those of all.
    """

    def __init__(self, retrievals: Sequence[Retrieval], count: int, model: AnyToAny) -> None:
        super().__init__()
        for one in retrievals:
            for name in (*one.given, one.find):
                model.catalogue.number(name)  # refuses one it does not have
            found = aligned(model, one) or model.catalogue[one.find].vocab_size is not None
            if one.find in one.given or not one.given or not found:
                raise UserError(
                    f"CrossModal: retrieval of {one.find} given {', '.join(one.given) or 'nothing'}: give other "
                    "modalities than the one to find, which must be one that can be asked (no Patches), or is aligned."
                )
        if count < 2:
            raise UserError(f"CrossModal: retrieval_samples must be 2 or more; it is {count}.")
        self.retrievals, self.count = list(retrievals), count
        self.sources = {model.source(name) for one in retrievals for name in (*one.given, one.find)}
        self.recalls = nn.ModuleList(nn.ModuleList(Recall(top) for top in TOPS) for _ in retrievals)
        self._kept: list[dict[str, Any]] = []  # what samples have of each entry of a batch
        self._seen = 0

    def keep(self, batch: Mapping[str, Any]) -> None:
        """Remember what is needed of a batch; sample n of all belongs to rank n mod world."""
        rank, world = ranks()
        there = batch.get("present", {})
        for row in range(len(batch["key"])):
            if self.retrievals and (self._seen + row) * world + rank < self.count:
                has = [name for name in self.sources if name not in there or there[name][row]]
                self._kept.append({name: _copied(batch[name][row]) for name in has})
        self._seen += len(batch["key"])

    def compute(self, model: AnyToAny) -> dict[str, Tensor]:
        """By name; forgets the samples. All ranks must call it."""
        rank, world = ranks()
        samples = self._of_all_ranks()
        self._kept, self._seen, found = [], 0, {}
        for one, recalls in zip(self.retrievals, self.recalls, strict=True):
            needed = {model.source(name) for name in (*one.given, one.find)}
            whole = [sample for sample in samples if needed <= sample.keys()]
            own = torch.arange(rank, len(whole), world)
            given = {name: _batched([whole[row][model.source(name)] for row in own]) for name in one.given}
            candidates = _batched([sample[model.source(one.find)] for sample in whole])
            scores = _scores(model, one, given, candidates) if len(own) else None
            for top, recall in zip(TOPS, recalls, strict=True):  # type: ignore[call-overload]
                recall.reset()
                if scores is not None:
                    recall.update(scores, own)
                found[f"{'-'.join(one.given)}-to-{one.find}/R@{top}"] = recall.compute()
        return found

    def _of_all_ranks(self) -> list[dict[str, Any]]:
        gathered: list[Any] = [self._kept]
        if ranks()[1] > 1:
            gathered = [None] * ranks()[1]
            dist.all_gather_object(gathered, self._kept)
        return [sample for kept in gathered for sample in kept]


def aligned(model: AnyToAny, one: Retrieval) -> bool:
    """Whether both sides have vectors to be compared."""
    return model.alignment is not None and len(one.given) == 1 and {*one.given, one.find} <= {*model.alignment.names}


@torch.no_grad()
def _scores(model: AnyToAny, one: Retrieval, given: dict[str, Any], candidates: Any) -> Tensor:
    """Of each of C candidates for each of N samples `(N, C)`: closeness of vectors, or likelihood where there are
    none."""
    if not aligned(model, one):
        return log_likelihoods(model, given, one.find, candidates)
    (mine,) = model.vectors(model.known(given)).values()
    (theirs,) = model.vectors(model.known({one.find: candidates})).values()
    return (mine @ theirs.T).cpu()


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value  # not the whole batch that it is a part of


def _batched(values: list[Any]) -> Any:
    return torch.stack(values) if values and isinstance(values[0], Tensor) else values
