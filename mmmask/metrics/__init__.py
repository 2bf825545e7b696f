"""Numbers that say how good images are, and what is found again."""

from mmmask.metrics.clip_score import ClipScore
from mmmask.metrics.extractors import Classifier, EncoderClassifier, Extractor, ImageClassifier, Inception
from mmmask.metrics.image_scores import ImageScores
from mmmask.metrics.manifold import precision_recall
from mmmask.metrics.retrieval import Recall

__all__ = [
    "Classifier",
    "ClipScore",
    "EncoderClassifier",
    "Extractor",
    "ImageClassifier",
    "ImageScores",
    "Inception",
    "Recall",
    "precision_recall",
]
