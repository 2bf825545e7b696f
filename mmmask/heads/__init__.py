"""What is asked of features: which token it is, what to do next, whether an image is real, what a sample shows."""

from mmmask.heads.dense import DepthHead, SegmentationHead
from mmmask.heads.policy_head import PolicyHead
from mmmask.heads.readout import ClassHead, Readout
from mmmask.heads.realness import ClassVector, Realness
from mmmask.heads.token_logits import TokenLogits

__all__ = [
    "ClassHead",
    "ClassVector",
    "DepthHead",
    "PolicyHead",
    "Readout",
    "Realness",
    "SegmentationHead",
    "TokenLogits",
]
