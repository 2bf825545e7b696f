"""Heads: they read the answer off the features of the asked tokens."""

from mmmask.heads.token_logits import TokenLogits

__all__ = ["TokenLogits"]
