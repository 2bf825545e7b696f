"""ReCAP decodes as the published script does: the same full and local passes, the same image."""

import itertools

import pytest
import torch
from nat_reference import vectors
from torch.testing import assert_close

from mmmask.pretrained.nat import read_autonat
from mmmask.synthesis import ImageGenerator, Noise, ReCAP, ReCAPSchedule, Schedule, Step
from mmmask.transformer import AutoNAT
from mmmask.transformer.attention import Attention
from mmmask.transformer.caches import Kept

WORDS = 20
SETTINGS = {
    "recap_cfg": {"steps": 8, "full": 2, "temperature": 0.75, "remask": 5.5},
    "recap_nocfg": {"steps": 7, "full": 0, "temperature": 0.65, "remask": 4.0},
}


class ProgramNoise(Noise):
    """The noise of the published script in the order of its draws: for each group one for its choice, then one for
    each step over all tokens of the group."""

    def __init__(self, data):
        super().__init__(range(2))
        self.data, self.draw, self.done = data, itertools.count(), 0

    def choose(self, logits, step, places):
        noise = self.data[f"cat_noise.{next(self.draw)}"]
        if noise.shape[1] == 256:
            noise, self.done = noise.gather(1, places[..., None].expand(-1, -1, WORDS)), 0
        else:
            noise = noise[:, self.done :][:, : places.shape[1]]
            self.done += places.shape[1]
        return (logits.log_softmax(-1) + noise).argmax(-1)

    def gumbel(self, step, places):
        return self.data[f"conf_noise.{step}"].gather(1, places)


class Published(ReCAPSchedule):
    """With the guidance of the published script: in a local step that of the step before."""

    def __init__(self, guided, steps, full, **settings):
        super().__init__(steps, full, 1, **settings)
        scales = torch.linspace(0.05, 0.1, steps).tolist() if guided else [0.0] * steps
        local = [s > full and (s - full) % 2 == 1 for s in range(steps)]
        self.steps = tuple(
            Step(step.masked, step.temperature, step.remask, scales[s - 1 if local[s] else s])
            for s, step in enumerate(self.steps)
        )


