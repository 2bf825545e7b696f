"""Alignment: one vector a modality, close for the same sample."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmmask.errors import UserError
from mmmask.heads import Alignment
from mmmask.tokens import Memory, TokenSet


def memory(features, valid=None):
    place = torch.zeros(features.shape[:2], dtype=torch.long)
    return Memory(features, TokenSet(place, place, place, None, valid))


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.fixture
def alignment():
    torch.manual_seed(0)
    return Alignment(["picture", "words"], 16, 8, temperature=0.5, smoothing=0.1)


def test_the_loss_is_cross_entropy_of_finding_the_other_modality_in_both_directions(alignment):
    a, b, all_there = unit(5, 8), unit(5, 8), torch.ones(5, dtype=torch.bool)
    scores, right = a @ b.T / 0.5, torch.arange(5)
    expected = sum(F.cross_entropy(s, right, label_smoothing=0.1) for s in (scores, scores.T)) / 2
    found = alignment.loss({"picture": a, "words": b}, {"picture": all_there, "words": all_there})
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_sample_that_lacks_a_modality_is_neither_asked_nor_a_candidate(alignment):
    a, b = unit(5, 8), unit(5, 8)
    there = {"picture": torch.ones(5, dtype=torch.bool), "words": torch.tensor([True, True, False, True, False])}
    rest, whole = there["words"].nonzero()[:, 0], torch.ones(3, dtype=torch.bool)
    of_the_rest = alignment.loss({"picture": a[rest], "words": b[rest]}, {"picture": whole, "words": whole})
    assert torch.allclose(alignment.loss({"picture": a, "words": b}, there), of_the_rest, atol=1e-6)


def test_without_any_pair_the_loss_and_its_gradient_are_zero(alignment):
    a = unit(3, 8).requires_grad_()
    nobody = torch.zeros(3, dtype=torch.bool)
    loss = alignment.loss({"picture": a, "words": unit(3, 8)}, {"picture": ~nobody, "words": nobody})
    loss.backward()
    assert loss.item() == 0
    assert (a.grad == 0).all()


def test_tokens_that_are_not_meant_do_not_matter(alignment):
    features, valid = torch.randn(2, 4, 16), torch.tensor([[True, True, True, False]] * 2)
    others = features.clone()
    others[:, 3] = 7.0
    vectors = alignment("words", memory(features, valid))
    assert torch.equal(alignment("words", memory(others, valid)), vectors)
    assert torch.allclose(vectors, alignment("words", memory(features[:, :3])), atol=1e-6)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("beyond", [0.0, 0.5])
def test_a_temperature_beyond_the_sharpest_acts_as_it_and_can_come_back(alignment, beyond):
    a, there = unit(5, 8), torch.ones(5, dtype=torch.bool)
    b, both = F.normalize(-a + 0.1 * unit(5, 8), dim=-1), {"picture": there, "words": there}
    with torch.no_grad():
        alignment.log_scale.fill_(math.log(100) + beyond)
    loss = alignment.loss({"picture": a, "words": b}, both)
    loss.backward()
    sharpest = Alignment(["picture", "words"], 16, 8, temperature=0.01)
    assert loss.item() == pytest.approx(sharpest.loss({"picture": a, "words": b}, both).item(), rel=1e-5)
    assert alignment.log_scale.grad > 0  # what is far apart asks for a softer one


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"temperature": 0.005}, {"smoothing": 1.0}, {"weight": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="temperature is at least 0.01"):
        Alignment(["picture", "words"], 16, **wrong)


def test_one_modality_cannot_be_aligned():
    with pytest.raises(UserError, match="two or more different modalities"):
        Alignment(["picture", "picture"], 16)
