"""Decoding by a policy: each image by itself, for each mode of the backbone."""

import pytest
import torch
from small_generators import CLASSES, MODES, WORDS, small_generator
from torch.testing import assert_close

from mmmask.errors import UserError
from mmmask.synthesis import AdaptiveSampler, Policy
from mmmask.synthesis.schedules import Schedule, Step
from mmmask.tokens import BLANK, Split

LENGTH, STEPS = 25, 5


class Opinionated(Policy):
    """Thinks something else of each image; 5x5 tokens, an odd grid."""

    def __init__(self):
        super().__init__(16, LENGTH, STEPS, heuristic=True, hidden=8, narrow=2, wide=(8, 8))

    def mean(self, features, step):
        assert torch.equal(super().mean(features, step), torch.zeros(len(features), 4))  # as it begins
        return features[:, :3].mean(1)[:, :4]


def half_known():
    ids = torch.randint(WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    hidden = torch.rand(4, LENGTH, generator=torch.Generator().manual_seed(2)) < torch.tensor(
        [[0.3], [0.9], [0.1], [1]]
    )
    return torch.where(hidden, BLANK, ids)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start", [None, half_known()])
def test_everything_is_filled_what_was_given_stays_and_neighbours_do_not_matter(mode, start):
    model, sampler = small_generator(mode, LENGTH), AdaptiveSampler(Opinionated())
    *before, last = sampler.steps(model, CLASSES, [5, 6, 7, 8], start)
    assert len(before) == STEPS - 1
    assert last.ids.min() >= 0
    assert len({tuple(row) for row in torch.stack([(d.ids == BLANK).sum(1) for d in before]).T.tolist()}) > 1
    if start is not None:
        assert torch.equal(last.ids[start != BLANK], start[start != BLANK])
    for i in range(4):
        alone = sampler.sample(model, CLASSES[i : i + 1], [5 + i], None if start is None else start[i : i + 1])
        assert torch.equal(alone[0], last.ids[i])


def test_exploring_deviates_from_the_policy_by_the_noise_of_each_seed():
    model, sampler = small_generator("joint", LENGTH), AdaptiveSampler(Opinionated())

    def actions(spread, which):
        return next(sampler.explore(model, CLASSES[which], torch.arange(4)[which], spread))[1].actions

    deviation = (actions(0.5, slice(4)) - actions(0.0, slice(4))) / 0.5
    alone = (actions(0.5, slice(2, 3)) - actions(0.0, slice(2, 3))) / 0.5
    assert_close(deviation[2], alone[0], rtol=1e-4, atol=1e-4)
    assert 0.3 < deviation.std() < 2


def test_no_pass_is_made_once_everything_is_filled():
    policy = Policy(16, LENGTH, STEPS, hidden=8, narrow=2, wide=(8, 8))
    policy.follow(Schedule([Step(0.5), Step(0.0), Step(0.0), Step(0.0), Step(0.0)]))
    steps = list(AdaptiveSampler(policy).steps(small_generator("joint", LENGTH), CLASSES, range(4)))
    assert len(steps) == STEPS
    assert [step.evaluations for step in steps] == [8, 16, 16, 16, 16]
    assert torch.equal(steps[1].ids, steps[-1].ids)


@pytest.mark.parametrize("mode", MODES)
def test_a_survey_sees_features_of_all_tokens_and_answers_as_always(mode):
    model, ids = small_generator(mode, LENGTH), torch.randint(WORDS, (2, LENGTH))
    split = Split(torch.arange(9).expand(2, -1), torch.arange(9, LENGTH).expand(2, -1))
    tokens, context = model.tokens(ids), model.context(CLASSES[:2])
    with torch.no_grad():
        features, logits, _ = model.survey(tokens, split, context)
        assert_close(logits, model(tokens, split, context)[0])
        assert_close(model.words(features)[:, 9:], logits, rtol=1e-4, atol=1e-5)
        other = ids.clone()
        other[0, 4] = (ids[0, 4] + 1) % WORDS
        changed = (model.survey(model.tokens(other), split, context)[0] - features).abs().amax(-1)
    assert changed[0, 4] > 1e-3
    assert (changed[1] == 0).all()


@torch.no_grad()
def test_what_lies_before_the_image_takes_no_place_in_a_survey():
    model, ids = small_generator("cross", LENGTH, registers=3), torch.randint(WORDS, (2, LENGTH))
    split = Split(torch.arange(1, 9).expand(2, -1), torch.arange(9, LENGTH).expand(2, -1))
    features = model.survey(model.tokens(ids), split, model.context(CLASSES[:2]))[0]
    assert (features != 0).any(-1).tolist() == [[False] + [True] * (LENGTH - 1)] * 2


@pytest.mark.parametrize("mode", MODES)
def test_a_survey_of_samples_with_different_numbers_of_known_tokens_mixes_nothing_up(mode):
    model, ids = small_generator(mode, LENGTH), torch.randint(WORDS, (2, LENGTH))
    places = torch.arange(LENGTH)
    known, asked = torch.stack([places[:9], places[:9]]), torch.stack([places[7:], places[7:]])
    split = Split(known, asked, known < torch.tensor([[9], [7]]), asked >= torch.tensor([[9], [7]]))
    with torch.no_grad():
        together = model.survey(model.tokens(ids), split, model.context(CLASSES[:2]))[0]
        for i, n in enumerate((9, 7)):
            own = Split(places[None, :n], places[None, n:])
            alone = model.survey(model.tokens(ids[i : i + 1]), own, model.context(CLASSES[i : i + 1]))[0]
            assert_close(together[i], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Policy(16, 24), "24 tokens in 8 steps; it needs a square grid"),
        (lambda: Policy(16, 25, 0), "1 step or more"),
        (lambda: AdaptiveSampler(Policy(16, 25)).with_(steps=4), "the policy decides on steps"),
        (
            lambda: AdaptiveSampler(Policy(16, 36, hidden=8, narrow=2, wide=(8, 8))).sample(
                small_generator("joint", LENGTH), CLASSES, range(4)
            ),
            "a policy for 6x6 tokens cannot look at 25 of them",
        ),
        (
            lambda: AdaptiveSampler(Policy(24, 25, hidden=8, narrow=2, wide=(8, 8))).sample(
                small_generator("joint", LENGTH), CLASSES, range(4)
            ),
            "a policy for features of 24 numbers cannot look at such of 16",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
