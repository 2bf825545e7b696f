"""One file or many: the same checkpoint."""

import os

import pytest
import torch
from processes import sharding, together
from small_task import train

from mmmask.errors import UserError
from tasks.training.conversion import to_full, to_sharded, whole

CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture
def alone(tmp_path):
    """Six steps of one process, with checkpoints at 3 and 6."""
    together(1, train, tmp_path / "alone", steps=3)
    together(1, train, tmp_path / "alone", steps=6, resume=tmp_path / "alone/3.ckpt")
    return tmp_path / "alone"


def load(file):
    return torch.load(file, weights_only=True)


def assert_same(checkpoint, other, **close):
    assert checkpoint.keys() == other.keys()
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "ema"):
        torch.testing.assert_close(checkpoint[part], other[part], **close)


def test_a_file_becomes_a_folder_and_again_the_same_file(tmp_path, alone):
    to_sharded(alone / "3.ckpt", tmp_path / "folder.ckpt")
    to_full(tmp_path / "folder.ckpt", tmp_path / "file.ckpt")
    assert_same(load(tmp_path / "file.ckpt"), load(alone / "3.ckpt"), rtol=0, atol=0)
    assert load(tmp_path / "file.ckpt")["loops"] == load(alone / "3.ckpt")["loops"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@sharding
@pytest.mark.parametrize("form", ["file", "folder"])
def test_one_process_to_sharded_ranks_and_back(tmp_path, alone, form):
    start = alone / "3.ckpt"
    if form == "folder":
        to_sharded(start, tmp_path / "3.ckpt")
        start = tmp_path / "3.ckpt"
    together(2, train, tmp_path / "two", "folder", 2, steps=5, resume=start)
    to_full(tmp_path / "two/5.ckpt", tmp_path / "5.ckpt")
    together(1, train, tmp_path / "end", steps=6, resume=tmp_path / "5.ckpt")
    assert_same(load(tmp_path / "end/6.ckpt"), load(alone / "6.ckpt"), **CLOSE)


@sharding
def test_the_ranks_may_be_more_or_fewer_than_those_that_wrote(tmp_path, alone):
    together(2, train, tmp_path / "run", "folder", 2, steps=3)
    together(3, train, tmp_path / "run", "folder", 3, steps=5, resume=tmp_path / "run/3.ckpt")
    together(1, train, tmp_path / "run", "folder", 1, steps=6, resume=tmp_path / "run/5.ckpt")
    assert_same(whole(tmp_path / "run/6.ckpt"), load(alone / "6.ckpt"), **CLOSE)


@sharding
def test_a_run_that_writes_one_file_writes_what_conversion_makes_of_a_folder(tmp_path):
    for form in ("file", "folder"):
        together(2, train, tmp_path / form, form, 2, steps=3)
    assert_same(whole(tmp_path / "folder/3.ckpt"), load(tmp_path / "file/3.ckpt"), rtol=0, atol=0)


def test_what_cannot_be_converted_is_named(tmp_path, alone):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is no sharded checkpoint: it has no meta.pt"):
        to_full(tmp_path / "empty", tmp_path / "file")
    for convert, source in ((to_full, tmp_path / "empty"), (to_sharded, alone / "3.ckpt")):
        with pytest.raises(UserError, match="6.ckpt exists already: choose another name"):
            convert(source, alone / "6.ckpt")
    with pytest.raises(UserError, match="absent does not exist"):
        to_sharded(tmp_path / "absent", tmp_path / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file/folder: .+ Choose another folder"):
        to_sharded(alone / "3.ckpt", tmp_path / "file/folder")
    os.truncate(alone / "3.ckpt", 100)
    with pytest.raises(UserError, match="3.ckpt is damaged"):
        to_sharded(alone / "3.ckpt", tmp_path / "folder")
