"""Masking: which tokens are known and which are asked."""

from mmmask.masking.dirichlet import Component, DirichletMask, Question
from mmmask.masking.patterns import BlockPattern, Pattern, RandomPattern
from mmmask.masking.ratios import Beta, Cosine, Fixed, Ratio, TruncatedNormal, Uniform
from mmmask.masking.sampler import MaskContext, MaskSampler, RatioMask, split

__all__ = [
    "Beta",
    "BlockPattern",
    "Component",
    "Cosine",
    "DirichletMask",
    "Fixed",
    "MaskContext",
    "MaskSampler",
    "Pattern",
    "Question",
    "RandomPattern",
    "Ratio",
    "RatioMask",
    "TruncatedNormal",
    "Uniform",
    "split",
]
