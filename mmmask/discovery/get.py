"""GET's second stage (Wang et al. 2025): SimGCD in each modality, tied by cross-modal instance consistency."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from mmmask.discovery.consistency import cico
from mmmask.discovery.looks import Looks
from mmmask.discovery.simgcd import SimGCD
from mmmask.errors import UserError


@dataclass(frozen=True)
class GET:
    """L = sum over modalities of L_SimGCD + lambda L_CICO."""

    simgcd: SimGCD = field(default_factory=SimGCD)
    consistency: float = 1.0  # lambda

    def __call__(self, looks: Looks, labels: Tensor, labelled: Tensor, teacher_temperature: float) -> dict[str, Tensor]:
        """All terms (those of SimGCD as means over modalities), and their weighted sum as `loss`."""
        modalities = len(looks.features)
        if modalities < 2:
            raise UserError("GET ties two or more modalities together, here is one; use SimGCD.")
        terms = self.simgcd(looks, labels, labelled, teacher_temperature)
        terms["consistency"] = cico(looks.features, labels, labelled, looks.seen())
        return terms | {"loss": modalities * terms["loss"] + self.consistency * terms["consistency"]}
