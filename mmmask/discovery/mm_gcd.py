"""Our reading of MM-GCD (arXiv 2409.11624): modalities aligned in the space of features and in that of outputs.

The paper's equations and code are not public; the idea is the paper's, the form and the constants follow SimGCD.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmmask.discovery.feature_space import info_nce, supervised_contrast
from mmmask.discovery.fusion import weighted_mean
from mmmask.discovery.looks import Looks
from mmmask.discovery.output_space import classification, distillation, unevenness
from mmmask.discovery.simgcd import check_weights, contrast
from mmmask.errors import UserError


@dataclass(frozen=True)
class MMGCD:
    """L = (1 - w) [L_u + L_intra + a L_cross + b L_fusion + eps R] + w [L_s + CE + CE_fused].

    L_u and L_s contrast the looks at a sample or a class in each modality by itself; with `feature_alignment` also all
    of them together, of any modality (a mean over these sets of looks). `output_alignment` adds L_cross (a view in one
    modality teaches the other views in the other modalities), L_fusion (the weighed mean of the modalities teaches the
    other views in all of them) and CE_fused, and counts the fused prediction in R. With neither it is SimGCD.
    Modalities that agree do not keep apart classes that look exactly alike in one of them.
    """

    feature_alignment: bool = True
    output_alignment: bool = True
    supervised: float = 0.35  # w
    cross: float = 1.0  # a
    fusion: float = 1.0  # b
    evenness: float = 2.0  # eps
    contrast_temperature: float = 0.1

    def __post_init__(self) -> None:
        check_weights(self)

    def __call__(self, looks: Looks, labels: Tensor, labelled: Tensor, teacher_temperature: float) -> dict[str, Tensor]:
        """All terms, and their weighted sum as `loss`; `labels` and `labelled` are `(B,)`."""
        if len(looks.features) < 2:
            raise UserError("MMGCD aligns two or more modalities, here is one; use SimGCD.")
        features = self._features(looks, labels, labelled)
        outputs = self._outputs(looks, labels, labelled, teacher_temperature)
        terms = features | outputs
        unsupervised = terms["info_nce"] + terms["distillation"] + self.evenness * terms["unevenness"]
        supervised = terms["supervised_contrast"] + terms["classification"]
        if self.output_alignment:
            unsupervised = unsupervised + self.cross * terms["cross"] + self.fusion * terms["fusion"]
            supervised = supervised + terms["fused_classification"]
        loss = (1 - self.supervised) * unsupervised + self.supervised * supervised
        return {"loss": loss, **terms, "contrast": contrast(terms, self.supervised)}

    def _features(self, looks: Looks, labels: Tensor, labelled: Tensor) -> dict[str, Tensor]:
        vectors, seen = looks.projections, looks.seen()
        terms = self._contrasts(vectors, seen, labels, labelled)
        if not self.feature_alignment:
            return terms
        together = self._contrasts(vectors.flatten(0, 1), seen.flatten(0, 1), labels, labelled)
        modalities = len(vectors)
        return {name: (modalities * mean + together[name]) / (modalities + 1) for name, mean in terms.items()}

    def _contrasts(self, vectors: Tensor, seen: Tensor, labels: Tensor, labelled: Tensor) -> dict[str, Tensor]:
        return {
            "info_nce": info_nce(vectors, self.contrast_temperature, seen),
            "supervised_contrast": supervised_contrast(vectors, labels, labelled, present=seen),
        }

    def _outputs(self, looks: Looks, labels: Tensor, labelled: Tensor, temperature: float) -> dict[str, Tensor]:
        logits, seen, views = looks.logits, looks.seen(), looks.other_views()
        terms = {
            "distillation": distillation(logits, logits, views, temperature, seen, seen),
            "classification": classification(logits, labels, labelled, seen),
        }
        if not self.output_alignment:
            return terms | {"unevenness": unevenness(logits.flatten(1, 2), seen.flatten(1))}
        modalities = len(logits)
        others = ~torch.eye(modalities, dtype=torch.bool, device=logits.device)
        across = torch.kron(others, views)  # (M V, M V): other modality, other view
        fused, some = weighted_mean(logits, seen, looks.weights), seen.any(0)  # (V, B, K), (V, B)
        flat, flat_seen = logits.flatten(0, 1), seen.flatten(0, 1)
        with_fused, with_some = torch.cat([logits, fused[None]]), torch.cat([seen, some[None]])
        return terms | {
            "cross": distillation(flat, flat, across, temperature, flat_seen, flat_seen),
            "fusion": distillation(flat, fused, views.repeat(1, modalities), temperature, flat_seen, some),
            "fused_classification": classification(fused, labels, labelled, some),
            "unevenness": unevenness(with_fused.flatten(1, 2), with_some.flatten(1)),
        }
