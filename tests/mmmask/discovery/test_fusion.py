"""One prediction from several modalities, whichever there are."""

import math

import pytest
import torch
from torch.testing import assert_close

from mmmask.discovery import ConfidenceFusion, LearnedFusion, MeanFusion, weighted_mean
from mmmask.errors import UserError


def reliable_and_not(samples=200):
    """Cosines of a modality that is nearly always right and of one that is sure of anything; and the labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % 5
    right = 0.6 * torch.nn.functional.one_hot(labels, 5) + 0.2 * torch.randn(samples, 5, generator=generator)
    return torch.stack([right, 0.5 * torch.randn(samples, 5, generator=generator)]), labels


def test_the_mean_is_of_the_modalities_that_a_sample_has():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([[True, True, False], [True, False, True]])
    logits[~present] = math.nan
    fused = MeanFusion()(logits, present)
    assert_close(fused, torch.stack([logits[:, 0].mean(0), logits[0, 1], logits[1, 2]]))
    assert torch.equal(weighted_mean(logits, torch.zeros(2, 3, dtype=torch.bool)), torch.zeros(3, 4))


def test_the_surer_modality_counts_more():
    sure, unsure = torch.tensor([0.9, 0.0, 0.0]), torch.tensor([0.0, 0.1, 0.1])
    logits = torch.stack([sure, unsure])[:, None]
    fused = ConfidenceFusion()(logits)
    assert fused[0, 0] > MeanFusion()(logits)[0, 0]
    flat = torch.zeros(2, 1, 3)
    assert torch.equal(ConfidenceFusion()(flat), flat[0])
    assert_close(ConfidenceFusion()(logits, torch.tensor([[False], [True]])), unsure[None])


def test_a_modality_that_counts_for_nothing_is_believed_where_there_is_no_other():
    flat = torch.full((1, 5), 0.5)
    logits, only_second = torch.stack([torch.eye(5)[:1], flat]), torch.tensor([[False], [True]])
    assert_close(ConfidenceFusion()(logits, only_second), flat)
    learned = LearnedFusion(2)
    with torch.no_grad():
        learned.log_weights.copy_(torch.tensor([0.0, -200.0]))
    assert_close(learned(logits, only_second), flat)


def test_learned_weights_follow_the_reliable_modality():
    logits, labels = reliable_and_not()
    fusion = LearnedFusion(2)
    assert_close(fusion(logits), logits.mean(0))  # before it is fitted, the mean
    with torch.no_grad():  # as evaluation is
        fusion.fit(logits[:, :100], labels[:100])
    weights = fusion.log_weights.softmax(0)
    assert weights[0] > 0.8
    before, after = ((x.argmax(-1) == labels)[100:].float().mean() for x in (logits.mean(0), fusion(logits)))
    assert after > before + 0.1
    only_second = torch.tensor([[False], [True]]).expand(2, 200)
    assert_close(fusion(logits, only_second), logits[1])


def test_absent_modalities_do_not_weigh_in_the_fit():
    logits, labels = reliable_and_not()
    present = torch.ones(2, 200, dtype=torch.bool)
    present[1, ::2] = False
    fusions = [LearnedFusion(2), LearnedFusion(2)]
    fusions[0].fit(logits, labels, present)
    fusions[1].fit(logits.masked_fill(~present[..., None], math.nan), labels, present)
    assert torch.equal(fusions[0].log_weights, fusions[1].log_weights)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: LearnedFusion(1), "nothing to fuse"),
        (lambda: LearnedFusion(2).fit(torch.zeros(2, 0, 5), torch.zeros(0, dtype=torch.long)), "use MeanFusion"),
        (lambda: LearnedFusion(3).fit(torch.zeros(2, 1, 5), torch.zeros(1, dtype=torch.long)), "is for 3 modalities"),
    ],
)
def test_mistakes_are_told(run, words):
    with pytest.raises(UserError, match=words):
        run()
