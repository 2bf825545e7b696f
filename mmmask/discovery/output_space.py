"""What looks say of classes: they teach each other, follow labels, and use all classes.

Logits are cosines `(..., B, K)` of B samples with K prototypes; `present` `(..., B)` says which there are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.discovery.numerics import full_precision, mean_over, only_present, presence

STUDENT_TEMPERATURE = 0.1  # SimGCD


def teacher_temperature(epoch: float, warmup: int = 30, first: float = 0.07, last: float = 0.04) -> float:
    """SimGCD's: linear from `first` in epoch 0 to `last` in the last epoch of the warm-up; teachers grow sure late."""
    progress = epoch / (warmup - 1) if warmup > 1 else float(epoch >= warmup)
    return sharpened(progress, first, last)


def sharpened(progress: float, first: float = 0.07, last: float = 0.04) -> float:
    """The same by the share of the warm-up that is over."""
    return first + (last - first) * min(1.0, max(0.0, progress))


@full_precision
def distillation(
    students: Tensor,
    teachers: Tensor,
    pairs: Tensor,
    temperature: float,
    students_present: Tensor | None = None,
    teachers_present: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy of students `(..., S, B, K)` by teachers `(..., T, B, K)`, which are sharper and do not learn.

    `pairs` `(T, S)` says who teaches whom.
    """
    students_present, teachers_present = presence(students, students_present), presence(teachers, teachers_present)
    log_p = (only_present(students, students_present) / STUDENT_TEMPERATURE).log_softmax(-1)
    q = (only_present(teachers.detach().float(), teachers_present) / temperature).softmax(-1)
    losses = -torch.einsum("...tbk,...sbk->...tsb", q, log_p)
    both = teachers_present.unsqueeze(-2) & students_present.unsqueeze(-3)
    return mean_over(losses, pairs[..., None] & both)


@full_precision
def classification(logits: Tensor, labels: Tensor, labelled: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean cross entropy of logits `(..., B, K)` with `labels` `(B,)`, where `labelled` `(B,)`."""
    present = presence(logits, present)
    scaled = only_present(logits, present) / STUDENT_TEMPERATURE
    wanted = torch.where(present & labelled, labels.long(), -100)
    losses = F.cross_entropy(scaled.flatten(0, -2), wanted.flatten(), ignore_index=-100, reduction="none")
    return mean_over(losses, wanted.flatten() != -100)


@full_precision
def unevenness(logits: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean-entropy regulariser: log K - H(mean prediction of rows) of logits `(..., N, K)`; 0 if use is even.

    Of several sets of rows a mean, over those that have any. In logarithms, so that a class no row believes in has a
    finite gradient, where that of p log p is NaN.
    """
    present = presence(logits, present)
    log_p = (only_present(logits, present) / STUDENT_TEMPERATURE).log_softmax(-1)
    rows = present.sum(-1)
    lowest = torch.finfo(log_p.dtype).min
    total = log_p.masked_fill(~present[..., None], lowest).logsumexp(-2)  # (..., K)
    log_mean = total - rows.clamp(min=1).log()[..., None]
    gap = math.log(logits.shape[-1]) + (log_mean.exp() * log_mean).sum(-1)
    return mean_over(gap, rows > 0)
