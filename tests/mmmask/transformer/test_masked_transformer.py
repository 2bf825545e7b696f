"""The backbone: its three modes, what may influence what, padding, sizes of the published models."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.synthesis import ImageGenerator
from mmmask.tokens import BLANK, Split, tokens_of
from mmmask.transformer import ENAT, AutoNAT, Causal, FourM, MaskedTransformer, Scores, Stack, Style, TokenEmbedding

WORDS, LENGTH = 11, 9


def shaken(module, seed=0):
    """All weights random, so that nothing is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return module.eval()


def backbone(mode):
    if mode == "joint":
        return AutoNAT(WORDS, LENGTH, 4, dim=16, depth=3, heads=2)
    if mode == "read":
        return ENAT(WORDS, LENGTH, 4, dim=16, encoder_depth=2, decoder_depth=2, heads=2)
    embedding = TokenEmbedding([Modality("image", LENGTH, WORDS), Modality("class", 1, 4, kind="set")], 16)
    return MaskedTransformer(embedding, Stack(2, 16, 2), Stack(2, 16, 2, reads="cross"), "cross")


MODES = ["joint", "read", "cross"]


def generator(mode, seed=0):
    return shaken(ImageGenerator(backbone(mode)), seed)


def answers(model, ids, split, classes=(0, 1)):
    return model(model.tokens(ids), split, model.context(torch.tensor(classes)))[0]


@pytest.fixture
def ids():
    return torch.randint(WORDS, (2, LENGTH), generator=torch.Generator().manual_seed(3))


SPLIT = Split(torch.tensor([[0, 4, 5], [8, 1, 2]]), torch.tensor([[1, 2, 3, 6, 7, 8], [0, 3, 4, 5, 6, 7]]))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_asked_cannot_be_seen(mode, ids):
    model = generator(mode)
    before = answers(model, ids, SPLIT)
    other = ids.scatter(1, SPLIT.asked, (ids.gather(1, SPLIT.asked) + 1) % WORDS)
    assert torch.equal(answers(model, other, SPLIT), before)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_known_counts_for_every_answer(mode, ids):
    model = generator(mode)
    before = answers(model, ids, SPLIT)
    other = ids.clone()
    other[0, 4] = (ids[0, 4] + 1) % WORDS
    changed = (answers(model, other, SPLIT) - before).abs().amax(-1)
    assert (changed[0] > 1e-4).all()
    assert (changed[1] == 0).all()
    assert (answers(model, ids, SPLIT, (2, 1)) - before).abs().amax(-1)[0].min() > 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_samples_may_have_different_numbers_of_asked_tokens(mode, ids):
    """Each gets what it would get alone."""
    model = generator(mode)
    split = Split(
        torch.tensor([[0, 4, 5, 7], [8, 1, 2, 0]]),
        torch.tensor([[1, 2, 3, 6, 8, 0], [0, 3, 4, 5, 6, 7]]),
        torch.tensor([[True] * 4, [True] * 3 + [False]]),
        torch.tensor([[True] * 5 + [False], [True] * 6]),
    )
    together = answers(model, ids, split)
    first = answers(model, ids[:1], Split(split.known[:1], split.asked[:1, :5]), (0,))
    second = answers(model, ids[1:], Split(split.known[1:, :3], split.asked[1:]), (1,))
    assert_close(together[:1, :5], first, rtol=1e-5, atol=1e-5)
    assert_close(together[1:], second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_order_in_which_tokens_are_handed_over_does_not_matter(mode, ids):
    model = generator(mode)
    turned = Split(SPLIT.known.flip(1), SPLIT.asked.flip(1))
    assert_close(answers(model, ids, turned).flip(1), answers(model, ids, SPLIT), rtol=1e-5, atol=1e-5)


def test_the_memory_is_not_touched_by_what_is_asked(ids):
    model = generator("read")
    tokens, context = model.tokens(ids), model.context(torch.tensor([0, 1]))
    memory = model.remember(tokens, SPLIT, context)
    _, kept = model(tokens, SPLIT, context)
    assert torch.equal(kept.features, memory.features)


def test_a_rule_holds_among_the_asked_in_each_mode(ids):
    """Under a causal rule the first asked token is not moved by the last one's position."""
    for mode in MODES:
        model = generator(mode).backbone
        known = tokens_of(ids[:, :1])
        memory = model.encode(known, model.condition(torch.tensor([0, 1])))
        asked = tokens_of(torch.full_like(ids, BLANK))
        less = asked.select(torch.arange(LENGTH - 1).expand(2, -1))
        condition = model.condition(torch.tensor([0, 1]))
        with_last = model.decode(asked, memory, condition, Causal())[:, :-1]
        without = model.decode(less, memory, condition, Causal())
        assert_close(with_last, without, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model.decode(asked, memory, condition)[:, :-1], without, atol=1e-3)


@torch.no_grad()
def test_registers_are_seen_by_all_stand_nowhere_and_answer_nothing(ids):
    modalities = [Modality("image", LENGTH, WORDS), Modality("text", LENGTH, WORDS, kind="sequence")]
    model = shaken(FourM(modalities, 16, 2, 2, 2, registers=3))
    known, asked = tokens_of(ids), tokens_of(torch.full_like(ids, BLANK), 1)
    known = replace(known, valid=torch.arange(LENGTH).expand(2, -1) < torch.tensor([[LENGTH], [0]]))  # of one, nothing
    memory = model.encode(known)
    answers = model.decode(asked, memory)
    assert memory.features.shape == (2, 3 + LENGTH, 16)
    assert memory.tokens.is_valid().sum(1).tolist() == [3 + LENGTH, 3]
    assert answers.shape == (2, LENGTH, 16)
    x = torch.cat([model.registers.expand(2, -1, -1), model.embedding(known)], 1)
    x = model.encoder(x, scores=Scores(allow=memory.tokens.is_valid()[:, None, None]))
    features = model.handover(x)
    features[:, 3:] += model.embedding.places(known)
    assert_close(memory.features, features)
    for one in range(3):
        model.registers[one].neg_()
        other = model.encode(known)
        assert ((other.features - memory.features)[0].abs().amax(-1) > 1e-4).all()
        assert ((model.decode(asked, other) - answers).abs().amax(-1) > 1e-4).all()
        model.registers[one].neg_()


def parameters(make):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ImageGenerator(make()).parameters())


