"""A small generator of each mode of the backbone, with random weights, so that nothing is the identity."""

import torch

from mmmask.modalities import Modality
from mmmask.synthesis import ImageGenerator
from mmmask.transformer import ENAT, AutoNAT, MaskedTransformer, Stack, TokenEmbedding

MODES = ["joint", "read", "cross"]
WORDS, CLASSES = 11, torch.tensor([0, 1, 2, 3])


def small_generator(mode, length):
    """For images of so many tokens out of WORDS, of four classes."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2}
    if mode == "joint":
        backbone = AutoNAT(WORDS, length, 4, depth=3, dropout=0.0, **sizes)
    elif mode == "read":
        backbone = ENAT(WORDS, length, 4, encoder_depth=2, decoder_depth=2, dropout=0.0, **sizes)
    else:
        embedding = TokenEmbedding([Modality("image", length, WORDS), Modality("class", 1, 4, kind="set")], 16)
        backbone = MaskedTransformer(embedding, Stack(2, **sizes), Stack(2, **sizes, reads="cross"), "cross")
    model = ImageGenerator(backbone)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()
