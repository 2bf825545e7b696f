"""How likely an any-to-any model finds data of one modality, given others: what retrieval compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.heads import answers
from mmmask.synthesis.any_to_any import AnyToAny
from mmmask.synthesis.target import Target
from mmmask.tokens import BLANK, Memory, TokenSet
from mmmask.transformer import AmongTargets

AT_ONCE = 1 << 15  # tokens


@torch.no_grad()
def log_likelihoods(
    model: AnyToAny, given: Mapping[str, Any], target: str, candidates: Any, about: bool = True
) -> Tensor:
    """Log-probabilities `(N, C)` of each of C candidates, raw data of the target, for each of N samples that are given.

    `about`: less what they are when nothing is given, so that what is likely anyway does not win everywhere. Tokens of
    a grid are asked all at once, words of a sequence one after the other.
    """
    data = model.read({model.source(target): candidates}, [target])[target]
    ids, length = torch.from_numpy(data.ids).to(model.device), torch.from_numpy(data.length).to(model.device)
    of = _of_words if model.catalogue[target].kind == "sequence" else _of_grids
    known = model.known(given)
    found = of(model, target, model.conditions(known, _count(known), target).parts[0], ids, length)
    if about:
        found = found - of(model, target, model.conditions({}, 1, target).parts[0], ids, length)
    return found.cpu()


@torch.no_grad()
def log_chances(model: AnyToAny, given: Mapping[str, Any], target: str) -> Tensor:
    """Log-probabilities `(N, L, V)` of each word at each place of a grid that is asked all at once: answers drawn from
    them are independent in their places, and as many as are wanted cost no further pass."""
    modality, given_tokens = model.catalogue[target], model.known(given)
    if modality.kind == "sequence":
        raise UserError(f"log_chances: {target} is a sequence, whose words depend on those before; take a grid.")
    known = model.conditions(given_tokens, _count(given_tokens), target).parts[0]
    parts = _rows(known, AT_ONCE // modality.length)
    return torch.cat([_at_once(model, target, some) for some in parts]).cpu()


def _at_once(model: AnyToAny, name: str, known: TokenSet) -> Tensor:
    target, length = Target(model.backbone, name), model.catalogue[name].length
    blank = torch.full((len(known.modality), length), BLANK, device=model.device)
    place = torch.arange(length, device=model.device).expand(len(blank), -1)
    features = model.backbone.decode(target.tokens(blank).select(place), model.backbone.encode(known))
    return target.words(features).float().log_softmax(-1)


def _of_grids(model: AnyToAny, name: str, known: TokenSet, ids: Tensor, length: Tensor) -> Tensor:
    place = torch.arange(ids.shape[1], device=ids.device)
    meant = place < length[:, None]  # (C, L)
    parts = _rows(known, AT_ONCE // ids.numel())
    return torch.cat([(_at_once(model, name, some)[:, place, ids] * meant).sum(-1) for some in parts])


def _of_words(model: AnyToAny, name: str, known: TokenSet, ids: Tensor, length: Tensor) -> Tensor:
    number = model.catalogue.number(name)
    first, _ = model.catalogue[name].sentinels or (0, 0)
    count, longest = len(ids), int(length.max())
    ids = ids[:, :longest]
    place = torch.arange(longest + 1, device=ids.device).expand(count, -1)
    fed = torch.cat([torch.full_like(ids[:, :1], first), ids], 1)
    wanted = torch.cat([ids, ids[:, :1]], 1).scatter(1, length[:, None], first + 1)  # the next sentinel ends it
    asked = TokenSet(torch.full_like(fed, number), place, fed, None, place <= length[:, None])
    found, rule = [], AmongTargets([number])
    memory = model.backbone.keep(model.backbone.encode(known))
    for row in range(len(known.modality)):
        one = _repeated(memory, row, count)
        features = model.backbone.decode(asked, one, rule=rule)
        chances = answers.logits(model.embedding, name, features).float().log_softmax(-1)
        found.append((chances.gather(2, wanted[..., None])[..., 0] * asked.is_valid()).sum(1))
    return torch.stack(found)


def _count(known: Mapping[str, TokenSet]) -> int:
    """Of samples: one, if nothing is given."""
    return len(next(iter(known.values())).modality) if known else 1


def _rows(known: TokenSet, at_once: int) -> Iterator[TokenSet]:
    """A few samples after the other."""
    for rows in torch.arange(len(known.modality), device=known.modality.device).split(max(1, at_once)):
        yield _some(known, rows)


def _some(known: TokenSet, rows: Tensor) -> TokenSet:
    return known.map(lambda part: part[rows])


def _repeated(memory: Memory, row: int, times: int) -> Memory:
    """What is remembered of one sample, for so many."""

    def own(part: Tensor) -> Tensor:
        return part[row : row + 1].expand(times, *part.shape[1:])

    kept = None if memory.kept is None else [(own(k), own(v)) for k, v in memory.kept]
    return Memory(own(memory.features), memory.tokens.map(own), kept)
