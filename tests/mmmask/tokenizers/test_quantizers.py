"""Quantizers: vectors to codes, and what training does to the codebook."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from mmmask.errors import UserError
from mmmask.tokenizers import CosineQuantizer, FiniteScalarQuantizer


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def trained_cosine(vectors, steps=20, **settings):
    quantizer = CosineQuantizer(16, 4, **settings)
    for _ in range(steps):
        quantizer(vectors)
    return quantizer.eval()


@pytest.mark.parametrize("quantizer", [CosineQuantizer(16, 4), FiniteScalarQuantizer([4, 3, 2])])
def test_ids_of_codes_are_the_ids_again(quantizer):
    ids = torch.arange(quantizer.vocab_size)
    codes = quantizer.codes(ids)
    if isinstance(quantizer, FiniteScalarQuantizer):  # codes lie behind the bound: find the way back through it
        quantizer.bound = lambda z: z * (quantizer.levels // 2)
    assert quantizer.nearest(codes).equal(ids)


def test_gradients_go_straight_through_the_cosine_codes_to_the_directions():
    quantizer = CosineQuantizer(16, 4).eval()
    z = torch.randn(2, 5, 4, requires_grad=True)
    wanted = torch.randn(2, 5, 4)
    (through,) = torch.autograd.grad((quantizer(z).z_q * wanted).sum(), z)
    (identity,) = torch.autograd.grad((F.normalize(z, dim=-1) * wanted).sum(), z)
    torch.testing.assert_close(through, identity)


def test_gradients_go_straight_through_the_rounding():
    quantizer = FiniteScalarQuantizer([5, 4])
    z = torch.randn(2, 5, 2, requires_grad=True)
    (through,) = torch.autograd.grad(quantizer(z).z_q.sum(), z)
    (identity,) = torch.autograd.grad((quantizer.bound(z) / (quantizer.levels // 2)).sum(), z)
    torch.testing.assert_close(through, identity)


def test_forward_gives_the_code_of_the_closest_direction():
    quantizer = CosineQuantizer(16, 4).eval()
    z = 7 * torch.randn(2, 5, 4)
    z_q, ids, loss = quantizer(z)
    angles = torch.stack([F.cosine_similarity(z, code, dim=-1) for code in quantizer.codebook])
    assert ids.equal(angles.argmax(0))
    torch.testing.assert_close(z_q, quantizer.codes(ids))
    torch.testing.assert_close(loss / quantizer.commitment, (2 - 2 * angles.amax(0)).mean())


def test_codes_settle_on_every_cluster_and_all_are_used():
    centres = F.normalize(torch.randn(4, 4), dim=-1)
    vectors = F.normalize(centres.repeat(128, 1) + 0.1 * torch.randn(512, 4), dim=-1)
    quantizer = trained_cosine(vectors[None], steps=50)
    assert (centres @ quantizer.codebook.T).amax(1).min() > 0.97
    assert quantizer.nearest(vectors).unique().numel() == 16
    explained = (vectors @ quantizer.codebook.T).amax(1).mean()
    assert explained > (vectors @ centres.T).amax(1).mean()


def test_dead_codes_are_revived_at_vectors_of_the_batch():
    vectors = torch.randn(1, 256, 4)
    quantizer = trained_cosine(vectors, dead_below=0.1).train()
    far = torch.tensor([0.0, 0.0, 0.0, 1.0])
    with torch.no_grad():  # all codes but one stand where no vector is any more
        quantizer.codebook[1:], quantizer.sums[1:] = far, far / 16
    vectors = F.normalize(torch.cat([torch.randn(1, 256, 3), torch.full((1, 256, 1), -3.0)], -1), dim=-1)
    used = [quantizer(vectors).ids.unique().numel() for _ in range(60)]
    assert used[0] <= 2
    assert used[-1] >= 15


def test_evaluation_and_nearest_leave_the_codebook_alone():
    quantizer = trained_cosine(torch.randn(1, 64, 4))
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    assert {"codebook", "sums", "share"} == set(before)
    quantizer(torch.randn(1, 64, 4))
    quantizer.train().nearest(torch.randn(1, 64, 4))
    assert all(value.equal(before[name]) for name, value in quantizer.state_dict().items())


def test_fsq_ids_cover_the_product_of_levels_exactly():
    quantizer = FiniteScalarQuantizer([4, 3, 2])
    assert quantizer.vocab_size == 24
    grid = torch.tensor([*itertools.product([-5, -1.3, -0.7, -0.1, 0.5, 5], [-5, 0, 5], [-5, 5])])
    assert quantizer.nearest(grid).unique().equal(torch.arange(24))
    codes = quantizer.codes(torch.arange(24))
    assert codes.unique(dim=0).shape == (24, 3)
    assert codes.amin(0).tolist() == [-1, -1, -1]
    assert codes.amax(0).tolist() == [0.5, 1, 0]


def test_fsq_matches_the_published_formula_by_hand():
    quantizer = FiniteScalarQuantizer([5, 4])
    # z = .6, odd 5: 4 (.999 / 2) tanh(.6) = 1.0730 -> 1, code 1/2, digit 3.
    # z = .6, even 4: 1.4985 tanh(.6 + tan(.5 / 1.4985)) - .5 = .6063 -> 1, code 1/2, digit 3.
    z = torch.tensor([[[0.6, 0.6]]])
    torch.testing.assert_close(quantizer.bound(z), torch.tensor([[[1.0730, 0.6063]]]), atol=1e-4, rtol=0)
    z_q, ids, loss = quantizer(z)
    assert z_q.tolist() == [[[0.5, 0.5]]]
    assert ids.tolist() == [[3 + 5 * 3]]
    assert loss == 0
    # At 0: odd gives 0, digit 2; even 1.4985 tanh(.3466) - .5 = -.0004 -> 0, digit 2.
    assert quantizer.nearest(torch.zeros(1, 1, 2)).tolist() == [[2 + 5 * 2]]
    # Far below: odd -1.998 -> -2, digit 0; even -1.9985 -> -2, digit 0.
    assert quantizer.nearest(torch.full((1, 1, 2), -9.0)).tolist() == [[0]]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CosineQuantizer(1, 4), "vocab_size 1"),
        (lambda: CosineQuantizer(16, 4, decay=1.0), "decay is 1.0"),
        (lambda: CosineQuantizer(16, 4, dead_below=-1), "dead_below is -1"),
        (lambda: FiniteScalarQuantizer([]), "levels are \\[\\]"),
        (lambda: FiniteScalarQuantizer([4, 1]), "levels are \\[4, 1\\]"),
    ],
)
def test_impossible_settings_are_named(make, named):
    with pytest.raises(UserError, match=named):
        make()
