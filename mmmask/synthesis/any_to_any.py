"""An any-to-any backbone with the codecs of its modalities (4M): raw data of any in, raw data of any others out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmmask.errors import UserError, nearest
from mmmask.heads.alignment import Alignment
from mmmask.modalities import Modality
from mmmask.synthesis.autoregressive import Autoregressive
from mmmask.synthesis.fourm_schedule import FourMSchedule
from mmmask.synthesis.generator import Conditions
from mmmask.synthesis.sampling import Sampler
from mmmask.synthesis.target import Target
from mmmask.tokenizers.codec import Codec, data_of
from mmmask.tokenizers.sequence_codec import SequenceCodec
from mmmask.tokens import BLANK, Data, TokenSet, side_by_side
from mmmask.transformer import MaskedTransformer, PlacedEmbedding

STEPS, TOP_P = 12, 0.9  # of decoding a grid; of drawing a word
Decoder = Sampler | Autoregressive


class AnyToAny(nn.Module):
    """What a backbone knows of modalities, asked in raw data: see `predict`.

    Args:
        backbone: of mode cross, with a place for each modality (FourM).
        codecs: of each modality, in the order in which the backbone numbers them.
        decoders: how to decode what is not to be decoded as `decoder_for` says, by modality.
        alignment: of modalities that have vectors to be compared.
    """

    def __init__(
        self,
        backbone: MaskedTransformer,
        codecs: Mapping[str, Codec],
        decoders: Mapping[str, Decoder] | None = None,
        alignment: Alignment | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.codecs, self.alignment = backbone, nn.ModuleDict(codecs), alignment
        self.catalogue = backbone.embedding.catalogue
        made = [codec.modality(name) for name, codec in codecs.items()]
        if list(self.catalogue.modalities) != made:
            raise UserError(
                "AnyToAny: the backbone was made for other modalities than the codecs are of: "
                f"{_difference(self.catalogue.modalities, made)}."
            )
        self.decoders = {modality.name: decoder_for(modality) for modality in made} | dict(decoders or {})
        for name in (*self.decoders, *(alignment.names if alignment else ())):
            self.catalogue.number(name)  # refuses one it does not have

    def codec(self, name: str) -> Codec:
        """That of a modality."""
        return cast(Codec, self.codecs[name])

    def source(self, name: str) -> str:
        """Which entry of a batch holds the data of a modality."""
        return self.codec(name).entry(name)

    @property
    def embedding(self) -> PlacedEmbedding:
        return cast(PlacedEmbedding, self.backbone.embedding)

    @property
    def device(self) -> torch.device:
        return self.backbone.embedding.words.weight.device

    def read(self, batch: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, Data]:
        """Tokens of what a batch holds of these modalities (default: all). What is not `present` has length 0."""
        return data_of(cast(Mapping[str, Codec], self.codecs), batch, names)

    @torch.no_grad()
    def predict(
        self,
        given: Mapping[str, Any],
        targets: Sequence[str],
        seeds: Sequence[int] | None = None,
        weights: Mapping[str, float] | None = None,
        visible: Mapping[str, Tensor] | None = None,
        grow: bool = True,
    ) -> dict[str, Any]:
        """Raw data of the `targets`, decoded one after the other, for raw data that is `given`.

        `seeds`: one for each sample, on which alone, beside what is given, its answers depend. `weights` say how
        strongly each modality pulls (below 0: push away), a target from when it is decoded; the others are known, and
        pull nowhere. Without weights all pull together; if they do not `grow`, decoded ones pull nowhere. `visible`
        says which tokens `(B, L)` of a given grid are known (default: all), or which samples have a given sequence at
        all; given as a target too, the rest is filled in, and so are the gaps that data of a sequence can have.
        """
        found = self.answers(given, targets, seeds, weights, visible, grow)
        return {name: self.codec(name).decode(ids.cpu(), length.cpu()) for name, (ids, length) in found.items()}

    @torch.no_grad()
    def answers(
        self,
        given: Mapping[str, Any],
        targets: Sequence[str],
        seeds: Sequence[int] | None = None,
        weights: Mapping[str, float] | None = None,
        visible: Mapping[str, Tensor] | None = None,
        grow: bool = True,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """What `predict` decodes: ids `(B, L)` of the targets, and how many of them are meant `(B,)`."""
        for name in targets:
            self.catalogue.number(name)  # refuses one it does not have
        known = self.known(given, visible)
        count = len(next(iter(known.values())).modality) if known else len(seeds or [0])
        seeds = list(range(count)) if seeds is None else list(seeds)
        if len(seeds) != count:
            raise UserError(f"{len(seeds)} seeds for {count} samples; give one for each.")
        heard = {other for at, name in enumerate(targets) for other in (*given, *targets[:at]) if other != name}
        for name in weights or ():
            if name not in heard:
                raise UserError(
                    f"{name} has a weight, and is neither given nor decoded before another target."
                    f"{nearest(name, heard)}"
                )
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name in targets:
            own = known.pop(name, None)
            conditions = self.conditions(known, count, name, own, weights, () if grow else found)
            ids, length = self._decoded(name, conditions, own, seeds)
            found[name] = ids, length
            known[name] = self._all_of(name, ids, length)
        return found

    def known(self, given: Mapping[str, Any], visible: Mapping[str, Tensor] | None = None) -> dict[str, TokenSet]:
        """The tokens of raw data by modality."""
        visible = visible or {}
        for name in (*given, *visible):
            self.catalogue.number(name)
        data = self.read({self.source(name): raw for name, raw in given.items()}, list(given))
        counts = {name: len(some.ids) for name, some in data.items()}
        if len(set(counts.values())) > 1:
            raise UserError(
                "what is given has different numbers of samples: "
                + ", ".join(f"{name} {count}" for name, count in counts.items())
            )
        found = self.tokens(data)
        for name, part in visible.items():
            tokens, shown = found[name], part.flatten(1).to(self.device)
            if shown.shape != tokens.modality.shape:
                raise UserError(
                    f"visible has the shape {tuple(shown.shape)} for {name}, whose tokens have the shape "
                    f"{tuple(tokens.modality.shape)}."
                )
            found[name] = replace(tokens, valid=tokens.is_valid() & shown)
            hidden = tokens.is_valid() & ~shown
            if self.catalogue[name].kind == "sequence" and bool((found[name].is_valid().any(1) & hidden.any(1)).any()):
                raise UserError(
                    f"visible: {name} is a sequence, of which a sample has all or nothing; mark gaps in what is given: "
                    "___ in a text, None among strokes, rows of class -2 among boxes."
                )
        return found

    def tokens(self, data: Mapping[str, Data]) -> dict[str, TokenSet]:
        """What was read, as tokens that are all known, by modality."""
        data, values = side_by_side(data)
        values = None if values is None else values.to(self.device)
        return {
            name: tokens_of_data(self.catalogue.number(name), some, values).map(lambda part: part.to(self.device))
            for name, some in data.items()
        }

    def vectors(self, known: Mapping[str, TokenSet]) -> dict[str, Tensor]:
        """The vector `(B, width)` of each modality of which tokens are given, where it is aligned with others."""
        if self.alignment is None:
            raise UserError("this model has no vectors to compare: it was trained without alignment.")
        for name in known:
            if name not in self.alignment.names:
                raise UserError(
                    f"{name} was not aligned with other modalities in training, only "
                    f"{', '.join(self.alignment.names)}.{nearest(name, self.alignment.names)}"
                )
        return {name: self.alignment(name, self.backbone.encode(tokens)) for name, tokens in known.items()}

    def conditions(
        self,
        known: Mapping[str, TokenSet],
        count: int,
        target: str,
        own: TokenSet | None = None,
        weights: Mapping[str, float] | None = None,
        still: Collection[str] = (),
    ) -> Conditions:
        """What is known of other modalities than the target, and of its `own` words if it is a sequence. What pulls is
        all but the `still`, together, or each that has one of the `weights`."""
        fixed = [own] if own is not None and self.catalogue[target].kind == "sequence" else []
        pulling = [name for name in known if name not in still]
        if weights is not None:
            pulling = [name for name in weights if name in known]
        fixed += [tokens for name, tokens in known.items() if name not in pulling]
        without, each = _together(fixed, count, self.device), [known[name] for name in pulling]
        if weights is None:
            return Conditions([_together([*fixed, *each], count, self.device)], without)
        parts = [_together([*fixed, tokens], count, self.device) for tokens in each]
        return Conditions(parts or [without], without, tuple(weights[name] for name in pulling) or (1.0,))

    def _decoded(
        self, name: str, conditions: Conditions, own: TokenSet | None, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Ids `(B, L)` of a target, and how many of them are meant."""
        decoder, modality = self.decoders[name], self.catalogue[name]
        if isinstance(decoder, Autoregressive):
            codec = self.codec(name)
            if not isinstance(codec, SequenceCodec):
                raise UserError(f"{name} can be given, not asked: its tokens are no words.")
            words = codec.empty(len(conditions))
            if own is not None and own.ids is not None:
                words = Data(own.ids.cpu().numpy(), own.is_valid().sum(1).cpu().numpy())
            answer = decoder.sample(self.backbone, name, conditions, codec.gaps(words), seeds)
            filled = codec.fill(words, *(part.cpu() for part in answer))
            return torch.from_numpy(filled.ids).to(self.device), torch.from_numpy(filled.length)
        ids = torch.full((len(conditions), modality.length), BLANK, device=self.device)
        if own is not None and own.ids is not None:
            ids = torch.where(own.is_valid(), own.ids, ids)
        ids = decoder.sample(Target(self.backbone, name), conditions, seeds, ids)
        return ids, torch.full((len(ids),), modality.length)

    def _all_of(self, name: str, ids: Tensor, length: Tensor) -> TokenSet:
        position = torch.arange(ids.shape[1], device=self.device).expand(ids.shape)
        number = torch.full_like(position, self.catalogue.number(name))
        return TokenSet(number, position, ids.to(self.device), None, position < length.to(self.device)[:, None])


