"""A small any-to-any model with random weights: pictures in, words and names out, or the reverse."""

import json

import torch

from mmmask.synthesis import AnyToAny
from mmmask.tokenizers import Bitmap, Choice, Patches, Words, learn_words
from mmmask.transformer import FourM

TEXTS = ["a red circle", "a blue square left of it", "two green rings"]
NAMES = ["circle", "square", "ring"]
WORDS = json.loads(learn_words(TEXTS, 100, sentinels=8).to_str())


def codecs():
    return {
        "pixels": Patches(8, 1, 4, source="image"),
        "ink": Bitmap(8, 2, "ink", source="image"),
        "caption": Words(WORDS, 8),
        "kind": Choice(NAMES),
    }


def pictures(count=3, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def small_any_to_any(std=0.3, **settings):
    torch.manual_seed(0)
    made = codecs()
    backbone = FourM([codec.modality(name) for name, codec in made.items()], 16, 2, 2, 2)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return AnyToAny(backbone, made, **settings).eval()
