"""Category discovery: objectives of old and new classes together."""

from mmmask.discovery.consistency import cico
from mmmask.discovery.feature_space import info_nce, supervised_contrast
from mmmask.discovery.output_space import classification, distillation, teacher_temperature, unevenness

__all__ = [
    "cico",
    "classification",
    "distillation",
    "info_nce",
    "supervised_contrast",
    "teacher_temperature",
    "unevenness",
]