def decoder_for(modality: Modality) -> Decoder:
    """How a modality is decoded if nothing else is said: words one by one, a grid from few tokens to many, what has
    one token alone by its likeliest word."""
    if modality.kind == "sequence":
        return Autoregressive(temperature=0.7, top_p=TOP_P)
    if modality.length == 1:
        return Sampler(FourMSchedule(1, 1, temperature=0.0), top_p=TOP_P)
    schedule = FourMSchedule(modality.length, min(STEPS, modality.length), "cosine", guidance=1.0)
    return Sampler(schedule, top_p=TOP_P, tempered=True)


def tokens_of_data(number: int, data: Data, values: Tensor | None = None) -> TokenSet:
    """All tokens of one modality."""
    ids = torch.from_numpy(data.ids)
    position = torch.arange(ids.shape[1]).expand(ids.shape)
    valid = position < torch.from_numpy(data.length)[:, None]
    return TokenSet(torch.full_like(ids, number), position, ids, values if data.values is not None else None, valid)


def _together(sets: Sequence[TokenSet], count: int, device: torch.device) -> TokenSet:
    """The tokens of several sets, side by side; of none, one that nobody looks at."""
    filled = [some for some in sets if len(some)]
    if not filled:
        none = torch.zeros(count, 1, dtype=torch.long, device=device)
        return TokenSet(none, none, none, None, none > 0)
    whole = filled[0]
    for some in filled[1:]:
        whole = whole.concat(some)
    return whole


def _difference(have: Sequence[Modality], made: Sequence[Modality]) -> str:
    for ours, theirs in zip(have, made, strict=False):
        if ours != theirs:
            return f"{ours} is not {theirs}"
    return f"{len(have)} are not {len(made)}"
