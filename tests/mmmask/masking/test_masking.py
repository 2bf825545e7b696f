"""Masks: exact counts, laws with their known means, seeds that repeat."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.masking import Beta, BlockPattern, Cosine, Fixed, RandomPattern, RatioMask, TruncatedNormal, Uniform
from mmmask.tokens import tokens_of


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def whole(batch, length):
    return tokens_of(torch.zeros(batch, length, dtype=torch.long))


@pytest.mark.parametrize(
    ("law", "mean", "std"),
    [
        (Fixed(0.4), 0.4, 0.0),
        (Uniform(0.2, 0.6), 0.4, 0.4 / 12**0.5),
        (Cosine(), 2 / torch.pi, (0.5 - 4 / torch.pi**2) ** 0.5),
        (Beta(12, 3), 0.8, 0.1),
        # By the formula of the truncated normal, with phi and Phi of -0.2 and 1.8.
        (TruncatedNormal(0.55, 0.25, 0.5, 1.0), 0.55 + 0.25 * (0.39104 - 0.07895) / (0.96407 - 0.42074), None),
    ],
)
def test_each_law_has_its_mean_and_spread(law, mean, std):
    drawn = law(200_000, seeded())
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(mean, abs=2e-3)
    if std is not None:
        assert drawn.std().item() == pytest.approx(std, abs=2e-3)


@pytest.mark.parametrize("law", [Uniform(), Cosine(), Beta(), TruncatedNormal()])
def test_laws_and_patterns_repeat_with_the_seed(law):
    assert torch.equal(law(9, seeded(3)), law(9, seeded(3)))
    assert not torch.equal(law(9, seeded(3)), law(9, seeded(4)))


@pytest.mark.parametrize("pattern", [RandomPattern(), BlockPattern()])
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_known_and_asked_part_the_tokens_with_exact_counts(pattern, per):
    sampler = RatioMask(Uniform(), pattern, per)
    split = sampler(whole(40, 64), generator=seeded(1))
    counts = set()
    for b in range(40):
        known, asked = split.known[b], split.asked[b]
        if split.known_valid is not None:
            known, asked = known[split.known_valid[b]], asked[split.asked_valid[b]]
        assert sorted([*known.tolist(), *asked.tolist()]) == list(range(64))
        counts.add(len(asked))
    assert (len(counts) == 1) == (per == "batch")
    expected = (Uniform()(40 if per == "sample" else 1, seeded(1)) * 64).round().clamp(1, 64)
    assert counts == set(expected.int().tolist())


def test_one_token_at_least_is_asked_and_as_many_as_wanted_are_kept():
    assert RatioMask(Fixed(0.0))(whole(2, 16)).asked.shape == (2, 1)
    assert RatioMask(Fixed(1.0))(whole(2, 16)).known.shape == (2, 0)
    assert RatioMask(Fixed(1.0), keep=3)(whole(2, 16)).known.shape == (2, 3)


def test_a_block_is_one_full_rectangle_where_there_is_room():
    order = BlockPattern(stretch=1.0)(200, 256, seeded(2)).argsort(-1)[:, :16]
    sides = []
    for places in order:
        y, x = places // 16, places % 16
        sides.append((int(y.max() - y.min()) + 1) * (int(x.max() - x.min()) + 1))
    assert max(sides) <= 25  # 16 cells within 5 x 5, cut by an edge or not
    random = RandomPattern()(200, 256, seeded(2)).argsort(-1)[:, :16]
    assert ((random // 16).amax(1) - (random // 16).amin(1)).float().mean() > 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Fixed(1.5), "from 0 to 1; given: 1.5"),
        (lambda: Uniform(0.6, 0.2), "given: 0.6 and 0.2"),
        (lambda: Beta(0, 1), "above 0"),
        (lambda: TruncatedNormal(std=0), "above 0"),
        (lambda: BlockPattern(0.5), "1 or more"),
        (lambda: RatioMask(keep=16)(whole(1, 16)), "keep is 16, but there are 16 tokens"),
        (lambda: BlockPattern()(1, 10), "10 tokens make no square grid"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
