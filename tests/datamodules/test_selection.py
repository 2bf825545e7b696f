"""Which samples are seen, how often, and in how many views."""

import json
from collections import Counter

import pytest
import torch

from datamodules import Image, Label, ShardData, Text
from datamodules.selection import Labelled, Where
from mmmask.discovery.protocol import Protocol
from mmmask.errors import UserError

CAPTION = {"caption": Text()}


def fields(number):
    """Of every third sample the class is not known; one in four is for testing."""
    record = {"label": None if number % 3 == 2 else number % 3, "split": "test" if number % 4 == 3 else "train"}
    return {"txt": f"{number} one two three four five".encode(), "json": json.dumps(record).encode()}


@pytest.fixture
def shards(make_shards):
    return make_shards([20, 20], fields=fields)


def keys(loader):
    return [int(key) for batch in loader for key in batch["key"]]


def test_each_stage_sees_the_samples_whose_records_say_so(shards):
    where = {"train": Where("split", ["train"]), "val": Where("split", ["test"]), "predict": Where("label")}
    data = ShardData(shards, CAPTION, val=shards, predict=shards, where=where, val_train=True)
    assert sorted(keys(data.train_dataloader())) == [n for n in range(40) if n % 4 < 3]
    train, val = data.val_dataloader()
    assert keys(train) == [n for n in range(40) if n % 4 < 3]
    assert keys(val) == keys(data.test_dataloader()) == [n for n in range(40) if n % 4 == 3]
    assert keys(data.predict_dataloader()) == [n for n in range(40) if n % 3 < 2]


def test_keys_can_be_named_in_a_file(shards, tmp_path):
    (tmp_path / "keys.txt").write_text("000003\n000027\n")
    data = ShardData(shards, CAPTION, where={"train": Where(keys=tmp_path / "keys.txt")})
    assert sorted(keys(data.train_dataloader())) == [3, 27]


def written(shards, tmp_path, labelled=(0, 3, 6, 1, 4)):
    classes = {f"{n:06d}": n % 3 for n in range(40)}
    Protocol.given(classes, [f"{n:06d}" for n in labelled]).write(tmp_path / "protocol.json")
    return tmp_path / "protocol.json"


def test_labelled_samples_have_their_share_of_what_is_drawn(shards, tmp_path):
    labelled = Labelled(written(shards, tmp_path))
    data = ShardData(shards, CAPTION, labelled=labelled, samples_per_epoch=1024, batch_size=32)
    seen = Counter(keys(data.train_dataloader()))
    assert sum(seen[n] for n in (0, 3, 6, 1, 4)) == 512
    assert set(seen) == set(range(40))
    assert len(keys(ShardData(shards, CAPTION, labelled=labelled).train_dataloader())) == 40


def test_a_protocol_of_other_samples_is_refused(shards, make_shards, tmp_path):
    labelled = Labelled(written(shards, tmp_path))
    few = make_shards([4], "few", fields=fields)
    with pytest.raises(UserError, match="labels 2 samples that are not there, first '000004'"):
        ShardData(few, CAPTION, labelled=labelled).train_dataloader()
    with pytest.raises(UserError, match="made for other training samples than these 27"):
        ShardData(shards, CAPTION, labelled=labelled, where={"train": Where("label")}).train_dataloader()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (Where("label", [7]), "no sample of"),
        (Where("lable"), "'000000': its record, 'json', has no 'lable'"),
        (Where("label", field="jsn"), "Did you mean 'json'"),
    ],
)
def test_a_choice_of_nothing_is_told(shards, where, message):
    with pytest.raises(UserError, match=message):
        ShardData(shards, CAPTION, where={"train": where}).train_dataloader()


def test_views_differ_and_modalities_of_one_view_do_not(make_shards):
    shards = make_shards([8])
    cropped = {"size": 16, "crop": "random", "scale": (0.2, 0.5), "flip": True}
    readers = {"image": Image(**cropped), "same": Image(**cropped), "text": Text(span=(0.3, 0.6)), "label": Label()}
    once = next(iter(ShardData(shards, readers, batch_size=8).train_dataloader()))
    (batch,) = ShardData(shards, readers, batch_size=8, views=2).train_dataloader()
    assert set(batch) == {"key", *readers, "image@1", "same@1", "text@1"}
    assert torch.equal(batch["image@1"], batch["same@1"])
    assert all((batch["image"] != batch["image@1"]).flatten(1).any(1))
    assert torch.equal(batch["image"], once["image"])  # more views change nothing of the first
    assert any(a != b for a, b in zip(batch["text"], batch["text@1"], strict=True))


def test_each_view_says_what_is_absent(make_shards):
    some = lambda n: {"txt": b"a few words"} if n % 2 else {"txt": b"a few words", "cls": b"1 2 3"}  # noqa: E731
    readers = {"text": Text(), "more": Text("cls", drop=0.5)}
    (batch,) = ShardData(make_shards([6], fields=some), readers, missing="mask", views=2).train_dataloader()
    assert batch["present"]["more"].tolist() == batch["present"]["more@1"].tolist()
    assert [bool(text) for text in batch["more@1"]] == batch["present"]["more"].tolist()


def test_views_that_would_be_alike_are_refused(shards):
    with pytest.raises(UserError, match="let a reader draw"):
        ShardData(shards, CAPTION, views=2).train_dataloader()


def test_text_views_are_runs_of_words_with_gaps_and_never_empty(shards):
    words = ["one", "two", "three", "four", "five"]
    data = ShardData(shards, {"text": Text(span=(0.4, 0.8), drop=0.3)}, val=shards, batch_size=40)
    (seen,), (whole,) = data.train_dataloader(), data.val_dataloader()
    lengths = Counter(len(text.split()) for text in seen["text"])
    assert 1 <= min(lengths) < max(lengths) <= 5
    for text in seen["text"]:
        kept = [word for word in text.split() if word in words]
        assert kept == sorted(kept, key=words.index)
    assert all(text.endswith("four five") for text in whole["text"])
    (hard,) = ShardData(shards, {"text": Text(drop=0.999)}, batch_size=40).train_dataloader()
    assert {len(text.split()) for text in hard["text"]} == {1}
