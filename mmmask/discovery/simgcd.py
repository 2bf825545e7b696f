"""SimGCD (Wen et al. 2023): parametric classification of old and new classes together, in each modality by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from mmmask.discovery.feature_space import info_nce, supervised_contrast
from mmmask.discovery.looks import Looks
from mmmask.discovery.output_space import classification, distillation, unevenness
from mmmask.errors import UserError


@dataclass(frozen=True)
class SimGCD:
    """L = (1 - w) [InfoNCE + distillation + eps R] + w [SupCon + CE], where R keeps all classes in use.

    Of several modalities a mean: none of them knows of the others. As published, eps is 2 for CUB, 4 for CIFAR-100
    and 1 elsewhere.
    """

    supervised: float = 0.35  # w
    evenness: float = 2.0  # eps
    contrast_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_weights(self)

    def __call__(self, looks: Looks, labels: Tensor, labelled: Tensor, teacher_temperature: float) -> dict[str, Tensor]:
        """All terms, and their weighted sum as `loss`; `labels` and `labelled` are `(B,)`."""
        vectors, logits, seen = looks.projections, looks.logits, looks.seen()
        terms = {
            "info_nce": info_nce(vectors, self.contrast_temperature, seen),
            "distillation": distillation(logits, logits, looks.other_views(), teacher_temperature, seen, seen),
            "unevenness": unevenness(logits.flatten(1, 2), seen.flatten(1)),
            "supervised_contrast": supervised_contrast(vectors, labels, labelled, present=seen),
            "classification": classification(logits, labels, labelled, seen),
        }
        unsupervised = terms["info_nce"] + terms["distillation"] + self.evenness * terms["unevenness"]
        supervised = terms["supervised_contrast"] + terms["classification"]
        loss = (1 - self.supervised) * unsupervised + self.supervised * supervised
        return {"loss": loss, **terms, "contrast": contrast(terms, self.supervised)}


def contrast(terms: Mapping[str, Tensor], supervised: float) -> Tensor:
    """What of a loss is about features alone: classes need not be there yet."""
    return (1 - supervised) * terms["info_nce"] + supervised * terms["supervised_contrast"]


def check_weights(objective: Any) -> None:
    """Refuse an objective whose numbers make no loss."""
    name, values = type(objective).__name__, {field.name: getattr(objective, field.name) for field in fields(objective)}
    if not 0 <= values["supervised"] <= 1:
        raise UserError(f"{name}: supervised is the share of labels, from 0 to 1; it is {values['supervised']}.")
    if values["contrast_temperature"] <= 0:
        raise UserError(f"{name}: contrast_temperature must be above 0; it is {values['contrast_temperature']}.")
    for field, value in values.items():
        if value < 0:
            raise UserError(f"{name}: {field} weighs a loss and must be 0 or more; it is {value}.")
