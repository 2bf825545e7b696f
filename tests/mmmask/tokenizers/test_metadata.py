"""Records as pairs of words, there and back, with gaps."""

import json

import pytest
import torch

from mmmask.catalogue import METADATA
from mmmask.errors import UserError
from mmmask.tokenizers import Metadata, learn_words

WORDS = json.loads(learn_words(["a"], 300, sentinels=12, coordinates=60).to_str())
ENTRIES = {"brightness": [0, 255, 52], "people": [0, 59, 60], "beauty": [3.5, 5.5, 3]}
FIRST = 4 + 12  # v0=0


@pytest.fixture(scope="module")
def codec():
    return Metadata(WORDS, ENTRIES)


def pair(entry, value):
    return [FIRST + 60 + entry, FIRST + value]


def back(codec, data):
    return codec.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))


def test_a_record_is_a_pair_of_words_and_a_chunk_for_each_entry(codec):
    data = codec.encode([{"beauty": 4.5, "brightness": 102.0}, {"people": 7, "beauty": None}, {}, None])
    assert data.ids[0, :4].tolist() == pair(0, 20) + pair(2, 1)
    assert data.ids[1, :2].tolist() == pair(1, 7)
    assert data.length.tolist() == [4, 2, 0, 0]
    assert data.chunks[0, :4].tolist() == [0, 0, 1, 1]
    modality = codec.modality("record")
    assert (modality.length, modality.vocab_size, modality.sentinels) == (6, codec.words.size, (4, 16))


def test_records_come_back_as_exact_as_their_steps(codec):
    records = [{"brightness": 20.0 * n, "people": n, "beauty": 4.0} for n in range(12)]
    for record, found in zip(records, back(codec, codec.encode(records)), strict=True):
        assert found["people"] == record["people"]
        assert 0 <= record["brightness"] - found["brightness"] < 5
        assert found["beauty"] == 3.5
    again = back(codec, codec.encode(records))
    assert back(codec, codec.encode(again)) == again
    assert back(codec, codec.encode([{"people": -3}, {"people": 1e6}])) == [{"people": 0}, {"people": 59}]


def test_the_entries_of_4m_are_as_the_published_code_numbers_and_bins_them():
    coordinates = json.loads(learn_words(["a"], 4100, sentinels=30, coordinates=1000).to_str())
    codec, told = Metadata(coordinates), {}
    record = {"original_width": 640, "n_humans": 3, "colorfulness": 75.0, "watermark_score": 0.7, "aesthetic_score": 5}
    words = codec.words.decode(codec.encode([record]).ids[0, :10]).split()
    for key, value in zip(words[::2], words[1::2], strict=True):
        told[key] = value
    assert told == {"v1=0": "v0=20", "v1=5": "v0=3", "v1=9": "v0=24", "v1=19": "v0=1", "v1=20": "v0=1"}
    widths = [{"original_width": 32 * n} for n in range(1000)]  # multiples come back as they are
    assert back(codec, codec.encode(widths)) == widths
    assert len(METADATA) == 21


def test_gaps_are_where_entries_lack_and_an_answer_fills_them(codec):
    records = [{"people": 7, "___": ""}, {"___": ""}, {"brightness": 0, "people": 1, "___": ""}]
    known = codec.encode(records)
    assert codec.gaps(codec.encode(records)).tolist() == [2, 1, 1]
    assert known.ids[0, :4].tolist() == [4, *pair(1, 7), 5]
    answer = torch.tensor([[4, *pair(0, 51), 5, *pair(2, 2), 6]] * 3)
    filled = back(codec, codec.fill(known, answer, torch.tensor([7] * 3)))
    assert filled[0] == {"brightness": 255, "people": 7, "beauty": 5.5}
    assert filled[1] == {"brightness": 255}


def test_words_that_make_no_pair_are_left_out(codec):
    words = torch.tensor([[FIRST + 3, *pair(1, 5), FIRST + 61, 9, *pair(1, 8), FIRST + 60]])
    assert codec.decode(words, torch.tensor([8])) == [{"people": 5}]


def test_it_is_typed_as_json_and_shown_in_words(codec, tmp_path):
    (tmp_path / "record.json").write_text('{"people": 2}')
    assert codec.typed(str(tmp_path / "record.json")) == codec.typed('{"people": 2}') == [{"people": 2}]
    assert codec.seen([{"people": 2, "beauty": 4.5}, None]) == ["people 2; beauty 4.5", ""]


def test_what_cannot_be_written_is_told(codec):
    for make, message in (
        (lambda: codec.encode([{"peeple": 3}]), "'peeple' is none of .*Did you mean 'people'"),
        (lambda: codec.typed("{3}"), "is no JSON"),
        (lambda: Metadata(WORDS, {"a": [1, 0, 5]}), r"a is \[1, 0, 5\]; give \[low, high, steps\]"),
        (lambda: Metadata(WORDS, {}), "give entries"),
        (lambda: Metadata(WORDS, {"a": [0, 1, 61]}), "no word 'v0=60'.*--coordinates"),
    ):
        with pytest.raises(UserError, match=message):
            make()
