"""Small generators with random weights, so that nothing is the identity: one of each mode, and one in a file."""

import torch

from mmmask.modalities import Modality
from mmmask.pretrained.model_files import Model, build, write
from mmmask.synthesis import ImageGenerator
from mmmask.transformer import ENAT, AutoNAT, FourM

MODES = ["joint", "read", "cross"]
WORDS, CLASSES = 11, torch.tensor([0, 1, 2, 3])


def small_generator(mode, length, **settings):
    """For images of so many tokens out of WORDS, of four classes."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2, **settings}
    if mode == "joint":
        backbone = AutoNAT(WORDS, length, 4, depth=3, dropout=0.0, **sizes)
    elif mode == "read":
        backbone = ENAT(WORDS, length, 4, encoder_depth=2, decoder_depth=2, dropout=0.0, **sizes)
    else:
        modalities = [Modality("image", length, WORDS), Modality("class", 1, 4, kind="set")]
        backbone = FourM(modalities, encoder_depth=2, decoder_depth=2, **sizes)
    model = ImageGenerator(backbone)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tokenizer_of(image_size, patch, words=24):
    """How a small tokenizer is made."""
    quantizer = {"class_path": "mmmask.tokenizers.CosineQuantizer", "init_args": {"vocab_size": words, "dim": 4}}
    sizes = {"image_size": image_size, "patch": patch, "dim": 16, "width": 4}
    return {"class_path": "mmmask.tokenizers.ViTTokenizer", "init_args": {"quantizer": quantizer, **sizes}}


TOKENIZER = tokenizer_of(image_size=16, patch=4)
BACKBONE = {
    "class_path": "mmmask.transformer.AutoNAT",
    "init_args": {"vocab_size": 24, "tokens": 16, "classes": 3, "dim": 16, "depth": 3, "heads": 2},
}


def write_small_model(path, seed=0, top_k=None):
    """A model of three classes, with its tokenizer, whose pictures of 16 pixels differ from each other."""
    torch.manual_seed(seed)
    specs = {
        "generator": {"class_path": "mmmask.synthesis.ImageGenerator", "init_args": {"backbone": BACKBONE}},
        "tokenizer": TOKENIZER,
        "sampler": {"class_path": "mmmask.synthesis.Sampler", "init_args": {"top_k": top_k}},
    }
    parts = {name: build(spec) for name, spec in specs.items()}
    for name in ("generator", "tokenizer"):
        for parameter in parts[name].parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    parts["tokenizer"](torch.rand(8, 3, 16, 16))  # places the codes
    write(path, Model(parts, specs), "")
    return path
