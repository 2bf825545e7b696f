"""A modality of an any-to-any model is decoded by every sampler, under one condition or several."""

from itertools import pairwise

import pytest
import torch
from small_generators import small_generator
from torch.testing import assert_close

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.synthesis import ROAR, Conditions, CosineSchedule, ReCAP, Sampler, Target
from mmmask.synthesis.sampling import Contexts
from mmmask.synthesis.schedules import Schedule, Step
from mmmask.tokens import BLANK, Split, TokenSet, tokens_of, vectors_of
from mmmask.transformer import FourM

MODALITIES = [
    Modality("rgb", 4, channels=6),
    Modality("depth", 16, 20),
    Modality("caption", 8, 30, kind="sequence"),
]
SEEDS = [4, 5, 6]


@pytest.fixture(scope="module")
def target():
    torch.manual_seed(0)
    model = FourM(MODALITIES, 16, 2, 2, 2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return Target(model.eval(), "depth")


def parts():
    """What is known of rgb, of a caption, and of neither."""
    draw = torch.Generator().manual_seed(1)
    rgb = vectors_of(torch.randn(3, 4, 6, generator=draw), 0)
    caption = tokens_of(torch.randint(30, (3, 5), generator=draw), 2)
    return rgb, caption, tokens_of(torch.zeros(3, 1, dtype=torch.long), 2)


def conditions(rows=(0, 1, 2)):
    rgb, caption, nothing = (part.map(lambda x: x[list(rows)]) for part in parts())
    return Conditions([rgb.concat(caption)], nothing)


SAMPLERS = {
    "maskgit": Sampler(CosineSchedule(4, guidance=1.0)),
    "roar": ROAR(CosineSchedule(4, guidance=1.0)),
    "recap": ReCAP(CosineSchedule(4, guidance=1.0), local=1),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_everything_is_filled_what_was_given_stays_and_neighbours_do_not_matter(target, name):
    start = torch.full((3, 16), BLANK)
    start[:, 3:6] = torch.tensor([7, 8, 9])
    ids = SAMPLERS[name].sample(target, conditions(), SEEDS, start)
    assert ids.min() >= 0
    assert torch.equal(ids[:, 3:6], start[:, 3:6])
    alone = SAMPLERS[name].sample(target, conditions([1]), SEEDS[1:2], start[1:2])
    assert torch.equal(ids[1:2], alone)
    other = SAMPLERS[name].sample(target, conditions([1, 2, 0]), SEEDS, start)
    assert not torch.equal(ids, other)


def test_random_order_asks_for_few_at_a_time_in_all_branches_at_the_same_places(target):
    asked, decode = [], target.backbone.decode
    target.backbone.decode = lambda tokens, *given, **more: asked.append(tokens) or decode(tokens, *given, **more)
    try:
        steps = list(SAMPLERS["roar"].steps(target, conditions(), SEEDS))
    finally:
        del target.backbone.decode
    counts = CosineSchedule(4).counts(16)
    assert [len(tokens) for tokens in asked] == [a - b for a, b in pairwise(counts)]
    for tokens, step in zip(asked, steps, strict=True):
        assert torch.equal(*tokens.position.chunk(2))
        assert torch.equal(tokens.position[:3], step.places)
    assert torch.cat([step.places for step in steps], 1).sort(1).values.tolist() == [list(range(16))] * 3


def test_several_conditions_pull_with_their_weights_and_some_push(target):
    rgb, caption, nothing = parts()
    split = Split(torch.zeros(3, 0, dtype=torch.long), torch.arange(16).expand(3, -1))
    tokens = target.tokens(torch.full((3, 16), BLANK))

    def logits(*given, weights=(1.0,), guidance=0.0):
        contexts = Contexts(target, Conditions(given, nothing, weights), guidance != 0, None)
        return contexts.answer(tokens, split, Step(0.0, guidance=guidance), None)[0]

    with torch.no_grad():
        by_rgb, by_caption, by_none = (logits(part) for part in (rgb, caption, nothing))
        both = logits(rgb, caption, weights=(2.0, -0.5))
        assert_close(both, by_none + 2 * (by_rgb - by_none) - 0.5 * (by_caption - by_none), rtol=1e-4, atol=1e-4)
        assert_close(logits(rgb, guidance=1.5), by_rgb + 1.5 * (by_rgb - by_none), rtol=1e-4, atol=1e-4)


def test_sets_of_different_length_lie_one_below_the_other(target):
    rgb, caption, nothing = parts()
    both = TokenSet.below([rgb.concat(caption), nothing])
    assert both.modality.shape == (6, 9)
    assert both.is_valid().sum(1).tolist() == [9] * 3 + [1] * 3
    with torch.no_grad():
        together = target.backbone.encode(both).features
        assert_close(together[:3], target.backbone.encode(rgb.concat(caption)).features, rtol=1e-4, atol=1e-5)
        assert_close(together[3:, :1], target.backbone.encode(nothing).features, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_decoded_is_told(target):
    for name in ("rgb", "caption"):
        with pytest.raises(UserError, match=f"{name} is no grid of tokens with ids"):
            Target(target.backbone, name)
    with pytest.raises(UserError, match="no modality 'image'"):
        Target(target.backbone, "image")
    with pytest.raises(UserError, match="only an any-to-any backbone"):
        Target(small_generator("joint", 16).backbone, "image")
    with pytest.raises(UserError, match="2 classes or texts are given for 3 images"):
        Sampler(Schedule([Step(0.0)])).sample(target, conditions([0, 1]), SEEDS, torch.full((3, 16), BLANK))
