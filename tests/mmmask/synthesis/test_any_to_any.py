"""Any modality from any others: what is given stays, what pulls counts, and each sample answers for itself."""

import pytest
import torch
from small_any_to_any import NAMES, TEXTS, codecs, pictures, small_any_to_any
from torch.testing import assert_close

from mmmask.errors import UserError
from mmmask.synthesis import (
    AnyToAny,
    Autoregressive,
    CosineSchedule,
    FourMSchedule,
    Sampler,
    log_chances,
    log_likelihoods,
)
from mmmask.tokenizers import Boxes, Strokes
from mmmask.transformer import AmongTargets, FourM


@pytest.fixture(scope="module")
def model():
    return small_any_to_any()


def test_each_target_comes_as_a_batch_holds_it(model):
    found = model.predict({"pixels": pictures()}, ["ink", "caption", "kind"])
    assert found.keys() == {"ink", "caption", "kind"}
    assert found["ink"].shape == (3, 1, 8, 8)
    assert set(found["ink"].unique().tolist()) <= {0.0, 1.0}
    assert all(isinstance(text, str) for text in found["caption"])
    assert set(found["kind"]) <= set(NAMES)


def test_a_sample_answers_for_itself(model):
    whole = model.predict({"pixels": pictures()}, ["ink", "caption", "kind"], seeds=[5, 6, 7])
    alone = model.predict({"pixels": pictures()[1:2]}, ["ink", "caption", "kind"], seeds=[6])
    assert torch.equal(alone["ink"][0], whole["ink"][1])
    assert (alone["caption"][0], alone["kind"][0]) == (whole["caption"][1], whole["kind"][1])
    assert not torch.equal(model.predict({"pixels": pictures()}, ["ink"], seeds=[8, 9, 10])["ink"], whole["ink"])


def test_gaps_of_a_text_are_filled_and_its_words_stay(model):
    (gap, full, nothing) = model.predict({"caption": ["a ___ circle", "two green", "___"]}, ["caption"])["caption"]
    assert gap.startswith("a ")
    assert gap.endswith(" circle")
    assert full == "two green"
    assert nothing


@pytest.fixture(scope="module")
def sketches():
    made = {"boxes": Boxes(["cat", "dog"], size=15, most=4), "strokes": Strokes(16, bins=8, most_points=12)}
    return small_any_to_any(1.0, made)


@pytest.mark.parametrize(
    ("name", "of", "parts", "gap"),
    [
        ("boxes", torch.tensor, ([1, 2, 3, 10, 12], [0, 0, 0, 3, 3], [0, 1, 1, 4, 5]), [-2] * 5),
        ("strokes", list, ([[0.5, 0.5], [0.5, 4.5]], [[2.5, 8.5], [6.5, 8.5]], [[10.5, 2.5], [10.5, 6.5]]), None),
    ],
)
def test_gaps_among_boxes_and_strokes_are_filled_by_what_is_around(sketches, name, of, parts, gap):
    first, other, last = parts
    given = of([[first, gap, last], [other, gap, last], [first, last, last]])
    ids, length = sketches.answers({name: given}, [name], seeds=[5, 5, 5])[name]
    found = [row[:end].tolist() for row, end in zip(ids, length, strict=True)]
    codec = sketches.codecs[name]
    begin, change, end = (row[row > 0].tolist() for row in codec.encode(of([[part] for part in parts])).ids)
    assert [words[: len(begin)] for words in found[:2]] == [begin, change]
    assert [words[-len(end) :] for words in found[:2]] == [end, end]
    filled = [words[len(begin) : -len(end)] for words in found[:2]]
    assert all(filled)
    assert filled[0] != filled[1]
    assert min(map(min, filled)) >= codec.sentinels[1]
    whole = sketches.predict({name: given}, [name])[name][2]
    assert (whole if name == "strokes" else whole[:3].tolist()) == [first, last, last]


def test_a_sequence_that_a_sample_lacks_is_made_anew(model):
    given, there = {"caption": ["two green", "two green"]}, torch.tensor([[False], [True]]).expand(-1, 8)
    found = model.predict(given, ["caption"], visible={"caption": there})["caption"]
    assert found == model.predict({"caption": ["", "two green"]}, ["caption"])["caption"]
    assert found[0] != found[1] == "two green"


def test_what_was_seen_of_a_grid_stays(model):
    ink, shown = (pictures() > 0.5).float(), torch.zeros(3, 4, 4, dtype=torch.bool)
    shown[:, :2] = True
    kept = model.codecs["ink"].decode(*map(torch.from_numpy, model.codecs["ink"].encode(ink)[:2]))
    found = model.predict({"ink": ink}, ["ink"], visible={"ink": shown})["ink"]
    assert torch.equal(found[:, :, :4], kept[:, :, :4])
    assert not torch.equal(found[:, :, 4:], kept[:, :, 4:])


