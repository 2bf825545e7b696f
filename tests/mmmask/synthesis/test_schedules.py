"""Schedules: they end with nothing masked, and say so if they would not."""

import itertools

import pytest

from mmmask.errors import UserError
from mmmask.synthesis import AutoNATSchedule, CosineSchedule, ENATSchedule, FourMSchedule, ReCAPSchedule, Schedule, Step
from mmmask.synthesis.orders import halton


@pytest.mark.parametrize(
    "schedule",
    [CosineSchedule(1), CosineSchedule(8), CosineSchedule(12), ENATSchedule(1), ENATSchedule(8), AutoNATSchedule()],
)
@pytest.mark.parametrize("tokens", [1, 5, 49, 256])
def test_all_tokens_are_revealed(schedule, tokens):
    counts = schedule.counts(tokens)
    assert len(counts) == len(schedule) + 1
    assert counts[0] == tokens
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)


def test_each_step_of_maskgit_reveals_something():
    counts = CosineSchedule(40).counts(49)
    assert all(before > after for before, after in itertools.pairwise(counts))


def test_guidance_follows_its_law():
    assert [step.guidance for step in CosineSchedule(4, guidance=3.0).steps] == [3.0] * 4
    assert [step.guidance for step in CosineSchedule(4, guidance=2.0, growth="linear").steps] == [0.5, 1.0, 1.5, 2.0]
    assert [step.guidance for step in ENATSchedule(4, guidance=2.0).steps] == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("schedule", "changes", "same"),
    [
        (CosineSchedule(8, 0.5, 2.0, 3.0, "linear"), {"steps": 4}, CosineSchedule(4, 0.5, 2.0, 3.0, "linear")),
        (ENATSchedule(8, 3.0, 2.0, 1.0), {"temperature": 4.0}, ENATSchedule(8, 4.0, 2.0, 1.0)),
        (ReCAPSchedule(9, 2, 3, 0.5, 2.0, 1.0), {"guidance": 2.0}, ReCAPSchedule(9, 2, 3, 0.5, 2.0, 2.0)),
        (
            FourMSchedule(49, 9, "cosine", 6.0, "steep", 0.4, 0.7, 2.0),
            {"temperature": 3.0, "steps": 5},
            FourMSchedule(49, 5, "cosine", 3.0, "steep", 0.4, 0.7, 2.0),
        ),
    ],
)
def test_a_changed_number_leaves_the_others(schedule, changes, same):
    changed = schedule.with_(**changes)
    assert type(changed) is type(schedule)
    assert changed.steps == same.steps != schedule.steps
    assert changed.counts(49) == same.counts(49)
    assert changed.with_(**{name: schedule.made_of[name] for name in changes}).steps == schedule.steps


def test_the_halton_order_visits_all_and_spreads():
    ranks = halton(64)
    assert sorted(ranks.tolist()) == list(range(64))
    first = (ranks < 16).nonzero()[:, 0]
    quarters = {(int(p) // 8 // 4, int(p) % 8 // 4) for p in first}
    assert len(quarters) == 4
    assert max(sum((int(p) // 8 // 4, int(p) % 8 // 4) == q for p in first) for q in quarters) <= 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule([]), "100% of the tokens are still masked"),
        (lambda: Schedule((Step(0.5), Step(0.25))), "25% of the tokens are still masked after the last step"),
        (lambda: Schedule((Step(0.5), Step(0.6), Step(0.0))), "must not grow"),
        (lambda: Schedule((Step(1.5), Step(0.0))), "a share from 0 to 1"),
        (lambda: Schedule((Step(0.0, temperature=-1.0),)), "temperatures must be 0 or more"),
        (lambda: CosineSchedule(0), "steps is 0"),
        (lambda: AutoNATSchedule([0.5], [1.0], [1.0, 1.0], [0.0]), "2, 2, 2, 1 steps"),
        (lambda: AutoNATSchedule().with_(steps=4), "AutoNATSchedule has no such setting \\(steps\\), it is what it is"),
        (lambda: CosineSchedule().with_(least=4), "CosineSchedule has no such setting \\(least\\)"),
        (lambda: CosineSchedule().with_(steps=0), "steps is 0"),
        (lambda: halton(10), "10 tokens make none"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
