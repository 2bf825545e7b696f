"""One modality of an any-to-any model as a generator: what every sampler can decode, given any others."""

from __future__ import annotations

from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.heads import answers
from mmmask.synthesis.generator import Conditions, Context, Given, ImageGenerator
from mmmask.tokens import TokenSet
from mmmask.transformer.masked_transformer import MaskedTransformer
from mmmask.transformer.placed_embedding import PlacedEmbedding


class Target(ImageGenerator):
    """Answers for a grid of an any-to-any backbone (4M), given `Conditions` of other modalities."""

    def __init__(self, backbone: MaskedTransformer, name: str) -> None:
        nn.Module.__init__(self)
        embedding = backbone.embedding
        if not isinstance(embedding, PlacedEmbedding):
            raise UserError("Target: only an any-to-any backbone (4M) has several modalities to decode.")
        self.modality, self.number = embedding.catalogue[name], embedding.catalogue.number(name)
        if self.modality.vocab_size is None or self.modality.kind == "sequence":
            raise UserError(f"Target: {name} is no grid of tokens with ids.")
        self.backbone, self.source, self.embedding = backbone, "conditions", [embedding]

    @property
    def classes(self) -> int | None:
        return None

    def contexts(self, given: Given, guided: bool) -> Context:
        """One below the other: with each part of the conditions and, if guided, without any."""
        assert isinstance(given, Conditions)
        return Context(TokenSet.below([*given.parts, given.without]) if guided else given.parts[0], None)

    def words(self, features: Tensor) -> Tensor:
        return answers.logits(self.embedding[0], self.modality.name, features)