class Asked(Autoregressive):
    """Remembers what it was asked under which conditions."""

    def sample(self, backbone, name, given, spans, noise):
        self.given = given
        return super().sample(backbone, name, given, spans, noise)


@pytest.mark.parametrize(
    ("settings", "parts", "without", "weights"),
    [
        ({}, ["pixels ink kind"], "", (1.0,)),
        ({"grow": False}, ["pixels ink kind"], "ink", (1.0,)),
        ({"weights": {"kind": 2.0}}, ["pixels ink kind"], "pixels ink", (2.0,)),
        ({"weights": {"ink": -0.5, "pixels": 2.0}}, ["ink kind", "pixels kind"], "kind", (-0.5, 2.0)),
    ],
)
def test_a_finished_target_is_known_to_the_next_and_pulls_where_it_shall(settings, parts, without, weights):
    model = small_any_to_any(decoders={"caption": (asked := Asked())})

    def names(tokens):
        there = tokens.modality[0][tokens.is_valid()[0]].unique().tolist()
        return " ".join(model.catalogue.names[number] for number in there)

    found = model.predict({"kind": NAMES, "pixels": pictures()}, ["ink", "caption"], **settings)
    assert ([names(part) for part in asked.given.parts], names(asked.given.without)) == (parts, without)
    assert asked.given.weights == weights
    part, ink = asked.given.parts[0], model.catalogue.number("ink")
    kept = part.ids[(part.modality == ink) & part.is_valid()].view(3, -1)
    assert torch.equal(model.codecs["ink"].decode(kept, torch.full((3,), 16)), found["ink"])


def test_what_is_absent_of_a_sample_is_as_if_it_were_not_given(model):
    mixed = model.predict({"pixels": pictures(2), "kind": ["", "ring"]}, ["caption"])["caption"]
    without = model.predict({"pixels": pictures(2)}, ["caption"])["caption"]
    assert mixed[0] == without[0]
    assert mixed[1] != without[1]
    hidden = torch.tensor([[False], [True]]).expand(-1, 4)  # a stand-in is no data
    names = model.predict({"kind": ["ring", "ring"]}, ["caption"])["caption"]
    given = {"kind": ["ring", "ring"], "pixels": pictures(2)}
    assert model.predict(given, ["caption"], visible={"pixels": hidden})["caption"][0] == names[0]
    assert model.predict(given, ["caption"])["caption"][0] != names[0]


@pytest.mark.parametrize("name", ["pixels", "ink"])
def test_a_picture_that_is_absent_is_as_if_it_were_not_given(model, name):
    both = pictures(2)
    both[0] = torch.nan
    mixed = log_chances(model, {name: both, "caption": TEXTS[:2]}, "kind")
    without = log_chances(model, {"caption": TEXTS[:2]}, "kind")
    assert_close(mixed[0], without[0])
    assert not torch.allclose(mixed[1], without[1])


def test_weights_pull_and_push():
    guided = Sampler(CosineSchedule(4, guidance=0.0))
    model = small_any_to_any(0.4, decoders={"ink": guided})
    given = {"pixels": pictures(), "kind": NAMES}

    def ink(**settings):
        return model.predict(given, ["ink"], **settings)["ink"]

    assert torch.equal(ink(weights={}), ink())
    assert torch.equal(ink(weights={"pixels": 0.0}), model.predict({"kind": NAMES}, ["ink"])["ink"])
    assert not torch.equal(ink(weights={"pixels": 3.0}), ink(weights={"pixels": -3.0}))


def test_a_guided_prediction_runs_the_encoder_once_a_step_and_never_on_padding():
    """All branches at once where they are as wide, else each by itself; those of a text once and for all."""
    schedule = FourMSchedule(16, 4, guidance=1.0)
    model = small_any_to_any(decoders={"ink": Sampler(schedule), "caption": Autoregressive(guidance=1.0)})
    runs, decoded = [], [16 - left for left in schedule.counts(16)[:-1]]
    model.backbone.encoder.register_forward_pre_hook(lambda _, given: runs.append(tuple(given[0].shape[:2])))

    def encoded(given, target, weights=None):
        runs.clear()
        model.predict(given, [target], weights=weights)
        return runs

    assert decoded == [0, 4, 8, 12]
    four, one = {"pixels": pictures()}, {"kind": NAMES}
    assert encoded(four, "ink") == [run for n in decoded for run in ((3, 4 + n), (3, 1 + n))]
    assert encoded(one, "ink") == [(6, 1 + n) for n in decoded]  # without it there is one token that is not valid
    both = encoded(four | one, "ink", {"pixels": 2.0, "kind": -1.0})
    assert both == [run for n in decoded for run in ((3, 4 + n), (3, 1 + n), (3, 1 + n))]
    assert encoded(four, "caption") == [(6, 4)]


