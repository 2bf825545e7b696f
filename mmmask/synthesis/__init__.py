"""Synthesis of images from tokens: the model, schedules as data, the decoding loop."""

from mmmask.synthesis.adaptive import AdaptiveSampler
from mmmask.synthesis.any_to_any import AnyToAny
from mmmask.synthesis.autoregressive import Autoregressive
from mmmask.synthesis.fourm_schedule import FourMSchedule
from mmmask.synthesis.generator import Conditions, Context, ImageGenerator
from mmmask.synthesis.likelihood import log_chances, log_likelihoods
from mmmask.synthesis.noise import Noise
from mmmask.synthesis.orders import Confident, Order, Shuffled, Spread
from mmmask.synthesis.policy import Policy
from mmmask.synthesis.recap import ReCAP
from mmmask.synthesis.recognition import Recognition
from mmmask.synthesis.roar import ROAR
from mmmask.synthesis.sampling import Decoded, Sampler
from mmmask.synthesis.schedules import (
    AutoNATSchedule,
    CosineSchedule,
    ENATSchedule,
    ReCAPSchedule,
    Schedule,
    Step,
)
from mmmask.synthesis.target import Target

__all__ = [
    "ROAR",
    "AdaptiveSampler",
    "AnyToAny",
    "AutoNATSchedule",
    "Autoregressive",
    "Conditions",
    "Confident",
    "Context",
    "CosineSchedule",
    "Decoded",
    "ENATSchedule",
    "FourMSchedule",
    "ImageGenerator",
    "Noise",
    "Order",
    "Policy",
    "ReCAP",
    "ReCAPSchedule",
    "Recognition",
    "Sampler",
    "Schedule",
    "Shuffled",
    "Spread",
    "Step",
    "Target",
    "log_chances",
    "log_likelihoods",
]
