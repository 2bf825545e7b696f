"""Vocabularies learnt from texts: special words first, the same each time."""

import json

import pytest

from mmmask.errors import UserError
from mmmask.tokenizers import learn_words

CAPTIONS = [f"{size} {colour} circles" for size in ("small", "Large") for colour in ("red", "green", "blue", "violet")]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "words"])
def test_special_words_come_first_and_alone_are_special(kind):
    words = learn_words(CAPTIONS, 400, kind, sentinels=20)
    ids = words.get_vocab()
    first = ["[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{number}]" for number in range(20))]
    assert sorted(ids, key=ids.get)[:24] == first
    assert [token["content"] for token in json.loads(words.to_str())["added_tokens"]] == first


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "words"])
def test_coordinates_and_classes_are_whole_words(kind):
    words = learn_words(CAPTIONS, 600, kind, sentinels=4, coordinates=12, classes=["Red", "fire engine"])
    ids = words.get_vocab()
    assert [ids[f"v{which}={value}"] for which in range(4) for value in range(12)] == list(range(8, 8 + 48))
    assert (ids["Red"], ids["fire engine"]) == (56, 57)
    assert [token for token in words.encode("red v1=11 Fire Engine").tokens if token != "Ġ"] == [
        "red",
        "v1=11",
        "fire engine",
    ]
    assert {ids["Red"], ids["fire engine"]} <= set(words.encode("red v1=11 Fire Engine").ids)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "words"])
def test_the_same_texts_give_the_same_words(kind):
    assert len({learn_words(CAPTIONS, 340, kind, 4).to_str() for _ in range(4)}) == 1


def test_frequent_words_are_whole_and_lower_case():
    words = learn_words(CAPTIONS, 200, sentinels=20)
    assert words.encode("LARGE Red circles").tokens == ["large", "red", "circles"]
    assert words.encode("darling").tokens == ["d", "##a", "##r", "##l", "##i", "##n", "##g"]


def test_rare_letters_are_unknown_and_the_size_is_kept():
    texts = ["aa bb"] * 9 + [f"a{chr(letter)}" for letter in range(0x4E00, 0x4E00 + 300)]
    words = learn_words(texts, 100, sentinels=20)
    assert words.get_vocab_size() <= 100
    assert words.encode(f"aa {chr(0x4E00 + 299)}").tokens == ["aa", "[UNK]"]
    assert learn_words(texts, 290, "bpe", sentinels=20).encode(chr(0x4E00 + 299)).tokens != ["[UNK]"]


def test_whole_words_are_those_that_occur_often_enough():
    texts = ["a ring, a Ring.", "a small ring", "small, smaller"]
    words = learn_words(texts, 200, "words", sentinels=20, least=2)
    assert sorted(words.get_vocab(), key=words.get_vocab().get)[24:] == ["a", "ring", ",", "small"]
    assert words.encode("a smaller ring, SMALL").tokens == ["a", "[UNK]", "ring", ",", "small"]
    assert words.decode(words.encode("Small, a ring").ids) == "small, a ring"
    assert learn_words(texts, 26, "words", sentinels=20).get_vocab().keys() >= {"a", "ring"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 60}, "a size above 68, got 64 and 60"),
        ({"size": 300, "kind": "bpe"}, "above 324"),
        ({"size": 300, "sentinels": 1}, "2 or more sentinels"),
        ({"size": 300, "coordinates": 60}, "above 308"),
        ({"size": 300, "coordinates": -1}, "0 or more coordinates"),
        ({"size": 300, "classes": ["a", "a"]}, "a class is named 'a'.*each once"),
        ({"size": 300, "classes": ["[S_0]"]}, "in brackets"),
        ({"size": 300, "kind": "letters"}, "choose wordpiece, bpe or words"),
        ({"size": 300, "kind": "words", "least": 0}, "least is 0"),
        ({"size": 300, "least": 2}, "least is 2"),
    ],
)
def test_what_cannot_be_learnt_is_told(settings, message):
    with pytest.raises(UserError, match=message):
        learn_words(CAPTIONS, **settings)
