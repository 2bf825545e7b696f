"""Known and new categories among rows of features: clustering, how many there are, which cluster is which class."""

from mmmask.discovery.agglomerative import mean_shift, ward
from mmmask.discovery.class_count import ClassCount, Count, Curve
from mmmask.discovery.kmeans import UNLABELLED, Clusters, KMeans
from mmmask.discovery.matching import Accuracy, adjusted_rand, contingency, match, matched_accuracy

__all__ = [
    "UNLABELLED",
    "Accuracy",
    "ClassCount",
    "Clusters",
    "Count",
    "Curve",
    "KMeans",
    "adjusted_rand",
    "contingency",
    "match",
    "matched_accuracy",
    "mean_shift",
    "ward",
]
