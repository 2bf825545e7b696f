"""Synthesis of images from tokens: the model, schedules as data, the decoding loop."""

from mmmask.synthesis.generator import Context, ImageGenerator
from mmmask.synthesis.noise import Noise
from mmmask.synthesis.orders import Confident, Order, Shuffled, Spread
from mmmask.synthesis.recap import ReCAP
from mmmask.synthesis.sampling import Decoded, Sampler
from mmmask.synthesis.schedules import (
    AutoNATSchedule,
    CosineSchedule,
    ENATSchedule,
    ReCAPSchedule,
    Schedule,
    Step,
)

__all__ = [
    "AutoNATSchedule",
    "Confident",
    "Context",
    "CosineSchedule",
    "Decoded",
    "ENATSchedule",
    "ImageGenerator",
    "Noise",
    "Order",
    "ReCAP",
    "ReCAPSchedule",
    "Sampler",
    "Schedule",
    "Shuffled",
    "Spread",
    "Step",
]
