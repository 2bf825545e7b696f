"""A trained backbone as the beginning of another: weights by name and shape, words by modality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.pretrained.model_files import Model
from mmmask.transformer import Block, MaskedTransformer, PlacedEmbedding, Stack, TokenEmbedding

# Parts of a model that may hold a backbone.
PARTS = ("any_to_any", "backbone", "generator", "classifier", "recognition", "discoverer")


@dataclass
class Report:
    """What came over: weights that were `loaded`; those that stay as they were made (`fresh`) and those of the source
    that were not used (`unused`), with the reason; and modalities that took over from one of another name (`renamed`).
    """

    loaded: list[str] = field(default_factory=list)
    fresh: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """How much, and why the rest not."""
        lines = [f"loaded {len(self.loaded)} weights, {len(self.fresh)} are fresh, {len(self.unused)} were not used"]
        lines += [f"  {ours} begins as {theirs}, the only one of its kind" for ours, theirs in self.renamed.items()]
        for word, weights in (("fresh", self.fresh), ("unused", self.unused)):
            lines += [f"  {count} {word} of {reason}" for reason, count in _by_part(weights).items()]
        return "\n".join(lines)

    def __str__(self) -> str:
        lines = [self.summary()]
        lines += [f"loaded   {name}" for name in self.loaded]
        lines += [f"fresh    {name}: {reason}" for name, reason in self.fresh.items()]
        lines += [f"unused   {name}: {reason}" for name, reason in self.unused.items()]
        return "\n".join(lines)


def _by_part(weights: Mapping[str, str]) -> Counter[str]:
    """How many weights of each side, or modality, have the same reason."""
    depths = {name: 2 if name.startswith("embedding.") else 1 for name in weights}
    return Counter(f"{'.'.join(name.split('.')[: depths[name]])}: {reason}" for name, reason in weights.items())


def backbone_of(model: Model, source: object) -> MaskedTransformer:
    """The backbone in a model, whatever it was trained for."""
    for name in PARTS:
        part = model.parts.get(name)
        part = part if isinstance(part, MaskedTransformer) else getattr(part, "backbone", None)
        if isinstance(part, MaskedTransformer):
            return part
    raise UserError(f"{source} holds no backbone to begin with, only {', '.join(model.parts)}.")


@torch.no_grad()
def transfer(target: MaskedTransformer, source: MaskedTransformer) -> Report:
    """Begin with the weights of `source` where they fit: blocks of a side if both are made alike, and what belongs to
    a modality if both have it. Refuses if not one block or modality fits."""
    here, there = (getattr(backbone.embedding, "at", None) for backbone in (target, source))
    if None not in (here, there) and here != there:
        raise UserError(f"the model to begin with has places: {there}, this backbone {here}; set places to the same.")
    report = Report(renamed=_namesakes(target, source))
    theirs = _weights(source, {theirs: ours for ours, theirs in report.renamed.items()})
    differences = {side: _difference(getattr(target, side), getattr(source, side)) for side in ("encoder", "decoder")}
    for name, own in _weights(target, {}).items():
        reason = differences.get(name.partition(".")[0]) or _reason(name, own, theirs)
        if reason is None:
            own.copy_(theirs[name])
            report.loaded.append(name)
        else:
            report.fresh[name] = reason
    for name in sorted(theirs.keys() - set(report.loaded)):
        report.unused[name] = report.fresh.get(name) or differences.get(name.partition(".")[0]) or "this one has none"
    if not any(name.startswith(("encoder.", "decoder.", "embedding.")) for name in report.loaded):
        reasons = " ".join(f"Their {side}s: {reason}." for side, reason in differences.items() if reason)
        raise UserError(f"nothing of the model to begin with fits this backbone. {reasons} Set its sizes to the same.")
    return report


def _reason(name: str, own: Tensor, theirs: Mapping[str, Tensor]) -> str | None:
    """Why a weight cannot come from the other; None if it can."""
    if name not in theirs:
        return "the other has none"
    if own.shape != theirs[name].shape:
        return f"{tuple(theirs[name].shape)} there, {tuple(own.shape)} here"
    return None


def _difference(ours: Stack, theirs: Stack) -> str | None:
    """In what the blocks of a side are not made alike; their number does not matter."""
    own, other = (_first(stack) for stack in (ours, theirs))
    if own is None or other is None:
        return None  # then there are no names in common
    if ours.dim != theirs.dim:
        return f"{theirs.dim} wide there, {ours.dim} here"
    if own.attention.heads != other.attention.heads:
        return f"{other.attention.heads} heads there, {own.attention.heads} here"
    if ours.reads != theirs.reads:
        return f"blocks read '{theirs.reads}' there, '{ours.reads}' here"
    for part in fields(ours.style):
        name, value, there = part.name, getattr(ours.style, part.name), getattr(theirs.style, part.name)
        if part.compare and value != there:
            return f"{name} is {there} there, {value} here"
    return None


def _first(stack: Stack) -> Block | None:
    return next((block for block in stack.blocks if isinstance(block, Block)), None)


def _namesakes(target: MaskedTransformer, source: MaskedTransformer) -> dict[str, str]:
    """Modalities without a namesake there, and which one there is the only one of their kind and size."""
    ours, theirs = (model.embedding.catalogue for model in (target, source))
    found = {}
    for modality in ours.modalities:
        like = [m.name for m in theirs.modalities if _alike(m, modality) and m.name not in ours.names]
        if modality.name not in theirs.names and len(like) == 1:
            found[modality.name] = like[0]
    return {a: b for a, b in found.items() if list(found.values()).count(b) == 1}


def _alike(one: Modality, other: Modality) -> bool:
    sizes = [(m.kind, m.length, m.vocab_size, m.channels) for m in (one, other)]
    return sizes[0] == sizes[1]


def _weights(model: MaskedTransformer, names: Mapping[str, str]) -> dict[str, Tensor]:
    """All weights, those of the embedding in parts that belong to one modality each, under new `names` of theirs."""
    embedding = model.embedding
    found: dict[str, Tensor] = {}
    for number, modality in enumerate(embedding.catalogue.modalities):
        parts = _placed(embedding, number) if isinstance(embedding, PlacedEmbedding) else _learned(embedding, number)
        if modality.name in embedding.project:
            parts |= dict(embedding.project.get_submodule(modality.name).named_parameters())
        name = names.get(modality.name, modality.name)
        found |= {f"embedding.{name}.{part}": value for part, value in parts.items() if value.numel()}
    if isinstance(embedding, PlacedEmbedding):
        found["embedding.unknown"] = embedding.unknown
    for name, weight in model.named_parameters():
        if not name.startswith("embedding."):
            found[name] = weight
    return found


def _placed(embedding: PlacedEmbedding, number: int) -> dict[str, Tensor]:
    modality = embedding.catalogue.modalities[number]
    parts = {"words": embedding.table(modality.name), "answers": embedding.answer_table(modality.name)}
    if modality.kind == "vector":
        first = int(embedding.first_place[number])
        mine = slice(first, first + modality.length)
        parts |= {"places": embedding.learned.weight[mine], "places_asked": embedding.learned_asked.weight[mine]}
    return {**parts, "kind": embedding.kinds[number]}


def _learned(embedding: TokenEmbedding, number: int) -> dict[str, Tensor]:
    modality = embedding.catalogue.modalities[number]
    parts = {"norm_weight": embedding.norm_weight[number], "norm_bias": embedding.norm_bias[number]}
    if not modality.vocab_size:
        return parts
    word, first = embedding.starts[number] + modality.vocab_size, int(embedding.first_position[number])
    positions = embedding.positions.weight[first : first + modality.length]
    return {
        "words": embedding.table(modality.name),
        "blank": embedding.words.weight[word],
        "positions": positions,
        **parts,
    }
