"""What is asked of features: which token it is, what to do next, what it is close to, whether an image is real."""

from mmmask.heads.alignment import Alignment
from mmmask.heads.policy_head import PolicyHead
from mmmask.heads.realness import ClassVector, Realness
from mmmask.heads.token_logits import TokenLogits

__all__ = ["Alignment", "ClassVector", "PolicyHead", "Realness", "TokenLogits"]