def test_the_published_sizes():
    assert parameters(AutoNAT) == 193_655_296  # 193.66 M
    unused = 2 * 4 * 1024**2 + 5 * 1024  # `prev_embedder`: in the published files, never used
    assert (parameters(ENAT) + unused) / 1e6 == pytest.approx(574.30, abs=0.005)
    assert (parameters(lambda: ENAT(tokens=1024)) + unused) / 1e6 == pytest.approx(575.1, abs=0.05)


def test_adaptive_blocks_begin_as_the_identity():
    stack = ENAT(WORDS, LENGTH, 4, dim=16, encoder_depth=1, decoder_depth=1, heads=2).decoder
    x = torch.randn(2, 5, 16)
    assert torch.equal(stack(x, None, stack.modulations(torch.randn(2, 16))), x)


def test_dropout_is_for_the_modalities_it_names():
    modalities = [Modality("image", LENGTH, WORDS), Modality("class", 1, 4, kind="set")]
    embedding = TokenEmbedding(modalities, 64, {"image": 0.4})
    torch.nn.init.ones_(embedding.norm_bias)
    torch.manual_seed(0)
    image = embedding(tokens_of(torch.zeros(200, LENGTH, dtype=torch.long)))
    kept = image != 0
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.01)
    assert_close(image[kept], embedding.eval()(tokens_of(torch.zeros(200, LENGTH, dtype=torch.long)))[kept] / 0.6)
    assert (embedding.train()(tokens_of(torch.zeros(200, 1, dtype=torch.long), 1)) != 0).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda e: MaskedTransformer(e, Stack(1, 16, 2), Stack(1, 8, 2)), "equally wide; they have 16, 16 and 8"),
        (lambda e: MaskedTransformer(e, Stack(1, 16, 2), Stack(1, 16, 2), "read"), "mode read cannot read='no'"),
        (lambda e: MaskedTransformer(e, Stack(0, 16, 2), Stack(1, 16, 2, Style(adaptive=True))), "give both or none"),
        (lambda e: ImageGenerator(MaskedTransformer(e, Stack(1, 16, 2), Stack(1, 16, 2))), "give it no encoder"),
        (lambda e: ImageGenerator(FourM([Modality("a", 16, 4), Modality("b", 9, 4)], 16, 1, 1, 2)), "has one grid"),
        (lambda e: TokenEmbedding(e.catalogue.modalities, 8, {"text": 0.1}), "no modality 'text' here, only image"),
        (lambda e: e.check("image", torch.tensor([[3, WORDS]])), "token id 11 of image lies outside .* 0..10"),
        (lambda e: e.check("image", torch.tensor([[-2]])), "token id -2"),
        (lambda e: Stack(-1, 16, 2), "depth is -1"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make(TokenEmbedding([Modality("image", LENGTH, WORDS)], 16))
