"""Captions there and back, with gaps, and what fills them."""

import copy
import json
import tarfile

import numpy as np
import pytest
import torch

from mmmask.errors import UserError
from mmmask.tokenizers import Words, learn_words

CAPTIONS = [
    "a large red circle in front of a small blue square, bottom left",
    "a small green ring, top",
    "a large yellow cross in front of a small purple triangle, centre",
]


@pytest.fixture(scope="module")
def vocabulary():
    return json.loads(learn_words(CAPTIONS, 200, sentinels=20).to_str())


@pytest.fixture(scope="module")
def words(vocabulary):
    return Words(vocabulary, 32)


def back(codec, data):
    return codec.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))


def changed(vocabulary, names):
    """The same with special words renamed."""
    text = json.dumps(vocabulary)
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return json.loads(text)


def test_captions_come_back(words):
    data = words.encode(CAPTIONS)
    assert back(words, data) == CAPTIONS
    assert data.ids.shape == (3, 32)
    assert (data.length < 32).all()
    assert not data.ids[np.arange(32) >= data.length[:, None]].any()
    assert back(words, words.encode(["A LARGE Red circle"])) == ["a large red circle"]


def test_pairs_of_bytes_can_write_any_text():
    words = Words(json.loads(learn_words(CAPTIONS, 400, "bpe").to_str()), 40)
    assert back(words, words.encode(["naïve hyphen-minus: 😀"])) == ["naïve hyphen-minus: 😀"]


def test_unknown_words_can_be_left_out_where_there_are_others():
    vocabulary = json.loads(learn_words(CAPTIONS, 200, "words", sentinels=20, least=2).to_str())
    texts = ["a zebra in front, ___ zebra", "zebra giraffe", "zebra ___", ""]
    all_words, known = Words(vocabulary, 9), Words(vocabulary, 9, unknown=False)
    assert all_words.encode(texts).length.tolist() == [7, 2, 2, 0]
    data = known.encode(texts)
    assert data.length.tolist() == [5, 1, 1, 0]
    assert data.ids[1, 0] == 1  # a text is there, though nothing of it is known
    assert data.ids[2, 0] == 4
    assert back(known, data) == ["a in front,", "", "", ""]


def test_a_modality_is_a_sequence_with_the_sentinels_of_the_vocabulary(words, vocabulary):
    modality = words.modality("caption")
    assert (modality.kind, modality.length, modality.sentinels) == ("sequence", 32, (4, 24))
    assert modality.vocab_size == len(vocabulary["model"]["vocab"])


def test_long_texts_are_cut_and_empty_ones_absent(vocabulary):
    words = Words(vocabulary, 4)
    data = words.encode([CAPTIONS[0], "", "  ", None, "a"])
    assert data.length.tolist() == [4, 0, 0, 0, 1]
    assert back(words, data) == ["a large red circle", "", "", "", "a"]


def test_gaps_become_sentinels_in_turn(words):
    texts = ["a ___ red circle, ___", "a large red circle", "___", "", "___small_____ring"]
    data = words.encode(texts)
    assert words.gaps(data).tolist() == [2, 0, 1, 1, 2]
    whole = words.encode(["a", "red circle,"]).ids
    assert data.ids[0, :6].tolist() == [whole[0, 0], 4, *whole[1, :3], 5]
    assert back(words, data)[0] == "a red circle,"


def test_an_answer_fills_the_gaps(words):
    known = words.encode(["a ___ red circle, ___", "", "top ___"])
    of = [words.encode([text]).ids[0, : words.encode([text]).length[0]].tolist() for text in ("large", "bottom left")]
    answers = [[4, *of[0], 5, *of[1], 6], [4, *of[1], 5], [4, *of[1], 99]]
    padded = torch.tensor([[*answer, *[0] * (8 - len(answer))] for answer in answers])
    filled = words.fill(known, padded, torch.tensor([6, 4, 3]))
    assert back(words, filled) == ["a large red circle, bottom left", "bottom left", "top bottom left"]


def test_an_answer_out_of_order_or_of_too_much_fills_what_it_can(words):
    known = words.encode(["a ___ red ___ circle"])
    blue = words.encode(["blue"]).ids[0, 0]
    filled = words.fill(known, torch.tensor([[blue, 9, blue, 5, blue, 0, blue]]), torch.tensor([7]))
    assert back(words, filled) == ["a red blue blue circle"]
    filled = words.fill(known, torch.tensor([[4, *[blue] * 60]]), torch.tensor([61]))
    assert filled.length.tolist() == [32]
    assert back(words, filled)[0].endswith("blue red circle")  # what was known stays
    assert (filled.ids[0, 1:20] == blue).all()


