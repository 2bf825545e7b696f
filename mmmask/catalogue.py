"""The modalities and sizes of the published 4M models, under their names there."""

from __future__ import annotations

from mmmask.errors import UserError, nearest
from mmmask.modalities import Modality

PATCH = 16 * 16 * 3
WORDS, SENTINELS = 30_000, (5, 204)  # of the published text tokenizer: [PAD] [UNK] [SOS] [EOS] [S_0], then those used
SIZES = {  # settings of FourM, by the names of the published sizes
    "tiny": {"dim": 384, "encoder_depth": 6, "decoder_depth": 6, "heads": 6},
    "small": {"dim": 512, "encoder_depth": 8, "decoder_depth": 8, "heads": 8},
    "base": {"dim": 768, "encoder_depth": 12, "decoder_depth": 12, "heads": 12},
    "large": {"dim": 1024, "encoder_depth": 24, "decoder_depth": 24, "heads": 16},
    "xlarge": {"dim": 2048, "encoder_depth": 24, "decoder_depth": 24, "heads": 32},
}

METADATA = {  # entries of its records, in the order of their numbers: from, to, steps
    "original_width": (0, 32 * 999, 1000),  # as the published code has it: by 32 pixels, at most 999
    "original_height": (0, 32 * 999, 1000),
    "caption_n_chars": (0, 999, 1000),
    "caption_n_words": (0, 999, 1000),
    "caption_n_sentences": (0, 999, 1000),
    "n_humans": (0, 999, 1000),
    "n_sam_instances": (0, 999, 1000),
    "n_coco_instances": (0, 999, 1000),
    "coco_instance_diversity": (0, 999, 1000),
    "colorfulness": (0, 150, 50),
    "brightness": (0, 255, 50),
    "contrast": (0, 127, 50),
    "saturation": (0, 255, 50),
    "entropy": (0, 10, 50),
    "walkability": (0, 1, 50),
    "objectness": (0, 1, 50),
    "semantic_diversity": (0, 999, 1000),
    "geometric_complexity": (0, 0.75, 50),
    "occlusion_score": (0, 0.25, 50),
    "watermark_score": (0, 0.5, 2),  # below 0.5, or not
    "aesthetic_score": (3.5, 5.5, 3),  # below 4.5, below 5.5, or not
}


def _text(name: str, length: int) -> Modality:
    return Modality(name, length, WORDS, kind="sequence", sentinels=SENTINELS)


FOURM_7 = [
    Modality("rgb@224", 196, channels=PATCH),
    Modality("tok_rgb@224", 196, 16384),
    Modality("tok_depth@224", 196, 8192),
    Modality("tok_normal@224", 196, 8192),
    Modality("tok_semseg@224", 196, 4096),
    Modality("tok_clip@224", 196, 8192),
    _text("caption", 256),
    _text("det", 256),
]
FOURM_21 = [
    *FOURM_7,
    Modality("tok_canny_edge@224", 196, 8192),
    Modality("tok_sam_edge@224", 196, 8192),
    Modality("tok_dinov2@224", 256, 8192),
    Modality("tok_imagebind@224", 256, 8192),
    Modality("tok_dinov2_global", 16, 8192, kind="vector"),
    Modality("tok_imagebind_global", 16, 8192, kind="vector"),
    Modality("t5_caption", 77, channels=4096, kind="sequence"),
    _text("metadata", 40),
    _text("human_poses", 275),
    _text("color_palette", 23),
    _text("sam_instance", 290),
]
SUPER_RESOLUTION = [
    Modality("rgb@448", 784, channels=PATCH),
    *(
        Modality(f"tok_{name}@448", 784, words)
        for name, words in (("rgb", 16384), ("depth", 8192), ("normal", 8192), ("semseg", 4096), ("clip", 8192))
    ),
]
KNOWN = {modality.name: modality for modality in (*FOURM_21, *SUPER_RESOLUTION)}


def known(name: str) -> Modality:
    """A modality of 4M by its name."""
    if name not in KNOWN:
        raise UserError(f"4M has no modality '{name}'.{nearest(name, KNOWN)}")
    return KNOWN[name]