def test_likelihoods_are_those_of_each_pair_alone(model):
    given, texts = {"pixels": pictures()}, [*TEXTS, "a"]
    found = log_likelihoods(model, given, "caption", texts, about=False)
    assert found.shape == (3, 4)
    for sample in range(3):
        known = model.known({"pixels": pictures()[sample : sample + 1]})
        memory = model.backbone.encode(known["pixels"])
        for number, text in enumerate(texts):
            assert_close(found[sample, number], _by_hand(model, memory, text), rtol=1e-4, atol=1e-4)
    nothing = log_likelihoods(model, {"kind": [""]}, "caption", texts, about=False)
    assert_close(log_likelihoods(model, given, "caption", texts), found - nothing)


@torch.no_grad()
def _by_hand(model, memory, text):
    number, (first, _) = model.catalogue.number("caption"), model.catalogue["caption"].sentinels
    ids, length = (torch.from_numpy(part) for part in model.codecs["caption"].encode([text])[:2])
    words = [first, *ids[0, : int(length)].tolist(), first + 1]
    total = 0.0
    for end in range(1, len(words)):
        fed = torch.tensor([words[:end]])
        asked = model._all_of("caption", fed, torch.tensor([end]))
        features = model.backbone.decode(asked, memory, rule=AmongTargets([number]))[:, -1]
        table = model.backbone.embedding.answer_table("caption")
        total = total + (features @ table.T).log_softmax(-1)[0, words[end]]
    return total


@torch.no_grad()
def test_the_likelihoods_of_a_grid_are_those_of_its_words(model):
    ink = (pictures(4, 1) > 0.5).float()
    found = log_likelihoods(model, {"caption": TEXTS}, "ink", ink, about=False)
    names = log_likelihoods(model, {"caption": TEXTS}, "kind", NAMES, about=False)
    assert found.shape == (3, 4)
    assert_close(names.exp().sum(1), torch.ones(3))  # all the names there are
    alone = log_likelihoods(model, {"caption": TEXTS[1:2]}, "ink", ink[2:3], about=False)
    assert_close(alone[0, 0], found[1, 2])


def test_chances_of_a_grid_are_those_that_likelihoods_add_up(model):
    ink = (pictures(4, 1) > 0.5).float()
    chances = log_chances(model, {"caption": TEXTS}, "ink")
    ids = torch.from_numpy(model.codec("ink").encode(ink).ids)
    added = torch.stack([chances[:, range(chances.shape[1]), some].sum(1) for some in ids], 1)
    assert_close(added, log_likelihoods(model, {"caption": TEXTS}, "ink", ink, about=False))


def test_chances_of_a_sequence_are_refused(model):
    with pytest.raises(UserError, match="caption is a sequence, whose words depend on those before"):
        log_chances(model, {"pixels": pictures()}, "caption")


@pytest.mark.parametrize(
    ("given", "targets", "settings", "words"),
    [
        ({"pixel": 0}, ["ink"], {}, "there is no modality 'pixel'"),
        ({}, ["depth"], {}, "there is no modality 'depth'"),
        ({"kind": NAMES, "caption": ["a"]}, ["ink"], {}, "different numbers of samples: kind 3, caption 1"),
        ({"kind": NAMES}, ["ink"], {"seeds": [1]}, "1 seeds for 3 samples"),
        (
            {"kind": NAMES},
            ["ink"],
            {"weights": {"caption": 1.0}},
            "caption has a weight, and is neither given nor decoded",
        ),
        (
            {"kind": NAMES},
            ["ink"],
            {"weights": {"ink": 1.0}},
            "ink has a weight, and is neither given nor decoded before",
        ),
        (
            {"caption": ["two green"]},
            ["caption"],
            {"visible": {"caption": torch.arange(8)[None] == 0}},
            "caption is a sequence, .* mark gaps in what is given: ___ in a text, None among strokes",
        ),
        ({"kind": NAMES}, ["pixels"], {}, "pixels is no grid of tokens with ids"),
    ],
)
def test_what_cannot_be_predicted_is_told(model, given, targets, settings, words):
    with pytest.raises(UserError, match=words):
        model.predict(given, targets, **settings)


def test_a_backbone_of_other_modalities_is_refused():
    made = codecs()
    backbone = FourM([codec.modality(name) for name, codec in list(made.items())[:2]], 16, 1, 1, 2)
    with pytest.raises(UserError, match="made for other modalities than the codecs are of: 2 are not 4"):
        AnyToAny(backbone, made)
    with pytest.raises(UserError, match="there is no modality 'text'"):
        small_any_to_any(decoders={"text": Autoregressive()})
