"""Small AutoNAT and ENAT models with the weights of the reference, and its tensors."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from mmmask.pretrained.nat import read_autonat, read_enat
from mmmask.synthesis import ImageGenerator, Noise
from mmmask.tokens import BLANK
from mmmask.transformer import ENAT, AutoNAT

FIXTURES = Path(__file__).parent / "fixtures" / "nat"
WORDS = 24  # the size of the codebook of all these sets, and so the published id of the mask


def vectors(name):
    return load_file(FIXTURES / f"{name}.safetensors")


def autonat():
    model = ImageGenerator(AutoNAT(WORDS, 256, 10, dim=32, depth=5, heads=4))
    model.load_state_dict(read_autonat(vectors("autonat_weights")))
    return model.eval()


def enat():
    model = ImageGenerator(ENAT(WORDS, 64, 1000, dim=32, encoder_depth=3, decoder_depth=2, heads=4))
    model.load_state_dict(read_enat(vectors("enat_weights"), encoder_depth=3))
    return model.eval()


def ours(ids):
    """Published ids, with the mask as our blank."""
    return torch.where(ids == WORDS, BLANK, ids)


class RecordedNoise(Noise):
    """The noise the reference was made with; it covers all places at every step."""

    def __init__(self, words, confidences):
        super().__init__(range(words.shape[1]))
        self.words, self.confidences = words, confidences

    def choose(self, logits, step, places):
        noise = self.words[step].gather(1, places[..., None].expand(-1, -1, WORDS))
        return (logits.log_softmax(-1) + noise).argmax(-1)

    def gumbel(self, step, places):
        return self.confidences[step].gather(1, places)
