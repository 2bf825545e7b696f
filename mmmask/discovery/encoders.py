"""What sees the samples of a batch: each look at a sample as one vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from mmmask.discovery.towers import Tower
from mmmask.errors import UserError, nearest
from mmmask.heads.readout import MeanPool
from mmmask.modalities import Modality
from mmmask.synthesis.recognition import all_of, in_order
from mmmask.tokenizers.codec import Codec, data_of
from mmmask.tokens import TokenSet
from mmmask.transformer import MaskedTransformer, decodes

Batch = Mapping[str, Any]


class Seen(NamedTuple):
    """Of one look: a vector of each sample `(B, width)`, and which samples have what it looks at `(B,)`."""

    vectors: Tensor
    there: Tensor


@dataclass(frozen=True)
class Raw:
    """What batches hold for a tower, and which of their samples have it (None: all)."""

    parts: list[tuple[Any, Tensor | None]]


class Encoder(nn.Module, ABC):
    """Looks at samples: what `read` finds in batches, `forward` sees. `widths` has the looks by name, and how many
    numbers the vectors of each have."""

    widths: dict[str, int]
    codecs: dict[str, Codec]  # what of the batch becomes tokens first; no children, for they are not trained
    weightless = ("read", "entries", "stacks", "some_stacks", "portable", "train_last")  # methods that need no weights

    @abstractmethod
    def read(self, batches: Sequence[Batch]) -> Any:
        """What looks need of all batches, one below the other, as it is on the CPU."""

    @abstractmethod
    def forward(self, read: Any) -> dict[str, Seen]:
        """What each look sees in what was read."""

    @abstractmethod
    def entries(self) -> list[str]:
        """Which entries of a batch it looks at."""

    @abstractmethod
    def stacks(self) -> Iterable[Sequence[nn.Module]]:
        """Its blocks, from below: one stack, or several that lie beside each other."""

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that it was made of, without what is found on this machine alone."""
        return dict(spec)

    def train_last(self, count: int) -> None:
        """Keep all as it is but the last blocks of each stack."""
        stacks = self.some_stacks()
        self.requires_grad_(False)
        for stack in stacks:
            if not 0 <= count <= len(stack):
                raise UserError(f"{type(self).__name__}: train_blocks is {count}; there are {len(stack)} blocks.")
            for block in list(stack)[len(stack) - count :]:
                block.requires_grad_(True)

    def some_stacks(self) -> list[Sequence[nn.Module]]:
        """The stacks that have blocks; none at all is an error of who wants to train a part of them."""
        if not (found := [stack for stack in self.stacks() if len(stack)]):
            raise UserError(
                f"{type(self).__name__}: no blocks that attend are found here, of which a part could learn; train all "
                "(neither train_blocks nor low_rank)."
            )
        return found


