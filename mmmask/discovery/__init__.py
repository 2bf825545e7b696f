"""Category discovery: objectives of old and new classes together, one prediction from several modalities, clusters
among rows of features and how many there are."""

from mmmask.discovery.agglomerative import mean_shift, ward
from mmmask.discovery.class_count import ClassCount, Count, Curve
from mmmask.discovery.consistency import cico
from mmmask.discovery.encoders import BackboneEncoder, Encoder, Towers
from mmmask.discovery.feature_space import info_nce, supervised_contrast
from mmmask.discovery.folder_towers import PretrainedPictures, PretrainedTexts
from mmmask.discovery.fusion import ConfidenceFusion, Fusion, LearnedFusion, MeanFusion, weighted_mean
from mmmask.discovery.get import GET
from mmmask.discovery.kmeans import UNLABELLED, Clusters, KMeans
from mmmask.discovery.looks import Looks
from mmmask.discovery.mm_gcd import MMGCD
from mmmask.discovery.open_clip_towers import OpenClipPictures, OpenClipTexts
from mmmask.discovery.output_space import classification, distillation, teacher_temperature, unevenness
from mmmask.discovery.simgcd import SimGCD
from mmmask.discovery.towers import Tower, Vectors

__all__ = [
    "GET",
    "MMGCD",
    "UNLABELLED",
    "BackboneEncoder",
    "ClassCount",
    "Clusters",
    "ConfidenceFusion",
    "Count",
    "Curve",
    "Encoder",
    "Fusion",
    "KMeans",
    "LearnedFusion",
    "Looks",
    "MeanFusion",
    "OpenClipPictures",
    "OpenClipTexts",
    "PretrainedPictures",
    "PretrainedTexts",
    "SimGCD",
    "Tower",
    "Towers",
    "Vectors",
    "cico",
    "classification",
    "distillation",
    "info_nce",
    "mean_shift",
    "supervised_contrast",
    "teacher_temperature",
    "unevenness",
    "ward",
    "weighted_mean",
]
