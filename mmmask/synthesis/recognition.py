"""What a backbone's encoder sees in any modalities of a sample, read off by a head: classes, segments, depth."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.heads import Readout
from mmmask.modalities import Catalogue
from mmmask.synthesis.any_to_any import tokens_of_data
from mmmask.tokenizers.codec import Codec, data_of
from mmmask.tokens import Data, TokenSet, side_by_side
from mmmask.transformer import MaskedTransformer


class Recognition(nn.Module):
    """All tokens of the modalities are known; the head answers. See `predict`.

    Args:
        backbone: with a place for each modality (FourM); its decoder is not used and may have no blocks.
        codecs: of each modality, in the order in which the backbone numbers them.
        head: what is read off.
    """

    def __init__(self, backbone: MaskedTransformer, codecs: Mapping[str, Codec], head: Readout) -> None:
        super().__init__()
        self.backbone, self.codecs, self.head = backbone, nn.ModuleDict(codecs), head
        self.catalogue = catalogue = backbone.embedding.catalogue
        if list(catalogue.modalities) != [codec.modality(name) for name, codec in codecs.items()]:
            raise UserError("Recognition: the backbone was made for other modalities than the codecs are of.")
        self.looks_at = None if head.of is None else catalogue.number(head.of)
        if head.of is not None and catalogue[head.of].kind == "sequence":
            raise UserError(f"{type(head).__name__}: {head.of} is a sequence; look at one that always has all tokens.")

    def tokens(self, batch: Mapping[str, Any]) -> TokenSet:
        """All that the batch holds, on the CPU; what is not `present` is not valid. No longer than the longest."""
        return all_of(self.catalogue, data_of(cast(Mapping[str, Codec], self.codecs), batch))

    def forward(self, tokens: TokenSet) -> Tensor:
        """The head's answers for known tokens."""
        memory = self.backbone.encode(tokens)
        features, valid = memory.features[:, -len(tokens) :], tokens.is_valid()  # registers lie before them
        if self.looks_at is None:
            return self.head(features, valid)
        mine = (tokens.modality == self.looks_at) & tokens.is_valid()
        return self.head(*in_order(features, tokens, mine, self.catalogue.modalities[self.looks_at].length))

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """The head's answers for raw data by modality, or by what a modality is made of, as a batch holds it."""
        device = self.backbone.embedding.words.weight.device
        return self(self.tokens(batch).map(lambda part: part.to(device)))


def all_of(catalogue: Catalogue, data: Mapping[str, Data]) -> TokenSet:
    """All tokens of modalities as one set, sequences no longer than the longest of the batch."""
    cut = dict(data)
    for name, some in data.items():
        if catalogue[name].kind == "sequence":
            cut[name] = some._replace(ids=some.ids[:, : max(1, some.length.max(initial=0))])
    cut, values = side_by_side(cut)
    return reduce(TokenSet.concat, [tokens_of_data(catalogue.number(n), some, values) for n, some in cut.items()])


def in_order(features: Tensor, tokens: TokenSet, mine: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Features `(B, length, dim)` of some of the tokens, each in its place, zero where there is none; and where there
    is `(B, length)`."""
    place = torch.where(mine, tokens.position, length)  # the last one is thrown away
    found = features.new_zeros(len(features), length + 1, features.shape[2])
    there = torch.zeros_like(found[..., 0], dtype=torch.bool)
    found = found.scatter(1, place[..., None].expand_as(features), features)
    return found[:, :length], there.scatter(1, place, mine)[:, :length]
