"""What is asked of features: which token or class it is, what to do next, what it is close to, whether it is real."""

from mmmask.heads.alignment import Alignment
from mmmask.heads.dense import DepthHead, SegmentationHead
from mmmask.heads.policy_head import PolicyHead
from mmmask.heads.projector import Projector
from mmmask.heads.prototypes import DiscoveryHead, Projected, Prototypes
from mmmask.heads.readout import ClassHead, Readout
from mmmask.heads.realness import ClassVector, Realness
from mmmask.heads.token_logits import TokenLogits

__all__ = [
    "Alignment",
    "ClassHead",
    "ClassVector",
    "DepthHead",
    "DiscoveryHead",
    "PolicyHead",
    "Projected",
    "Projector",
    "Prototypes",
    "Readout",
    "Realness",
    "SegmentationHead",
    "TokenLogits",
]
