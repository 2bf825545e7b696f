"""Tokenizers: raw data to discrete tokens and back."""

from mmmask.tokenizers.adversary import Adversary
from mmmask.tokenizers.bitmap import Bitmap
from mmmask.tokenizers.boxes import Boxes
from mmmask.tokenizers.choice import Choice
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.contents import ClassMap, Content, Features, Intensity, Normals
from mmmask.tokenizers.diffusion_decoder import DiffusionTokenizer
from mmmask.tokenizers.image_tokenizer import ImageTokenizer, Reconstruction
from mmmask.tokenizers.learning_words import learn_words
from mmmask.tokenizers.metadata import Metadata
from mmmask.tokenizers.palette import Palette
from mmmask.tokenizers.perceptual import Perceptual
from mmmask.tokenizers.pictures import Patches, Pictures
from mmmask.tokenizers.published_tokens import PublishedTokens
from mmmask.tokenizers.quantizers import (
    CosineQuantizer,
    EuclideanQuantizer,
    FiniteScalarQuantizer,
    Quantized,
    Quantizer,
)
from mmmask.tokenizers.sequence_codec import SequenceCodec
from mmmask.tokenizers.strokes import Strokes
from mmmask.tokenizers.text_encoder import TextEncoder
from mmmask.tokenizers.tokenizer import Tokenizer
from mmmask.tokenizers.vector_tokenizer import VectorTokenizer
from mmmask.tokenizers.vectors import Vectors
from mmmask.tokenizers.vit_vq import ViTTokenizer
from mmmask.tokenizers.vqgan import VQGAN
from mmmask.tokenizers.words import Words

__all__ = [
    "VQGAN",
    "Adversary",
    "Bitmap",
    "Boxes",
    "Choice",
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
    "Metadata",
    "Normals",
    "Palette",
    "Patches",
    "Perceptual",
    "Pictures",
    "PublishedTokens",
    "Quantized",
    "Quantizer",
    "Reconstruction",
    "SequenceCodec",
    "Strokes",
    "TextEncoder",
    "Tokenizer",
    "VectorTokenizer",
    "Vectors",
    "ViTTokenizer",
    "Words",
    "learn_words",
]
