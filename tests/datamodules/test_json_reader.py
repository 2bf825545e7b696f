"""Values of JSON fields: as they are in the batch, None where there is none."""

import json

import numpy as np
import pytest

from datamodules import Json, ShardData
from datamodules.shards import BadSample

RECORD = {"strokes": [[[1, 2], [3, 4]]], "season": None, "year": 2010}


def read(reader, record):
    return reader.read(json.dumps(record).encode(), np.random.default_rng(0))


def test_a_value_comes_as_it_is():
    assert read(Json("json"), RECORD) == RECORD
    assert read(Json("json", "strokes"), RECORD) == [[[1, 2], [3, 4]]]
    assert read(Json("json", "season"), RECORD) is None
    assert Json("json").collate([[1], None]) == [[1], None]


def test_a_record_without_the_part_is_bad():
    with pytest.raises(BadSample, match="the JSON record has no 'colour'"):
        read(Json("json", "colour"), RECORD)
    with pytest.raises(ValueError):
        Json("json").read(b"{", np.random.default_rng(0))


def test_a_batch_holds_a_list_with_none_where_the_field_is_absent(make_shards):
    def fields(number):
        return {"txt": b"a", **({"json": json.dumps({"n": [number] * number}).encode()} if number != 1 else {})}

    shards = make_shards([4], fields=fields)
    data = ShardData(shards, {"n": Json("json", "n")}, val=shards, batch_size=4, missing="mask")
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch["n"] == [[], None, [2, 2], [3, 3, 3]]
    assert batch["present"]["n"].tolist() == [True, False, True, True]
