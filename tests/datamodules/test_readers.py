"""Readers: the bytes of a field -> a value, and values -> what the batch holds."""

import io

import numpy as np
import pytest
import torch

from datamodules import Array, Label, Text
from datamodules.order import sample_generator
from datamodules.pack import array_bytes
from datamodules.shards import BadSample
from mmmask.errors import UserError


def read(reader, content, draw=0):
    return reader.read(content, sample_generator(0, 0, draw))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_come_as_int64(dtype):
    reader = Array()
    batch = reader.collate([read(reader, array_bytes(np.arange(6, dtype=dtype).reshape(2, 3)))] * 4)
    assert batch.dtype == torch.int64
    assert batch.tolist() == [[[0, 1, 2], [3, 4, 5]]] * 4


def test_numbers_keep_their_type():
    reader = Array()
    values = np.random.default_rng(0).random((3, 2), dtype=np.float32)
    batch = reader.collate([read(reader, array_bytes(values))])
    assert batch.dtype == torch.float32
    assert (batch[0].numpy() == values).all()


def test_what_the_batch_holds_can_be_written_to():
    reader = Array()
    batch = reader.collate([read(reader, array_bytes(np.zeros(3, dtype=np.int64)))])
    batch += 1
    assert batch.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("wrong", [-1, 8])
def test_check_13_ids_outside_the_vocabulary_are_named(wrong):
    with pytest.raises(BadSample, match=f"token id {wrong} lies outside the vocabulary 0..8"):
        read(Array(vocab_size=8), array_bytes(np.array([0, wrong, 7])))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (array_bytes(np.arange(8))[:-8], "where"),
        (array_bytes(np.arange(8)) + b"more", "where"),
        (b"no array", "magic"),
    ],
)
def test_a_damaged_array_is_a_bad_sample(content, words):
    with pytest.raises((BadSample, ValueError), match=words):
        read(Array(), content)


def test_arrays_in_fortran_order_or_another_version_are_refused():
    stream = io.BytesIO()
    np.save(stream, np.asfortranarray(np.eye(3)))
    with pytest.raises(BadSample, match="Fortran order"):
        read(Array(), stream.getvalue())
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.eye(3), version=(2, 0))
    with pytest.raises(BadSample, match="version"):
        read(Array(), stream.getvalue())


def test_arrays_of_different_shapes_cannot_be_one_batch():
    reader = Array()
    values = [read(reader, array_bytes(np.zeros(n))) for n in (2, 3)]
    with pytest.raises(UserError, match="different shapes"):
        reader.collate(values)


def test_text_is_stripped_and_unicode():
    assert read(Text(), "  crème brûlée 🍮\n".encode()) == "crème brûlée 🍮"


def test_empty_text_is_bad_unless_allowed():
    with pytest.raises(BadSample, match="empty text"):
        read(Text(), b" \n ")
    assert read(Text(allow_empty=True), b" \n ") == ""


def test_parts_of_a_json_record_are_texts_and_labels():
    record = b'{"title": "soup", "label": 3, "none": null}'
    assert read(Text("json", part="title"), record) == "soup"
    assert read(Label("json", part="label"), record) == 3
    assert read(Label("json", part="none"), record) == -1
    with pytest.raises(BadSample, match="no 'headline'"):
        read(Text("json", part="headline"), record)


def test_labels_beyond_the_classes_are_bad():
    assert read(Label(num_classes=10), b" 9\n") == 9
    with pytest.raises(BadSample, match="label 10 where there are 10 classes"):
        read(Label(num_classes=10), b"10")
    with pytest.raises(ValueError, match="cat"):
        read(Label(), b"cat")


def test_names_stand_for_the_numbers_they_are_given():
    numbers = {"fruit": 0, "vegetable": 0, "bread": 1, "other": -1}
    group = Label("json", part="group", numbers=numbers)
    found = [read(group, b'{"group": "%s"}' % name.encode()) for name in numbers]
    assert found == [0, 0, 1, -1]
    assert read(group, b'{"group": null}') == -1
    assert read(Label(numbers=numbers), b" bread\n") == 1
    with pytest.raises(BadSample, match="no number for 'breads', only for fruit, vegetable, bread, other.*'bread'"):
        read(group, b'{"group": "breads"}')
    with pytest.raises(BadSample, match="label 1 where there are 1 classes"):
        read(Label(num_classes=1, numbers=numbers), b"bread")


def test_labels_are_a_long_tensor():
    batch = Label().collate([1, -1, 2])
    assert batch.dtype == torch.int64
    assert batch.tolist() == [1, -1, 2]


def test_ids_of_64_bits_without_sign_stay_whole_beside_absent_ones():
    reader = Array()
    there = read(reader, array_bytes(np.array([2**53 + 1], dtype=np.uint64)))
    batch = reader.collate([there, reader.absent(there)])
    assert batch.tolist() == [[2**53 + 1], [-1]]


@pytest.mark.parametrize("array", [np.array(["a"]), np.array(["2020-01-01"], dtype="datetime64[D]")])
def test_arrays_of_other_things_than_numbers_are_bad(array):
    with pytest.raises(BadSample, match="only numbers can be read"):
        read(Array(), array_bytes(array))


def test_labels_and_texts_of_a_json_record_are_not_made_up():
    with pytest.raises(BadSample, match="not a whole number"):
        read(Label("json", part="a"), b'{"a": 2.7}')
    with pytest.raises(BadSample, match="more than 64 bits"):
        read(Label(), b"9223372036854775808")
    with pytest.raises(BadSample, match="empty text"):
        read(Text("json", part="a"), b'{"a": null}')
