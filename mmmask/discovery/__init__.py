"""Category discovery: objectives of old and new classes together, and one prediction from several modalities."""

from mmmask.discovery.consistency import cico
from mmmask.discovery.feature_space import info_nce, supervised_contrast
from mmmask.discovery.fusion import ConfidenceFusion, Fusion, LearnedFusion, MeanFusion, weighted_mean
from mmmask.discovery.get import GET
from mmmask.discovery.looks import Looks
from mmmask.discovery.mm_gcd import MMGCD
from mmmask.discovery.output_space import classification, distillation, teacher_temperature, unevenness
from mmmask.discovery.simgcd import SimGCD

__all__ = [
    "GET",
    "MMGCD",
    "ConfidenceFusion",
    "Fusion",
    "LearnedFusion",
    "Looks",
    "MeanFusion",
    "SimGCD",
    "cico",
    "classification",
    "distillation",
    "info_nce",
    "supervised_contrast",
    "teacher_temperature",
    "unevenness",
    "weighted_mean",
]
