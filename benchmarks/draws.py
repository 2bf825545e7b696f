"""Several answers to the same question."""

import torch

from mmmask.synthesis import log_chances


def draws_at_once(model, given, target, number):
    """Answers of which all tokens are drawn at once, from chances that are computed once."""
    chances, generator = log_chances(model, given, target).exp(), torch.Generator().manual_seed(0)
    for _ in range(number):
        ids = torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view(chances.shape[:2])
        yield model.codec(target).decode(ids, torch.full((len(ids),), ids.shape[1]))
