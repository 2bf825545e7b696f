"""Shards appear whole or not at all, whatever happens while they are written."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from datamodules.index import build, index_path
from datamodules.pack import Skipped, array_bytes, pack
from datamodules.shards import ShardSet
from mmmask import cli
from mmmask.errors import UserError
from mmmask.files import only_writer


def texts(count, size=4):
    return ({"__key__": f"{n:06d}", "txt": b"x" * size} for n in range(count))


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".mmmask.lock")


def start(*arguments, limit=None):
    """The command line in a process of its own, perhaps with no more than `limit` bytes a file."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-m", "mmmask.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=small_files if limit else None,
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_shard_closes_at_its_number_of_samples(tmp_path):
    report = pack(texts(25), tmp_path, "val", samples_per_shard=10)
    assert names(tmp_path) == [f"val-0000{n}.{end}" for n in range(3) for end in ("idx", "tar")]
    assert ShardSet(str(tmp_path)).counts == (10, 10, 5)
    assert report.lines()[0].startswith("wrote 25 samples in 3 shards")


def test_a_shard_closes_at_its_size(tmp_path):
    pack(texts(5, size=600_000), tmp_path, shard_megabytes=1)
    assert ShardSet(str(tmp_path)).counts == (2, 2, 1)


def test_what_was_written_comes_back(tmp_path):
    ids = np.arange(49, dtype=np.uint16).reshape(7, 7)
    pack([{"__key__": "a/one", "npy": array_bytes(ids), "jpg.txt": b"two"}], tmp_path)
    shard = ShardSet(str(tmp_path)).shards[0]
    assert shard.key(0) == "a/one"
    assert shard.read(0, "npy") == array_bytes(ids)
    assert shard.read(0, "jpg.txt") == b"two"


def test_the_same_samples_make_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        pack(texts(10), tmp_path / folder)
    assert build(tmp_path / "one/train-00000.tar").sha256 == build(tmp_path / "two/train-00000.tar").sha256


def test_check_16_and_28_bad_keys_are_skipped_with_their_reason(tmp_path):
    keys = ["fine", "fine", "../../escape", "/root", "with.dot", ""]
    report = pack(({"__key__": key, "txt": b"x"} for key in keys), tmp_path)
    assert report.samples == 1
    assert report.skipped == {"duplicate key": 1, "a key must be a relative path without dots": 4}


def test_skipped_records_are_counted_by_reason_with_the_first_example(tmp_path):
    report = pack([*texts(1), *(Skipped(f"p{n}.jpg", "truncated") for n in range(3))], tmp_path)
    assert report.lines()[1] == "skipped 3: truncated (first: p0.jpg)"


@pytest.mark.parametrize("records", [[], [Skipped("p.jpg", "truncated")]], ids=["empty", "all bad"])
def test_nothing_to_pack_is_an_error_and_leaves_nothing(tmp_path, records):
    with pytest.raises(UserError, match="nothing to pack for 'train': (the source is empty|skipped 1: truncated)"):
        pack(records, tmp_path)
    assert names(tmp_path) == []


def test_existing_shards_are_kept_unless_told_otherwise(tmp_path):
    pack(texts(30), tmp_path, samples_per_shard=10)
    with pytest.raises(UserError, match="already holds 3 shards of 'train'"):
        pack(texts(5), tmp_path)
    assert len(ShardSet(str(tmp_path))) == 30
    pack(texts(5), tmp_path, overwrite=True)
    assert names(tmp_path) == ["train-00000.idx", "train-00000.tar"]


def test_a_source_that_fails_while_overwriting_leaves_the_old_shards(tmp_path):
    def broken():
        yield from texts(5)
        raise UserError("the source broke")

    pack(texts(30), tmp_path, samples_per_shard=10)
    with pytest.raises(UserError, match="the source broke"):
        pack(broken(), tmp_path, samples_per_shard=2, overwrite=True)
    assert len(ShardSet(str(tmp_path))) == 30
    assert len(names(tmp_path)) == 6


def test_a_full_disk_leaves_no_shard(tmp_path):
    process = start("shards", "shapes", tmp_path, "--count", 3000, limit=1 << 20)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("mmmask: cannot write ")
    assert len(errors.splitlines()) == 1
    assert names(tmp_path) == []


def test_ctrl_c_ends_within_two_seconds_and_leaves_no_shard(tmp_path):
    process = start("shards", "shapes", tmp_path, "--count", 1_000_000)
    wait_for(lambda: list(tmp_path.glob(".train.packing/.train-*")))
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - pressed < 2
    assert process.returncode == 130
    assert errors == "mmmask: interrupted\n"
    assert names(tmp_path) == []


def test_after_a_kill_packing_again_works_and_clears_up(tmp_path):
    process = start("shards", "shapes", tmp_path, "--count", 1_000_000)
    wait_for(lambda: list(tmp_path.glob(".train.packing/.train-*")))
    process.kill()
    process.communicate(timeout=60)
    assert not list(tmp_path.glob("*.tar"))
    pack(texts(5), tmp_path)
    assert names(tmp_path) == ["train-00000.idx", "train-00000.tar"]


def test_a_second_process_packing_into_the_folder_is_refused(tmp_path):
    with only_writer(tmp_path):
        process = start("shards", "shapes", tmp_path, "--count", 10)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == (f"mmmask: another process is writing into {tmp_path}. Wait for it, or choose another folder.\n")
    assert names(tmp_path) == []


@contextmanager
def without_permission():
    """Nothing outside /tmp and the like may be written, even by root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("below", ["", "new"])
def test_no_write_permission_is_one_sentence(tmp_path, capsys, below):
    tmp_path.chmod(0o555)
    with without_permission():
        assert cli.main(["shards", "shapes", str(tmp_path / below), "--count", "5"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"mmmask: cannot write into {tmp_path / below}: Permission denied.")
    assert len(errors.splitlines()) == 1


def test_an_index_is_written_before_its_shard_is_seen(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr("pathlib.os.replace", watched)
    pack(texts(3), tmp_path)
    assert seen[-2:] == [index_path(tmp_path / "train-00000.tar").name, "train-00000.tar"]


def test_overwriting_a_split_leaves_those_whose_names_begin_alike(tmp_path):
    pack(texts(3), tmp_path, "train-extra")
    pack(texts(2), tmp_path, "train")
    pack(texts(4), tmp_path, "train", overwrite=True)
    assert names(tmp_path) == ["train-00000.idx", "train-00000.tar", "train-extra-00000.idx", "train-extra-00000.tar"]
    assert len(ShardSet(str(tmp_path / "train-extra-*.tar"))) == 3
