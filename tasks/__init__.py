"""LightningModules: what can be trained; and what of `tasks.training` a configuration may name."""

from tasks.category_discovery import CategoryDiscovery
from tasks.classifier_training import ClassifierTraining
from tasks.cross_modal import CrossModal
from tasks.feature_maps import ClassifierMaps, ViTMaps
from tasks.fine_tuning import FineTuning
from tasks.image_synthesis import ImageSynthesis
from tasks.policy_training import PolicyTraining
from tasks.rewards import Adversarial, FrechetReward, Recognised
from tasks.tokenizer_training import TokenizerTraining
from tasks.trained_codecs import TrainedPictures, TrainedVectors
from tasks.training.ema import EMA
from tasks.training.parallel import FullySharded

__all__ = [
    "EMA",
    "Adversarial",
    "CategoryDiscovery",
    "ClassifierMaps",
    "ClassifierTraining",
    "CrossModal",
    "FineTuning",
    "FrechetReward",
    "FullySharded",
    "ImageSynthesis",
    "PolicyTraining",
    "Recognised",
    "TokenizerTraining",
    "TrainedPictures",
    "TrainedVectors",
    "ViTMaps",
]
