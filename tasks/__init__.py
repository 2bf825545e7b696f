"""LightningModules: what can be trained; and what of `tasks.training` a configuration may name."""

from tasks.classifier_training import ClassifierTraining
from tasks.image_synthesis import ImageSynthesis
from tasks.tokenizer_training import TokenizerTraining
from tasks.training.ema import EMA
from tasks.training.parallel import FullySharded

__all__ = ["EMA", "ClassifierTraining", "FullySharded", "ImageSynthesis", "TokenizerTraining"]
