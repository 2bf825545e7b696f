"""A small any-to-any model with random weights: pictures in, words and names out, or the reverse."""

import json
from dataclasses import asdict

import torch
from small_generators import tokenizer_of

from mmmask.modalities import Modality
from mmmask.pretrained.model_files import Model, build, write
from mmmask.synthesis import AnyToAny
from mmmask.tokenizers import Bitmap, Choice, Patches, Words, learn_words
from mmmask.transformer import FourM

TEXTS = ["a red circle", "a blue square left of it", "two green rings"]
NAMES = ["circle", "square", "ring"]
WORDS = json.loads(learn_words(TEXTS, 100, sentinels=8).to_str())


KINDS = {"pixels": Patches, "ink": Bitmap, "caption": Words, "kind": Choice}
SETTINGS = [
    {"image_size": 8, "channels": 1, "patch": 4, "source": "image"},
    {"size": 8, "cell": 2, "of": "ink", "source": "image"},
    {"vocabulary": WORDS, "length": 8},
    {"names": NAMES},
]


def codecs():
    return {name: kind(**settings) for (name, kind), settings in zip(KINDS.items(), SETTINGS, strict=True)}


def pictures(count=3, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def small_any_to_any(std=0.3, made=None, **settings):
    torch.manual_seed(0)
    made = made or codecs()
    backbone = FourM([codec.modality(name) for name, codec in made.items()], 16, 2, 2, 2)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return AnyToAny(backbone, made, **settings).eval()


def write_small_any_to_any(path, **more):
    """A file of such a model, as an export writes it, with `more` settings."""

    def spec(room, kind, settings):
        return {"class_path": f"mmmask.{room}.{kind.__name__}", "init_args": settings}

    made = codecs()
    modalities = [spec("modalities", Modality, asdict(codec.modality(name))) for name, codec in made.items()]
    sizes = {"modalities": modalities, "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
    parts = zip(made, KINDS.values(), SETTINGS, strict=True)
    settings = {
        "backbone": spec("transformer", FourM, sizes),
        "codecs": {name: spec("tokenizers", kind, own) for name, kind, own in parts},
        **more,
    }
    whole = spec("synthesis", AnyToAny, settings)
    write(path, Model({"any_to_any": build(whole)}, {"any_to_any": whole}), "")
    return path


def small_training(folder, shards):
    """The configuration of a training of such a model, beside what it needs: words and a tokenizer."""
    (folder / "words.json").write_text(json.dumps(WORDS))
    tokenizer, spec = folder / "tokenizer", tokenizer_of(image_size=8, patch=2)
    spec["init_args"]["channels"] = 1
    write(tokenizer, Model({"tokenizer": build(spec)}, {"tokenizer": spec}), "")
    readers = {
        "picture": {"class_path": "Image", "init_args": {"field": "jpg", "size": 8, "channels": 1}},
        "caption": {"class_path": "Text"},
        "kind": {"class_path": "Label"},
    }
    modalities = {
        "pixels": {
            "class_path": "Patches",
            "init_args": {"image_size": 8, "channels": 1, "patch": 4, "source": "picture"},
        },
        "tokens": {"class_path": "TrainedPictures", "init_args": {"run": str(tokenizer), "source": "picture"}},
        "ink": {"class_path": "Bitmap", "init_args": {"size": 8, "of": "ink", "source": "picture"}},
        "caption": {"class_path": "Words", "init_args": {"vocabulary": str(folder / "words.json"), "length": 8}},
        "kind": {"class_path": "Choice", "init_args": {"names": NAMES}},
    }
    sizes = {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
    model = {
        "modalities": modalities,
        "backbone": {"class_path": "mmmask.transformer.FourM", "init_args": sizes},
        "masks": {
            "class_path": "mmmask.masking.DirichletMask",
            "init_args": {
                "components": [{"known": 1.0, "asked": {"ink": 1.0, "caption": 0.5, "kind": 1}}],
                "known": [0, 8],
                "asked": [4, 12],
            },
        },
        "examples": [{"given": ["caption"], "wanted": ["ink", "kind"]}],
        "alignment": {
            "class_path": "mmmask.heads.Alignment",
            "init_args": {"modalities": ["pixels", "caption"], "dim": 16, "width": 8},
        },
        "retrieval": [{"given": ["pixels"], "find": "caption"}],
        "warmup_tokens": 200,
    }
    return {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 4,
            "val_check_interval": 2,
            "default_root_dir": str(folder / "runs"),
        },
        "model": {"class_path": "CrossModal", "init_args": model},
        "data": {
            "class_path": "ShardData",
            "init_args": {
                "train": shards,
                "val": shards,
                "batch_size": 4,
                "modalities": readers,
                "missing": "mask",
            },
        },
    }
