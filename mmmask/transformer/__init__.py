"""Attention and blocks: the parts every masked transformer here is made of."""

from mmmask.transformer.attention import Attention
from mmmask.transformer.block import Block

__all__ = ["Attention", "Block"]
