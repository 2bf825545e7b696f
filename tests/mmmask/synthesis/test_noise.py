"""Random numbers of decoding: independent of the batch, evenly spread, one stream per seed, step and place."""

import numpy as np
import pytest
import torch
from scipy import stats

from mmmask.synthesis.noise import GOLDEN, Noise, _mix, _signed

PLACES = torch.arange(4096)[None]


def test_splitmix64_gives_its_published_numbers():
    """The first numbers of SplitMix64 with seed 1234567, as they stand in the test of several libraries."""
    state = torch.tensor([_signed(1234567 + (i + 1) * GOLDEN) for i in range(2)])
    assert np.array(_mix(state)).astype(np.uint64).tolist() == [6457827717110365317, 3203168211198807973]


def test_numbers_do_not_depend_on_neighbours():
    together = Noise([3, 4, 5]).gumbel(2, PLACES.expand(3, -1))
    assert torch.equal(Noise([4]).gumbel(2, PLACES), together[1:2])
    few = torch.tensor([[7, 900]])
    assert torch.equal(Noise([4]).gumbel(2, few), together[1:2, [7, 900]])


def test_numbers_are_gumbel_noise():
    drawn = Noise(range(20)).gumbel(0, PLACES.expand(20, -1)).flatten().numpy()
    assert stats.kstest(drawn, "gumbel_r").pvalue > 0.01


def test_what_is_decided_of_a_step_has_normal_noise():
    drawn = Noise(range(500)).normal(1, 4)
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 0.01
    assert torch.equal(Noise([7]).normal(1, 4)[0], drawn[7])


@pytest.mark.parametrize("other", [(8, 0, 0), (7, 1, 0), (7, 0, 1), (7, 0, 2), (7, 1, 2)])
def test_seeds_steps_and_uses_are_independent(other):
    def numbers(seed, step, use):
        return Noise([seed])._uniform(step, use, PLACES)[0]

    a, b = numbers(7, 0, 0), numbers(*other)
    assert not set(a.tolist()) & set(b.tolist()) or (a == b).float().mean() < 0.01
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


def test_words_are_drawn_by_their_chances():
    chances = torch.tensor([0.5, 0.0, 0.3, 0.2])
    words = Noise(range(50)).choose(chances.log().expand(50, 4096, 4), 3, PLACES.expand(50, -1))
    share = torch.bincount(words.flatten(), minlength=4) / words.numel()
    assert share[1] == 0
    assert torch.allclose(share, chances, atol=4e-3)
