"""Sequences word by word: as if each word were decoded anew with all before it, and until the last sentinel."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.heads import answers
from mmmask.modalities import Modality
from mmmask.synthesis import Conditions
from mmmask.synthesis.autoregressive import Autoregressive
from mmmask.tokens import TokenSet, tokens_of
from mmmask.transformer import AmongTargets, FourM

FIRST = 20
MODALITIES = [Modality("depth", 16, 20), Modality("caption", 8, 30, kind="sequence", sentinels=(FIRST, 30))]
SEEDS = [4, 5, 6]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = FourM(MODALITIES, 16, 2, 2, 2, qk_norm=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def conditions():
    """Depth, of which the first sample has less; the caption is all left out."""
    depth = tokens_of(torch.randint(20, (3, 16), generator=torch.Generator().manual_seed(1)), 0)
    some = depth.select(torch.arange(10).expand(3, -1), torch.tensor([[True] * 4 + [False] * 6, *[[True] * 10] * 2]))
    nothing = tokens_of(torch.full((3, 1), FIRST), 1)
    return Conditions([some.concat(nothing)], nothing)


def anew(model, given, words, guidance):
    """Logits of the next word, from whole passes over all words so far."""
    position = torch.arange(words.shape[1]).expand_as(words)
    asked = TokenSet(torch.ones_like(words), position, words)
    branches = []
    for known in (given.parts[0], given.without):
        features = model.decode(asked, model.encode(known), rule=AmongTargets([1]))
        branches.append(answers.logits(model.embedding, "caption", features)[:, -1])
    return branches[0] + guidance * (branches[0] - branches[1])


@torch.no_grad()
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_words_are_those_of_whole_passes(model, guidance):
    given, spans = conditions(), torch.tensor([1, 1, 1])
    words, length = Autoregressive(0.0, guidance, most=12).sample(model, "caption", given, spans, SEEDS)
    assert (words[:, 0] == FIRST).all()
    for end in range(1, words.shape[1]):
        best = anew(model, given, words[:, :end], guidance).argmax(1)
        going_on = end < length
        assert torch.equal(words[going_on, end], best[going_on])


@torch.no_grad()
def test_it_ends_with_the_sentinel_after_the_last_span(model):
    words, length = Autoregressive(3.0, most=60).sample(model, "caption", conditions(), torch.tensor([1, 2, 1]), SEEDS)
    for row, n, last in zip(words, length.tolist(), (FIRST + 1, FIRST + 2, FIRST + 1), strict=True):
        assert (row[: n - 1] != last).all()
        assert n == 60 or row[n - 1] == last
        assert (row[n:] == 0).all()
    assert length.min() < 60


@torch.no_grad()
def test_words_of_a_seed_are_the_same_in_any_batch(model):
    given, sampler = conditions(), Autoregressive(1.0, 1.0, most=10)
    whole, _ = sampler.sample(model, "caption", given, torch.ones(3, dtype=torch.long), SEEDS)
    part = Conditions([given.parts[0].map(lambda x: x[1:2])], given.without.map(lambda x: x[1:2]))
    alone, _ = sampler.sample(model, "caption", part, torch.ones(1, dtype=torch.long), SEEDS[1:2])
    assert torch.equal(whole[1, : alone.shape[1]], alone[0])
    assert not torch.equal(whole[0], whole[1])


def test_with_another_temperature_or_guidance_the_rest_stays():
    own = Autoregressive(0.5, 1.5, top_k=7, top_p=0.8, most=9)
    for changes in ({"temperature": 2.0}, {"guidance": 0.0}, {}):
        changed = own.with_(**changes)
        numbers = {"temperature": changed.temperature, "guidance": changed.guidance, "most": changed.most}
        assert numbers == {"temperature": 0.5, "guidance": 1.5, "most": 9} | changes
        assert (changed.words.top_k, changed.words.top_p) == (7, 0.8)


def test_what_is_no_sequence_is_told(model):
    with pytest.raises(UserError, match="depth is no sequence with sentinels"):
        Autoregressive().sample(model, "depth", conditions(), torch.ones(3), SEEDS)
    with pytest.raises(UserError, match="give 0 or more"):
        Autoregressive(-1.0)
    with pytest.raises(UserError, match="give 0 or more"):
        Autoregressive().with_(temperature=-1.0)
    with pytest.raises(UserError, match="no such setting .steps.: it decodes word by word"):
        Autoregressive().with_(steps=4)
