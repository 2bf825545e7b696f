"""The backbone, and the parts that every masked transformer here is made of."""

from mmmask.transformer.attention import Attention
from mmmask.transformer.block import Block, Style
from mmmask.transformer.embedding import TokenEmbedding
from mmmask.transformer.families import ENAT, AutoNAT
from mmmask.transformer.masked_transformer import Condition, MaskedTransformer
from mmmask.transformer.rules import AttentionRule, Causal, SameModality, Scores
from mmmask.transformer.stack import Stack

__all__ = [
    "ENAT",
    "Attention",
    "AttentionRule",
    "AutoNAT",
    "Block",
    "Causal",
    "Condition",
    "MaskedTransformer",
    "SameModality",
    "Scores",
    "Stack",
    "Style",
    "TokenEmbedding",
]
