"""Numbers that say how good images are."""

from mmmask.metrics.extractors import Classifier, Extractor, Inception
from mmmask.metrics.image_scores import ImageScores
from mmmask.metrics.manifold import precision_recall

__all__ = ["Classifier", "Extractor", "ImageScores", "Inception", "precision_recall"]
