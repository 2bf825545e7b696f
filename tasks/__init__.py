"""LightningModules: what can be trained."""

from tasks.tokenizer_training import TokenizerTraining

__all__ = ["TokenizerTraining"]
