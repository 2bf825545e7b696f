"""Any-to-any masks: budgets hold, nothing is both known and asked, what is absent stays away."""

import numpy as np
import pytest
import torch

from mmmask.errors import UserError
from mmmask.masking import Component, DirichletMask
from mmmask.modalities import Modality
from mmmask.tokens import BLANK, Data

RGB, DEPTH, TEXT = range(3)
MODALITIES = [
    Modality("rgb", 16, channels=5),
    Modality("depth", 16, 100),
    Modality("caption", 10, 300, kind="sequence", sentinels=(200, 299)),
]
ALL = Component(known=0.5, asked=0.5)
B = 200


def batch(count=B, absent=()):
    rng = np.random.default_rng(0)
    length = {"rgb": 16, "depth": 16, "caption": rng.integers(3, 11, count)}
    data = {name: np.full(count, n) if isinstance(n, int) else n for name, n in length.items()}
    for name, row in absent:
        data[name][row] = 0
    ids = {
        "rgb": np.tile(np.arange(16), (count, 1)),
        "depth": rng.integers(0, 100, (count, 16)),
        "caption": rng.integers(0, 200, (count, 10)),
    }
    values = {"rgb": torch.arange(count * 16 * 5.0).view(-1, 16, 5)}
    return {name: Data(ids[name], data[name], None, values.get(name)) for name in ids}


def ask(components=(ALL,), seeds=None, data=None, **settings):
    seeds = np.arange(B) if seeds is None else seeds
    mask = DirichletMask(MODALITIES, components, **{"known": (4, 20), "asked": (6, 12), **settings})
    return mask(batch(len(seeds)) if data is None else data, seeds)


def counts(tokens):
    return torch.stack([(tokens.valid & (tokens.modality == n)).sum(1) for n in range(3)], 1)


def test_budgets_hold_and_continuous_tokens_are_never_asked():
    question, data = ask(), batch()
    known, asked = counts(question.known), counts(question.asked)
    assert question.known.ids.shape == (B, 20)
    assert question.asked.ids.shape == question.wanted.shape == (B, 12)
    assert (known.sum(1) <= 20).all()
    assert known.sum(1).min() >= 1
    assert len(set(known.sum(1).tolist())) > 10
    assert (asked.sum(1) <= 12).all()
    assert not asked[:, RGB].any()
    assert known.float().std(0).min() > 1  # of each modality now much, now little
    assert (known[:, TEXT].numpy() <= data["caption"].length).all()


def test_no_token_of_a_grid_is_known_and_asked_and_all_have_their_own_content():
    question, data = ask(known=(16, 16), asked=(12, 12)), batch()
    for row in range(B):
        known, asked = (
            {int(p) for p, m, v in zip(t.position[row], t.modality[row], t.valid[row], strict=True) if v and m == DEPTH}
            for t in (question.known, question.asked)
        )
        assert not known & asked
        for tokens, words in ((question.known, question.known.ids), (question.asked, question.wanted)):
            its = tokens.valid[row] & (tokens.modality[row] == DEPTH)
            assert (words[row][its].numpy() == data["depth"].ids[row][tokens.position[row][its]]).all()
    grid = question.asked.valid & (question.asked.modality == DEPTH)
    assert (question.asked.ids[grid] == BLANK).all()


def test_an_answer_in_words_is_fed_one_word_late():
    question = ask([Component(known=0.0, asked={"caption": 1.0})], asked=(40, 40))
    data = batch()["caption"]
    for row in range(20):
        its = question.asked.valid[row]
        assert its.sum() == data.length[row] + 1
        fed, wanted = question.asked.ids[row][its].tolist(), question.wanted[row][its].tolist()
        assert fed[0] == 200
        assert wanted == [*data.ids[row][: data.length[row]], 201]
        assert fed[1:] == wanted[:-1]
        assert question.asked.position[row][its].tolist() == list(range(len(fed)))


def test_what_is_absent_is_neither_known_nor_asked():
    absent = [("depth", row) for row in range(0, B, 2)] + [("caption", row) for row in range(0, B, 3)]
    question = ask(data=batch(absent=absent))
    for tokens in (question.known, question.asked):
        its = counts(tokens)
        assert not its[::2, DEPTH].any()
        assert not its[::3, TEXT].any()
        assert its[1::2, DEPTH].any()
    assert not counts(question.asked)[::6].any()  # of these there is rgb alone


def test_the_components_are_drawn_by_their_weights_and_keep_captions_whole():
    only = [
        Component({"rgb": 1000.0}, {"depth": 1.0}, weight=3.0),
        Component({"caption": 5.0}, 1.0, keep={"caption": "all"}),
    ]
    known = counts(ask(only, np.arange(4000), known=(16, 16)).known)
    by_rgb = known[:, RGB] == 16
    assert by_rgb.float().mean() == pytest.approx(0.75, abs=0.03)
    length = torch.from_numpy(batch(4000)["caption"].length)
    assert (known[~by_rgb, TEXT] == length[~by_rgb]).all()


def test_a_sample_is_masked_the_same_in_any_batch():
    whole = ask()
    data = {name: Data(*(part[7:8] for part in data[:2])) for name, data in batch().items()}
    alone = ask(seeds=np.array([7]), data=data)
    for a, b in ((whole.known, alone.known), (whole.asked, alone.asked)):
        for name in ("modality", "position", "ids", "valid"):
            assert torch.equal(getattr(a, name)[7], getattr(b, name)[0])
    assert torch.equal(whole.wanted[7], alone.wanted[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: DirichletMask(MODALITIES, [Component({"depht": 1.0}, 1.0)]),
            "'depht'.*Did you mean 'depth'",
        ),
        (lambda: DirichletMask(MODALITIES, []), "give a component"),
        (lambda: DirichletMask(MODALITIES, [ALL], known=(5, 4)), "from and to"),
        (lambda: DirichletMask([Modality("text", 9, 20, kind="sequence")], [ALL]), "text has 0 sentinels.*needs 6"),
    ],
)
def test_what_does_not_fit_is_told(make, words):
    with pytest.raises(UserError, match=words):
        make()
