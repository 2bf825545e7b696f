"""Tokenizers: raw data to discrete tokens and back."""

from mmmask.tokenizers.quantizers import CosineQuantizer, FiniteScalarQuantizer, Quantized, Quantizer
from mmmask.tokenizers.vit_vq import Reconstruction, ViTTokenizer

__all__ = [
    "CosineQuantizer",
    "FiniteScalarQuantizer",
    "Quantized",
    "Quantizer",
    "Reconstruction",
    "ViTTokenizer",
]
