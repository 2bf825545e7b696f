"""Consistency of modalities, against loops over the formula."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mmmask.discovery import cico

LABELS = torch.tensor([3, 1, 3, 7, 1, 3])
LABELLED = torch.tensor([True, True, True, True, False, False])


def features(modalities=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(modalities, 2, 6, 8, generator=generator, requires_grad=True)


def looped(z, present):
    """Sum over ordered pairs of modalities of the mean of -s_n log s_m, over classes that both have labelled."""
    total = 0.0
    for m in range(len(z)):
        for n in range(len(z)):
            if m == n:
                continue
            rows = [[b for b in range(6) if LABELLED[b] and present[k, b]] for k in (m, n)]
            classes = sorted({LABELS[b].item() for b in rows[0]} & {LABELS[b].item() for b in rows[1]})
            places = []
            for k, own in zip((m, n), rows, strict=True):
                anchors = [z[k, :, [b for b in own if LABELS[b] == c]].flatten(0, 1).mean(0) for c in classes]
                near = torch.stack([cosine_similarity(z[k], anchor.expand(2, 6, 8), dim=-1) for anchor in anchors], -1)
                places.append((near / 0.4).log_softmax(-1))
            losses = -(places[1].exp() * places[0]).sum(-1)
            total += losses[:, present[m] & present[n]].mean().item()
    return total


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("absent", [[], [(0, 2)], [(0, 3), (1, 0), (1, 5)]])
def test_each_modality_learns_the_place_of_a_sample_from_the_others(modalities, absent):
    z, present = features(modalities), torch.ones(modalities, 6, dtype=torch.bool)
    for modality, sample in absent:
        present[modality, sample] = False
    found = cico(z, LABELS, LABELLED, present[:, None])
    assert found.item() == pytest.approx(looped(z.detach(), present), rel=1e-5)


def test_what_stands_where_a_modality_is_absent_does_not_matter():
    z, present = features(), torch.ones(2, 1, 6, dtype=torch.bool)
    present[0, 0, 2] = False
    rubbish = torch.where(present[..., None], z.detach(), math.nan).requires_grad_()
    loss = cico(rubbish, LABELS, LABELLED, present)
    loss.backward()
    assert torch.equal(loss, cico(z, LABELS, LABELLED, present))
    assert rubbish.grad.isfinite().all()


@pytest.mark.parametrize("present", [None, torch.tensor([True, False])[:, None, None]])
def test_without_a_class_or_without_a_second_modality_it_is_exactly_zero_with_a_gradient(present):
    z = features()
    labelled = torch.zeros(6, dtype=torch.bool) if present is None else LABELLED
    loss = cico(z, LABELS, labelled, present)
    loss.backward()
    assert loss == 0
    assert torch.equal(z.grad, torch.zeros_like(z))