@pytest.fixture
def model():
    generator = ImageGenerator(AutoNAT(WORDS, 256, 1000, dim=24, depth=5, heads=2))
    generator.load_state_dict(read_autonat(vectors("recap_weights")))
    return generator.eval()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_published_decoding(name, model):
    data, settings = vectors(name), SETTINGS[name]
    calls = []
    heads = model.words
    model.words = lambda features: calls.append(heads(features)) or calls[-1]
    sampler = ReCAP(Published(name == "recap_cfg", **settings), full=settings["full"], local=1)
    *_, last = sampler.steps(model, data["labels"][:, 0], ProgramNoise(data))
    assert torch.equal(last.ids, data["final"].flatten(1))
    number = sum(key.endswith(".logits") for key in data)
    assert len(calls) == number
    for call, found in enumerate(calls):
        names = [f"call.{call}.logits", f"call.{call}.logits_uncond"][: len(found) // 2]
        expected = torch.cat([data[name] for name in names])
        if expected.shape[1] == 256:
            masked = (data[f"call.{call}.ids"] == WORDS).nonzero()[:, 1].view(2, -1).repeat(len(names), 1)
            expected = expected.gather(1, masked[..., None].expand(-1, -1, WORDS))
        assert_close(found, expected[:, expected.shape[1] - found.shape[1] :], rtol=1e-4, atol=1e-5)
    assert last.evaluations + last.few == number * 2 * (2 if name == "recap_cfg" else 1)
    assert last.few == 2 * sum(f"call.{k}.positions" in data for k in range(number)) * (2 if name[6:] == "cfg" else 1)


@torch.no_grad()
def test_the_published_attention_over_keys_and_values_that_are_kept():
    """All nine tokens; then three that have changed, and these three as they were, which changes nothing."""
    data, kept = vectors("recap_attention"), Kept()
    attention = Attention(16, heads=2)
    names = {name.removeprefix("param."): value for name, value in data.items() if name.startswith("param.")}
    attention.load_state_dict({name.replace("proj", "out"): value for name, value in names.items()})
    assert_close(attention(data["x"], cache=kept), data["full_out"], rtol=1e-4, atol=1e-6)
    others = kept.at(data["context_index"])
    assert_close(attention(data["new_tokens"], cache=others), data["partial_out"], rtol=1e-4, atol=1e-6)
    index = data["target_index"][..., None].expand(-1, -1, 16)
    unchanged = attention(data["x"].gather(1, index), cache=others)
    assert_close(unchanged, data["full_out"].gather(1, index), rtol=1e-4, atol=1e-6)


# fmt: off
PUBLISHED_GROUPS = {
    (32, 12, 1): [[1]] * 6 + [[2], [2], [3], [3], [4], [5], [4, 6], [6, 7], [7, 8], [9, 10], [10, 11], [12, 12]]
    + [[14, 14], [15, 16], [17, 17], [19, 17]],
    (16, 8, 1): [[1], [1], [2], [4], [6], [9], [10], [13], [15, 19], [21, 24], [28, 31], [34, 38]],
    (16, 4, 1): [[1], [1], [2], [4], [6, 9], [10, 13], [15, 19], [21, 24], [28, 31], [34, 38]],
    (16, 0, 1): [[1, 1], [2, 4], [6, 9], [10, 13], [15, 19], [21, 24], [28, 31], [34, 38]],
    (16, 0, 0): [[1], [1], [2], [4], [6], [9], [10], [13], [15], [19], [21], [24], [28], [31], [34], [38]],
}

# With more than one local step. The published groups skip ahead after the first of them, and so may be one too many.
PUBLISHED_SIZES = {
    (20, 2, 2): [1, 1, 2, 2, 3, 5, 6, 7, 9, 11, 12, 14, 16, 17, 20, 22, 24, 26, 29, 29],
    (24, 8, 3): [1, 1, 1, 1, 3, 2, 4, 5, 6, 6, 8, 9, 10, 11, 13, 13, 16, 16, 18, 20, 21, 22, 25, 24],
}
PUBLISHED_SKIPPING = {
    (20, 2, 2): [[1], [1], [2, 2, 5], [5, 6, 9], [9, 11, 14], [14, 16, 20], [20, 22, 26], [26, 29], [29]],
    (24, 8, 3): [[1]] * 4 + [[3], [2], [4], [5], [6, 6, 9, 11], [10, 11, 13, 16], [16, 16, 20, 22], [21, 22, 24], [24]],
}
# fmt: on


def sizes_of_groups(steps, full, local):
    """How many tokens each step of each group reveals."""
    schedule = ReCAPSchedule(steps, full, local)
    revealed = [a - b for a, b in itertools.pairwise(schedule.counts(256))]
    return [[revealed[s] for s in group] for group in ReCAP(schedule, full, local).groups()]


@pytest.mark.parametrize(("steps", "full", "local"), PUBLISHED_GROUPS)
def test_the_published_groups(steps, full, local):
    assert sizes_of_groups(steps, full, local) == PUBLISHED_GROUPS[steps, full, local]


@pytest.mark.parametrize(("steps", "full", "local"), PUBLISHED_SIZES)
def test_with_more_local_steps_the_published_sizes_and_beginnings_of_groups(steps, full, local):
    ours, published = sizes_of_groups(steps, full, local), PUBLISHED_SKIPPING[steps, full, local]
    assert list(itertools.chain(*ours)) == PUBLISHED_SIZES[steps, full, local]
    assert [group[:2] for group in ours] == [group[:2] for group in published[: len(ours)]]


@pytest.mark.parametrize(("steps", "full", "local"), [(32, 12, 1), (16, 8, 1), (16, 0, 1), (16, 0, 0)])
def test_the_published_temperatures(steps, full, local):
    """Of the noise in the choice, that of the last step of a group counts."""
    data, name = vectors("schedules"), f"recap.{steps}-{full}-{local}"
    schedule = ReCAPSchedule(steps, full, local, temperature=0.75 if steps == 32 else 0.65, remask=5.5)
    temperatures = torch.tensor([step.temperature for step in schedule.steps])
    assert_close(temperatures, data[f"{name}.samp_temp"], rtol=1e-5, atol=1e-6)
    remasks = torch.tensor([schedule.steps[group[-1]].remask for group in ReCAP(schedule, full, local).groups()])
    assert_close(remasks, data[f"{name}.conf_temp"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("steps", "full", "local"), [(20, 2, 2), (24, 8, 3), (7, 9, 1), (5, 0, 8)])
def test_groups_with_any_number_of_local_steps_lose_none(steps, full, local):
    """The published script drops steps where there is more than one local step."""
    groups = ReCAP(Schedule([Step(1 - s / steps) for s in range(1, steps)] + [Step(0.0)]), full, local).groups()
    assert [s for group in groups for s in group] == list(range(steps))
    assert {len(group) for group in groups[:full]} <= {1}
    assert all(len(group) == local + 1 for group in groups[full:-1])
