"""Numbers that say how good images are, what is found again, and how well classes were discovered."""

from mmmask.metrics.clip_score import ClipScore
from mmmask.metrics.discovery import DiscoveryScores
from mmmask.metrics.extractors import Classifier, EncoderClassifier, Extractor, ImageClassifier, Inception
from mmmask.metrics.image_scores import ImageScores
from mmmask.metrics.manifold import precision_recall
from mmmask.metrics.matching import (
    ClassRow,
    accuracies,
    adjusted_rand,
    agreement,
    class_table,
    match,
    meetings,
    normalized_mutual_information,
)
from mmmask.metrics.retrieval import Recall

__all__ = [
    "ClassRow",
    "Classifier",
    "ClipScore",
    "DiscoveryScores",
    "EncoderClassifier",
    "Extractor",
    "ImageClassifier",
    "ImageScores",
    "Inception",
    "Recall",
    "accuracies",
    "adjusted_rand",
    "agreement",
    "class_table",
    "match",
    "meetings",
    "normalized_mutual_information",
    "precision_recall",
]