class BackboneEncoder(Encoder):
    """The one backbone looks at all modalities; what of it decodes is not used and stays as it is.

    Args:
        modalities: the codec of each, under the name it has in the model to begin with.
        backbone: made for these modalities (FourM).
        looks: which modalities are looked at together, their tokens as one set, by a name of yours (default: each by
            itself).
        pool: one mean of all tokens; or the tokens of a grid side by side, each in its place, and one mean of those of
            each other modality (places): where in a picture something is then counts.
    """

    def __init__(
        self,
        modalities: dict[str, Codec],
        backbone: Callable[[Sequence[Modality]], MaskedTransformer] | MaskedTransformer,
        looks: dict[str, list[str]] | None = None,
        pool: Literal["mean", "places"] = "mean",
    ) -> None:
        super().__init__()
        if pool not in ("mean", "places"):
            raise UserError(f"BackboneEncoder: pool is '{pool}'; choose mean or places.")
        self.__dict__["codecs"] = modalities
        made = [codec.modality(name) for name, codec in modalities.items()]
        self.backbone = backbone if isinstance(backbone, MaskedTransformer) else backbone(made)
        self.looks = looks or {name: [name] for name in modalities}
        self.mean, self.in_places = MeanPool(), pool == "places"
        for name, own in self.looks.items():
            if not own:
                raise UserError(f"looks: {name} looks at nothing; name the modalities it looks at.")
            for modality in own:
                self.backbone.embedding.catalogue.number(modality)  # refuses one it does not have
        self.widths = {name: self._width(own) for name, own in self.looks.items()}
        for name, weight in self.backbone.named_parameters():
            weight.requires_grad_(not decodes(name))

    def read(self, batches: Sequence[Batch]) -> dict[str, TokenSet]:
        catalogue = self.backbone.embedding.catalogue
        names = [name for name in self.codecs if any(name in own for own in self.looks.values())]
        views = [data_of(self.codecs, batch, names) for batch in batches]
        return {
            look: TokenSet.below([all_of(catalogue, {name: data[name] for name in own}) for data in views])
            for look, own in self.looks.items()
        }

    def forward(self, read: Mapping[str, TokenSet]) -> dict[str, Seen]:
        device, found = self.backbone.embedding.words.weight.device, {}
        for look, own in self.looks.items():
            tokens = read[look].map(lambda part: part.to(device))
            features = self.backbone.encode(tokens).features[:, -len(tokens) :]  # registers lie before them
            found[look] = Seen(self._pooled(own, features, tokens), tokens.is_valid().any(1))
        return found

    def _width(self, own: Sequence[str]) -> int:
        modalities = [self.backbone.embedding.catalogue[name] for name in own]
        parts = sum(m.length if m.kind == "grid" else 1 for m in modalities) if self.in_places else 1
        return parts * self.backbone.encoder.dim

    def _pooled(self, own: Sequence[str], features: Tensor, tokens: TokenSet) -> Tensor:
        """One vector `(B, width)` of the features `(B, N, dim)` of the tokens of these modalities.

        Beside a grid of n places, a mean is taken sqrt(n) times: it is as long as they are together.
        """
        if not self.in_places:
            return self.mean(features, tokens.is_valid())
        catalogue, parts = self.backbone.embedding.catalogue, []
        places = max((catalogue[name].length for name in own if catalogue[name].kind == "grid"), default=1)
        for name in own:
            mine = (tokens.modality == catalogue.number(name)) & tokens.is_valid()
            if catalogue[name].kind == "grid":
                parts.append(in_order(features, tokens, mine, catalogue[name].length)[0].flatten(1))
            else:
                parts.append(self.mean(features, mine) * places**0.5)
        return torch.cat(parts, 1)

    def entries(self) -> list[str]:
        names = {name: None for own in self.looks.values() for name in own}
        return list({self.codecs[name].entry(name): None for name in names})

    def stacks(self) -> list[Sequence[nn.Module]]:
        return [cast(Sequence[nn.Module], self.backbone.encoder.blocks)]

    def train_last(self, count: int) -> None:
        super().train_last(count)
        if self.backbone.handover is not None:  # it comes after them
            self.backbone.handover.requires_grad_(True)


class Towers(Encoder):
    """An encoder of its own for each look, whatever it is (see mmmask.discovery.towers).

    Args:
        looks: the tower of each, by a name of yours.
    """

    def __init__(self, looks: dict[str, Tower]) -> None:
        super().__init__()
        if not looks:
            raise UserError("Towers: there is no look; give a tower for each.")
        self.looks, self.codecs = nn.ModuleDict(looks), {}
        self.widths = {name: tower.width for name, tower in looks.items()}

    def read(self, batches: Sequence[Batch]) -> dict[str, Raw]:
        return {name: Raw([_raw(tower.source or name, batch) for batch in batches]) for name, tower in self._towers()}

    def forward(self, read: Mapping[str, Raw]) -> dict[str, Seen]:
        found = {}
        for name, tower in self._towers():
            parts = read[name].parts
            vectors = torch.cat([tower(raw) for raw, _ in parts])
            there = torch.cat([tower.there(raw) if has is None else tower.there(raw) & has for raw, has in parts])
            there = there.to(vectors.device)
            found[name] = Seen(torch.where(there[:, None], vectors, 0.0), there)
        return found

    def entries(self) -> list[str]:
        return list({tower.source or name: None for name, tower in self._towers()})

    def stacks(self) -> list[Sequence[nn.Module]]:
        return [tower.blocks() for _, tower in self._towers()]

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        given = spec["init_args"]["looks"]
        return {**spec, "init_args": {"looks": {name: tower.portable(given[name]) for name, tower in self._towers()}}}

    def _towers(self) -> list[tuple[str, Tower]]:
        return [(name, cast(Tower, tower)) for name, tower in self.looks.items()]


def _raw(entry: str, batch: Batch) -> tuple[Any, Tensor | None]:
    """What a batch holds, and which of its samples have it; of these, numbers must be numbers."""
    if entry not in batch:
        raise UserError(f"the batch has no '{entry}' to look at.{nearest(entry, batch)}")
    raw, has = batch[entry], batch.get("present", {}).get(entry)
    has = None if has is None else has.cpu()
    if isinstance(raw, Tensor) and raw.is_floating_point():
        wrong = ~raw.flatten(1).isfinite().all(1).cpu()
        if (wrong := wrong if has is None else wrong & has).any():
            key = batch["key"][int(wrong.int().argmax())]
            raise UserError(
                f"sample '{key}': '{entry}' has numbers that are NaN or infinite: compute them again, or leave out the "
                "sample, or this field of it (missing: mask)."
            )
    return raw, has
