"""Decoding: the same images for a seed in any batch, given tokens kept, limits on words, cost counted."""

import itertools

import pytest
import torch
from small_generators import small_generator
from torch.testing import assert_close

from mmmask.errors import UserError
from mmmask.synthesis import (
    ROAR,
    AdaptiveSampler,
    AutoNATSchedule,
    CosineSchedule,
    ENATSchedule,
    FourMSchedule,
    ImageGenerator,
    Noise,
    Policy,
    ReCAP,
    Sampler,
    Shuffled,
    Spread,
)
from mmmask.synthesis.orders import halton
from mmmask.tokens import BLANK, Split
from mmmask.transformer import ENAT, AutoNAT

WORDS, LENGTH = 11, 16


def generator(family="enat"):
    torch.manual_seed(0)
    if family == "enat":
        model = ImageGenerator(ENAT(WORDS, LENGTH, 4, dim=16, encoder_depth=2, decoder_depth=2, heads=2))
    else:
        model = ImageGenerator(AutoNAT(WORDS, LENGTH, 4, dim=16, depth=3, heads=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


FAMILIES = ["enat", "autonat"]
CLASSES = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("schedule", [CosineSchedule(4, guidance=1.5), ENATSchedule(5), AutoNATSchedule()])
def test_an_image_depends_on_its_class_and_seed_alone(family, schedule):
    model, sampler = generator(family), Sampler(schedule)
    together = sampler.sample(model, CLASSES, [5, 6, 7, 8])
    assert together.min() >= 0
    assert together.max() < WORDS
    for i in range(4):
        alone = sampler.sample(model, CLASSES[i : i + 1], [5 + i])
        assert torch.equal(alone[0], together[i])
    assert not torch.equal(sampler.sample(model, CLASSES, [9] * 4), together)


@pytest.mark.parametrize("family", FAMILIES)
def test_given_tokens_are_kept_whatever_their_number(family):
    model, sampler = generator(family), Sampler(ENATSchedule(4))
    ids = torch.randint(WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    hidden = torch.rand(4, LENGTH, generator=torch.Generator().manual_seed(2)) < torch.tensor([[0.3], [0.9], [0], [1]])
    assert hidden.sum(1).tolist()[2:] == [0, LENGTH]
    blank = torch.where(hidden, BLANK, ids)
    filled = sampler.sample(model, CLASSES, [1, 2, 3, 4], blank)
    assert torch.equal(filled[~hidden], ids[~hidden])
    assert (filled >= 0).all()
    for i in (0, 1, 3):
        assert torch.equal(sampler.sample(model, CLASSES[i : i + 1], [1 + i], blank[i : i + 1])[0], filled[i])


def test_a_step_that_would_reveal_nothing_is_left_out():
    model, sampler = generator(), Sampler(CosineSchedule(8))
    ids = torch.randint(WORDS, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[0, [2, 9]] = BLANK
    steps = list(sampler.steps(model, CLASSES[:1], [0], ids))
    assert len(steps) == 8
    assert steps[-1].evaluations == 2
    assert (steps[-1].ids >= 0).all()


def test_only_as_many_tokens_as_the_schedule_says_are_revealed_and_none_changes_later():
    schedule, before = ENATSchedule(5), torch.full((4, LENGTH), BLANK)
    for decoded, masked in zip(
        Sampler(schedule).steps(generator(), CLASSES, range(4)), schedule.counts(LENGTH)[1:], strict=True
    ):
        assert (decoded.ids == BLANK).sum(1).tolist() == [masked] * 4
        assert torch.equal(decoded.ids[before != BLANK], before[before != BLANK])
        before = decoded.ids


def test_a_step_without_guidance_asks_one_branch():
    *_, unguided = Sampler(ENATSchedule(5, guidance=0.0)).steps(generator(), CLASSES, range(4))
    *_, guided = Sampler(ENATSchedule(5)).steps(generator(), CLASSES, range(4))
    assert (unguided.evaluations, guided.evaluations) == (4 * 5, 4 * 9)


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_is_a_factor_for_each_sample(family):
    model, sampler = generator(family), Sampler(CosineSchedule(4, guidance=30.0))

    def with_factor(*factors):
        *_, last = sampler.steps(model, CLASSES, range(4), guidance=torch.tensor(factors))
        return last.ids

    plain, none = sampler.sample(model, CLASSES, range(4)), Sampler(CosineSchedule(4)).sample(model, CLASSES, range(4))
    mixed = with_factor(1.0, 0.0, 1.0, 0.0)
    assert torch.equal(mixed[[0, 2]], plain[[0, 2]])
    assert torch.equal(mixed[[1, 3]], none[[1, 3]])
    assert not torch.equal(plain, none)


def test_words_can_be_limited_to_the_likeliest():
    model = generator()
    logits = torch.tensor([[[3.0, 2.0, 1.0, 0.0, -1.0]]])
    assert Sampler(top_k=2)._likely(logits).isfinite().tolist() == [[[True, True, False, False, False]]]
    chances = logits.softmax(-1).flatten()  # 0.64, 0.23, 0.09, 0.03, 0.01
    assert Sampler(top_p=0.7)._likely(logits).isfinite().sum() == 2
    assert Sampler(top_p=float(chances[0]) - 1e-3)._likely(logits).isfinite().sum() == 1
    hot = Sampler(top_p=0.7).draw(logits.expand(-1, 99, -1), 50.0, 0, torch.arange(99)[None], Noise([0]))[0]
    assert hot.unique().tolist() == [0, 1]
    greedy = Sampler(CosineSchedule(4, temperature=0.0, remask=0.0)).sample(model, CLASSES, range(4))
    assert torch.equal(Sampler(CosineSchedule(4, remask=0.0), top_k=1).sample(model, CLASSES, [9] * 4), greedy)


def test_a_sampler_with_other_numbers_keeps_the_rest():
    own = ROAR(FourMSchedule(LENGTH, 8, temperature=6.0, decay="steep"), Spread(), top_k=7, top_p=0.8)
    changed = own.with_(steps=4, guidance=2.0)
    same = ROAR(FourMSchedule(LENGTH, 4, temperature=6.0, decay="steep", guidance=2.0), Spread(), top_k=7, top_p=0.8)
    assert changed.settings() == same.settings()
    assert own.settings()["steps"] == ROAR(FourMSchedule(LENGTH, 8, temperature=6.0, decay="steep")).settings()["steps"]
    assert (recap := ReCAP(CosineSchedule(6), 2, 3).with_(steps=9)).groups() == ReCAP(CosineSchedule(9), 2, 3).groups()
    assert recap.settings()["local"] == 3
    assert own.with_().settings() == own.settings()


def test_the_halton_order_and_a_random_order_look_at_no_word():
    steps = Sampler(ENATSchedule(5), Spread()).steps(generator(), CLASSES, range(4))
    for decoded, masked in zip(steps, ENATSchedule(5).counts(LENGTH)[1:], strict=True):
        assert torch.equal(decoded.ids != BLANK, (halton(LENGTH) < LENGTH - masked).expand(4, -1))
    *_, half, _, _ = Sampler(ENATSchedule(5), Shuffled()).steps(generator(), CLASSES, [1, 1, 2, 2])
    blank = half.ids == BLANK
    assert torch.equal(blank[0], blank[1])
    assert torch.equal(blank[2], blank[3])
    assert not torch.equal(blank[0], blank[2])


@pytest.mark.parametrize("make", [Sampler, lambda *given, **options: AdaptiveSampler(followed(*given), **options)])
def test_a_model_that_cannot_reuse_a_memory_forgets_nothing(make):
    model, schedule = small_generator("cross", LENGTH), CosineSchedule(5)
    both = [make(schedule, reuse=reuse).sample(model, CLASSES, range(4)) for reuse in (True, False)]
    assert torch.equal(*both)
    known = []
    encode = model.backbone.encode
    model.backbone.encode = lambda tokens, *rest: known.append(len(tokens)) or encode(tokens, *rest)
    make(schedule).sample(model, CLASSES, range(4))
    assert known == sorted(known)
    assert known[-1] > LENGTH / 2


def followed(schedule):
    policy = Policy(16, LENGTH, len(schedule), hidden=8, narrow=2, wide=(8, 8))
    policy.follow(schedule)
    return policy


def test_reuse_gives_what_reading_a_memory_gives_and_costs_no_second_encoding():
    """Without reuse all visible tokens are encoded anew, with other features and so other words."""
    model = generator()
    lengths = []
    model.backbone.encoder.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    Sampler(ENATSchedule(4)).sample(model, CLASSES, range(4))
    with_reuse = lengths.copy()
    lengths.clear()
    Sampler(ENATSchedule(4), reuse=False).sample(model, CLASSES, range(4))
    counts = ENATSchedule(4).counts(LENGTH)
    assert [n for n in with_reuse if n] == [a - b for a, b in itertools.pairwise(counts[:-1])]
    assert [n for n in lengths if n] == [LENGTH - n for n in counts[1:-1]]


def text_model():
    torch.manual_seed(0)
    model = ImageGenerator(AutoNAT(WORDS, LENGTH, text_length=5, text_channels=6, dim=16, depth=3, heads=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return model.eval()


def test_images_follow_texts():
    model, sampler = text_model(), Sampler(CosineSchedule(4, guidance=1.0))
    texts = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    together = sampler.sample(model, texts, [1, 2])
    assert torch.equal(sampler.sample(model, texts[1:], [2])[0], together[1])
    assert not torch.equal(sampler.sample(model, texts.flip(0), [1, 2]), together)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda m: Sampler().sample(m, torch.tensor([4]), [0]), "class 4 is out of range: the model knows 0 to 3"),
        (lambda m: Sampler().sample(m, CLASSES, range(3), torch.zeros(3, LENGTH).long()), "4 classes .* for 3 images"),
        (
            lambda m: Sampler().sample(m, CLASSES[:1], [0], torch.zeros(1, 25).long()),
            "25 tokens, .* made for 16",
        ),
        (lambda m: Sampler().sample(m, CLASSES[:1], [0], torch.full((1, LENGTH), 11)), "token id 11 of image"),
        (lambda m: Sampler(CosineSchedule(17)).sample(m, CLASSES[:1], [0]), "17 steps for 16 tokens"),
        (lambda m: Sampler(top_k=0), "top_k must be 1 or more"),
        (lambda m: Sampler(top_p=0.0), "top_p above 0"),
        (lambda m: Sampler().sample(m, CLASSES, [0, 1]), "2 seeds for 4 images"),
    ],
)
def test_what_makes_no_sense_is_refused(run, words):
    model = generator()
    with pytest.raises(UserError, match=words):
        run(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoding_step_compiles_into_one_graph(family):
    model = generator(family)
    tokens = model.tokens(torch.randint(WORDS, (2, LENGTH)))
    split = Split(torch.arange(4).expand(2, -1), torch.arange(4, LENGTH).expand(2, -1))
    context = model.context(torch.tensor([0, 3]))
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(tokens, split, context)[0], model(tokens, split, context)[0], rtol=1e-4, atol=1e-5)
