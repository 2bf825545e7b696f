"""4M's embedding: what cannot be seen from whole models."""

import torch

from mmmask.modalities import Modality
from mmmask.tokens import TokenSet
from mmmask.transformer import FourM


def test_gradients_are_the_same_bit_for_bit_each_time():
    """Thousands of tokens share the vector of their modality, and threads must not race for whose comes first."""
    torch.manual_seed(0)
    modalities = [Modality("a", 64, 10), Modality("b", 64, 10)]
    embedding = FourM(modalities, 32, 1, 1, 2).embedding
    modality = torch.randint(2, (64, 128))
    tokens = TokenSet(modality, torch.randint(64, (64, 128)), torch.randint(10, (64, 128)))
    pull = torch.randn(64, 128, 32)

    def gradients():
        loss = ((embedding(tokens) + embedding.asked(tokens)) * pull).sum()
        return torch.autograd.grad(loss, [embedding.kinds, embedding.words.weight, embedding.answers.weight])

    first = gradients()
    for _ in range(20):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(gradients(), first, strict=True))
