"""Local steps: exact where nothing has changed, cheap, for each mode of the backbone."""

import gc
from dataclasses import replace

import pytest
import torch
from small_generators import CLASSES, MODES, WORDS, small_generator
from torch.testing import assert_close

from mmmask.errors import UserError
from mmmask.flops import counting
from mmmask.synthesis import Context, CosineSchedule, ReCAP, Sampler
from mmmask.synthesis.recap import _Group
from mmmask.synthesis.sampling import Contexts
from mmmask.synthesis.schedules import Schedule, Step
from mmmask.tokens import BLANK, Split
from mmmask.transformer.caches import Growing, Kept

LENGTH = 36


def half_known(model):
    ids = torch.randint(WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    places = torch.rand(4, LENGTH, generator=torch.Generator().manual_seed(2)).argsort(1)[:, : LENGTH // 2]
    return ids.scatter(1, places, BLANK)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("guided", [False, True])
@torch.no_grad()
def test_a_local_pass_is_the_full_one_while_nothing_has_changed(mode, guided):
    model, step = small_generator(mode, LENGTH), Step(0.0, guidance=1.5 * guided)
    passes = _Group(Contexts(model, CLASSES, guided, None), half_known(model), size=5)
    logits = passes.look(step)
    passes.take(torch.tensor([[3, 1, 0, 9, 7]]).expand(4, -1), logits)
    full = passes.logits.clone()
    assert not passes.look_again(step)  # it was just made
    assert passes.look_again(step)
    assert_close(passes.logits, full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_after_a_word_is_known_the_rest_of_the_group_hears_of_it(mode):
    model, step = small_generator(mode, LENGTH), Step(0.0)
    found = []
    for word in (2, 3):
        passes = _Group(Contexts(model, CLASSES, False, None), half_known(model), size=4)
        logits = passes.look(step)
        passes.take(torch.tensor([[3, 1, 0, 9]]).expand(4, -1), logits)
        passes.look_again(step)
        passes.reveal(torch.full((4, 1), word))
        assert (passes.ids.gather(1, passes.places[:, :1]) == word).all()
        assert passes.look_again(step)
        found.append(passes.logits)
    assert found[0].shape == (4, 3, WORDS)
    assert ((found[0] - found[1]).abs().amax((1, 2)) > 1e-4).all()


@pytest.mark.parametrize("registers", [0, 3])
@torch.no_grad()
def test_words_that_become_known_see_all_from_before_but_no_padding(registers):
    model, ids = small_generator("cross", LENGTH, registers=registers), torch.randint(WORDS, (2, LENGTH))
    places = torch.arange(LENGTH).expand(2, -1)
    split, new = Split(places[:, :9], places[:, 9:]), places[:, 9:12]

    def grown(ids, absent=0):
        """The memory before and after; the second sample has no class."""
        context, caches = model.context(torch.tensor([1, BLANK])), [Growing() for _ in model.backbone.encoder.blocks]
        classes = torch.where(context.tokens.is_valid(), context.tokens.ids, absent)
        context = Context(replace(context.tokens, ids=classes), None)
        before = model.remember(model.tokens(ids), split, context, None, caches)
        return before, model.remember_more(model.tokens(ids).select(new), context, before, caches)

    before, after = grown(ids)
    count = before.features.shape[1]
    assert after.features.shape[1] == len(after.tokens) == count + 3 == registers + 1 + 9 + 3
    assert torch.equal(after.features[:, :count], before.features)
    assert torch.equal(grown(ids, absent=2)[1].features[:, count:], after.features[:, count:])
    ids[:, 4] = (ids[:, 4] + 1) % WORDS
    assert ((grown(ids)[1].features - after.features)[:, count:].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("full", "local"), [(0, 1), (2, 2), (0, 3), (0, 0)])
def test_everything_is_filled_what_was_given_stays_and_neighbours_do_not_matter(mode, full, local):
    model, ids = small_generator(mode, LENGTH), half_known(small_generator(mode, LENGTH))
    sampler = ReCAP(CosineSchedule(6, guidance=1.0), full=full, local=local)
    for start in (None, ids):
        *before, last = sampler.steps(model, CLASSES, [5, 6, 7, 8], start)
        assert len(before) == 5
        assert last.ids.min() >= 0
        if start is not None:
            assert torch.equal(last.ids[start != BLANK], start[start != BLANK])
        alone = sampler.sample(model, CLASSES[1:2], [6], None if start is None else start[1:2])
        assert torch.equal(alone[0], last.ids[1])
        groups = len(sampler.groups())
        assert (last.evaluations, last.few) == (4 * 2 * groups, 4 * 2 * (6 - groups))


def test_a_step_that_reveals_nothing_takes_no_part():
    """With three blanks most of eight steps reveal none; guidance is that of the steps which do."""
    model, ids = small_generator("joint", LENGTH), torch.zeros(1, LENGTH, dtype=torch.long)
    ids[0, [3, 8, 20]] = BLANK
    schedule = CosineSchedule(8, guidance=8.0, growth="linear")
    used = []
    guide = Contexts.guide
    watch = pytest.MonkeyPatch()
    watch.setattr(Contexts, "guide", lambda self, logits, w: used.append(w) or guide(self, logits, w))
    for sampler in (Sampler(schedule), ReCAP(schedule, local=3)):
        used.append(type(sampler).__name__)
        assert (sampler.sample(model, CLASSES[:1], [0], ids) >= 0).all()
    watch.undo()
    assert used == ["Sampler", 6.0, 7.0, 8.0, "ReCAP", 6.0, 7.0, 8.0]


@pytest.mark.parametrize(("mode", "evaluations", "few"), [("joint", 6, 3), ("read", 8, 4), ("cross", 6, 3)])
def test_a_group_without_guidance_asks_one_branch(mode, evaluations, few, monkeypatch):
    """Two of the four groups have none, one of them with a local step; reused memory needs both branches always."""
    model, guidances = small_generator(mode, LENGTH), [0.0, 1.0, 0.0, 0.0, 0.0, 2.0]
    schedule = Schedule([Step(1 - (s + 1) / 6, guidance=guidance) for s, guidance in enumerate(guidances)])
    heads, asked = model.words, []
    model.words = lambda features: asked.append(len(features)) or heads(features)
    steps = list(ReCAP(schedule, full=2).steps(model, CLASSES, range(4)))
    assert (steps[-1].evaluations, steps[-1].few) == (4 * evaluations, 4 * few)
    assert sum(asked) == 4 * (evaluations + few)
    monkeypatch.setattr(Contexts, "alone", lambda self: self)
    for step, both in zip(steps, ReCAP(schedule, full=2).steps(model, CLASSES, range(4)), strict=True):
        assert torch.equal(step.ids, both.ids)
        assert_close(step.chances, both.chances, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("full", [0, 3, 8])
def test_keys_and_values_are_kept_for_groups_with_local_steps_alone(full, monkeypatch):
    kept = []
    at = Kept.at
    monkeypatch.setattr(Kept, "at", lambda self, columns: kept.append(1) or at(self, columns))
    list(ReCAP(CosineSchedule(8), full=full).steps(small_generator("joint", LENGTH), CLASSES, range(4)))
    assert len(kept) == 3 * ((8 - full) // 2)


def flops(model, sampler):
    with counting() as counter:
        sampler.sample(model, CLASSES, range(4))
    return counter.get_total_flops()


@pytest.mark.parametrize(("mode", "most"), [("joint", 0.65), ("read", 0.9), ("cross", 0.8)])
def test_local_steps_are_cheap(mode, most):
    model, schedule = small_generator(mode, LENGTH), CosineSchedule(8)
    assert flops(model, ReCAP(schedule, local=3)) < most * flops(model, Sampler(schedule, reuse=mode == "read"))


def test_samples_with_different_numbers_of_blanks_are_refused():
    ids = torch.zeros(2, LENGTH, dtype=torch.long)
    ids[0, :3] = BLANK
    with pytest.raises(UserError, match="equally many tokens to fill"):
        ReCAP().sample(small_generator("joint", LENGTH), CLASSES[:2], [0, 1], ids)
    with pytest.raises(UserError, match="0 or more; given: -1 and 1"):
        ReCAP(full=-1)


@pytest.mark.parametrize("mode", MODES)
def test_groups_that_are_done_are_forgotten(mode):
    model, alive = small_generator(mode, LENGTH), set()
    for _ in ReCAP(CosineSchedule(12), local=1).steps(model, CLASSES, range(4)):
        gc.collect()
        alive.add(sum(isinstance(thing, _Group) for thing in gc.get_objects()))
    assert alive == {1}
