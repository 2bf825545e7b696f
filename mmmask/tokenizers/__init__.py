"""Tokenizers: raw data to discrete tokens and back."""

from mmmask.tokenizers.adversary import Adversary
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.contents import ClassMap, Content, Features, Intensity, Normals
from mmmask.tokenizers.diffusion_decoder import DiffusionTokenizer
from mmmask.tokenizers.image_tokenizer import ImageTokenizer, Reconstruction
from mmmask.tokenizers.perceptual import Perceptual
from mmmask.tokenizers.pictures import Patches, Pictures
from mmmask.tokenizers.quantizers import (
    CosineQuantizer,
    EuclideanQuantizer,
    FiniteScalarQuantizer,
    Quantized,
    Quantizer,
)
from mmmask.tokenizers.text_encoder import TextEncoder
from mmmask.tokenizers.tokenizer import Tokenizer
from mmmask.tokenizers.vector_tokenizer import VectorTokenizer
from mmmask.tokenizers.vectors import Vectors
from mmmask.tokenizers.vit_vq import ViTTokenizer
from mmmask.tokenizers.vqgan import VQGAN

__all__ = [
    "VQGAN",
    "Adversary",
    "ClassMap",
    "Codec",
    "Content",
    "CosineQuantizer",
    "DiffusionTokenizer",
    "EuclideanQuantizer",
    "Features",
    "FiniteScalarQuantizer",
    "ImageTokenizer",
    "Intensity",
    "Normals",
    "Patches",
    "Perceptual",
    "Pictures",
    "Quantized",
    "Quantizer",
    "Reconstruction",
    "TextEncoder",
    "Tokenizer",
    "VectorTokenizer",
    "Vectors",
    "ViTTokenizer",
]
