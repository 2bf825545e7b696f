"""`mmmask vocabulary`: from the captions of shards to a vocabulary that codecs read."""

import json

import pytest
import torch

from mmmask import cli
from mmmask.tokenizers import Boxes, Words

CAPTIONS = ["a red circle", "a small blue square", "a RED ring in front of a blue cross", ""]


@pytest.fixture
def shards(make_shards):
    def fields(number):
        text = CAPTIONS[number % 4]
        return {"txt": text.encode(), "json": json.dumps({"title": f"{text} once more"}).encode()}

    return make_shards([5, 7], fields=fields)


def test_the_words_of_captions_are_learnt_and_measured(shards, tmp_path, capsys):
    out = tmp_path / "words.json"
    assert not cli.main(["vocabulary", shards, str(out), "--size", "200", "--sentinels", "12"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("words, 12 of them sentinels, from 9 texts")
    assert lines[1].split()[:2] == ["unknown", "0.00%"]
    assert lines[2] == "length    median 4, 95 % 9, longest 9 (sentinels suffice up to 22)"
    words = Words(out, 22)
    assert words.encode(CAPTIONS).length.tolist() == [3, 4, 9, 0]
    assert words.sentinels == (4, 16)


def test_texts_may_be_a_part_of_records(shards, tmp_path, capsys):
    out = tmp_path / "words.json"
    assert not cli.main(["vocabulary", shards, str(out), "--field", "json", "--part", "title", "--kind", "bpe"])
    assert "from 12 texts" in capsys.readouterr().out
    assert Words(out, 22).encode(["once more"]).length.tolist() == [2]


def test_coordinates_and_classes_are_words(shards, tmp_path, capsys):
    out, names = tmp_path / "words.json", tmp_path / "names.txt"
    names.write_text("traffic light\n\ndog\n")
    options = ["--size", "300", "--sentinels", "12", "--coordinates", "32", "--classes", str(names)]
    assert not cli.main(["vocabulary", shards, str(out), *options])
    assert "12 of them sentinels, 128 of them coordinates, 2 of them classes, from 9" in capsys.readouterr().out
    assert Words(out, 22).encode(["v0=3 v1=4 v2=5 v3=31 traffic light"]).length.tolist() == [5]
    boxes = Boxes(["dog", "traffic light"], size=100, bins=32, vocabulary=out)
    assert boxes.encode(torch.tensor([[[1, 0, 0, 100, 100]]])).length.tolist() == [5]


def test_rare_letters_are_told_as_unknown(make_shards, tmp_path, capsys):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    fields = lambda number: {"txt": f"{'a b ' * 9}{letters[2 + number]}".encode()}  # noqa: E731
    shards = make_shards([30], fields=fields)
    assert not cli.main(["vocabulary", shards, str(tmp_path / "w.json"), "--size", "64", "--sentinels", "2"])
    share = float(capsys.readouterr().out.split("unknown")[1].split("%")[0])
    assert 1 < share < 5.3  # each rare letter is one word of 19


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--field", "text"], "Did you mean 'txt'"),
        (["--field", "json", "--part", "titel"], "sample '000000': the JSON record has no 'titel'"),
        (["--size", "50"], "a size above 68"),
        (["--classes", "none.txt"], "cannot read the classes none.txt"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(shards, tmp_path, capsys, options, message):
    out = tmp_path / "words.json"
    assert cli.main(["vocabulary", shards, str(out), *options]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_is_not_there_is_told_before_anything_is_learnt(shards, tmp_path, capsys):
    assert cli.main(["vocabulary", shards, str(tmp_path / "none" / "words.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err