def test_letters_that_spell_a_special_word_are_letters(words):
    data = words.encode(["a [S_0] [PAD] ring"])
    used = data.ids[0, : data.length[0]]
    assert ((used == 1) | (used >= 24)).all()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "words"])
def test_coordinates_and_classes_are_words_of_texts_and_control_words_are_not(kind):
    learnt = learn_words(CAPTIONS, 700, kind, sentinels=20, coordinates=60, classes=["traffic light", "dog"])
    words = Words(json.loads(learnt.to_str()), 60)
    box = "v0=5 v1=51 v2=7 v3=59 traffic light"
    ids = words.encode([box]).ids[0]
    for word in ("v0=5", "v1=51", "v2=7", "v3=59", "traffic light"):
        assert words.words.number(word) in ids
    assert back(words, words.encode([box])) == [box]
    assert words.words.number("dog") in words.encode(["a red DOG"]).ids[0]  # classes in any case
    plain = words.encode(["[S_1] [PAD] v0=60 av0=5"])
    assert not set(plain.ids[0, : plain.length[0]]) & {0, *range(2, 24), *map(words.words.number, ("dog", "v0=5"))}


def test_a_copy_encodes_as_the_first_did(words):
    texts = [*CAPTIONS, "a [S_0] ___ ring"]
    assert (copy.deepcopy(words).encode(texts).ids == words.encode(texts).ids).all()


def test_published_texts_end_and_their_gaps_begin_with_the_second_sentinel(vocabulary):
    words, end = Words(vocabulary, 8, published=True), 3
    data = words.encode(["a ___ ring", "a large red circle in front of it", "", " "])
    a, ring = (words.words.encode(text) for text in ("a", "ring"))
    assert data.ids[0, :5].tolist() == [*a, 5, *ring, end, 0]
    assert data.length.tolist() == [4, 8, 0, 0]
    assert end not in data.ids[1]  # cut, as 4M cuts it
    assert words.modality("caption").sentinels == (5, 24)
    assert back(words, words.fill(data, torch.tensor([[5, *a, 6]] * 4), torch.tensor([3] * 4)))[0] == "a a ring"


def test_a_file_of_words_and_its_content_are_the_same(vocabulary, tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps(vocabulary))
    words = Words(path, 32)
    assert words.words.content == vocabulary
    assert (words.encode(CAPTIONS).ids == Words(words.words.content, 32).encode(CAPTIONS).ids).all()


def test_what_is_no_vocabulary_is_told(vocabulary, tmp_path, words):
    (tmp_path / "bad.json").write_text("{")
    for given, message in (
        (tmp_path / "none.json", "cannot read the vocabulary"),
        (tmp_path / "bad.json", "is no JSON"),
        ({"model": 3}, "no file of the tokenizers library"),
        (changed(vocabulary, {"[PAD]": "[x]", "[EOS]": "[PAD]"}), r"\[PAD\] must be word 0"),
        (changed(vocabulary, {"[S_0]": "[x]"}), "has no sentinels"),
        (changed(vocabulary, {"[S_0]": "[x]", "[S_1]": "[S_0]", "[x]": "[S_1]"}), r"and \[S_1\] does not"),
    ):
        with pytest.raises(UserError, match=message):
            Words(given, 8)
    with pytest.raises(UserError, match="has 21 gaps, the vocabulary 20 sentinels"):
        words.encode(["a ___ " * 21])


@pytest.mark.real_data
def test_names_of_emoji_come_back(real_data):
    with tarfile.open(real_data("emoji-aligned") / "test-00000.tar") as tar:
        texts = [tar.extractfile(m).read().decode().strip() for m in tar if m.name.endswith(".txt")]
    words = Words(json.loads(learn_words(texts, 1500).to_str()), 120)
    data = words.encode(texts)
    plain = [text.lower() for text in texts]
    same = ["".join(came.split()) == "".join(text.split()) for came, text in zip(back(words, data), plain, strict=True)]
    assert np.mean(same) > 0.99
    assert np.mean(data.length) < 25
