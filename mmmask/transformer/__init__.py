"""The backbone, and the parts that every masked transformer here is made of."""

from mmmask.transformer.attention import Attention
from mmmask.transformer.block import Block, Style
from mmmask.transformer.embedding import TokenEmbedding
from mmmask.transformer.families import ENAT, AutoNAT, FourM
from mmmask.transformer.low_rank import add_low_rank, with_products
from mmmask.transformer.masked_transformer import Condition, MaskedTransformer, decodes
from mmmask.transformer.placed_embedding import PlacedEmbedding
from mmmask.transformer.rules import AmongTargets, AttentionRule, Causal, SameModality, Scores
from mmmask.transformer.stack import Stack

__all__ = [
    "ENAT",
    "AmongTargets",
    "Attention",
    "AttentionRule",
    "AutoNAT",
    "Block",
    "Causal",
    "Condition",
    "FourM",
    "MaskedTransformer",
    "PlacedEmbedding",
    "SameModality",
    "Scores",
    "Stack",
    "Style",
    "TokenEmbedding",
    "add_low_rank",
    "decodes",
    "with_products",
]
