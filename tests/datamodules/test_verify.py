"""verify.problems(pattern) -> one sentence for each bad sample of each shard."""

from pathlib import Path

import pytest
from conftest import sample_fields, write_tar

from datamodules import verify
from datamodules.index import index_path


def shard(pattern, number=0):
    return Path(pattern.replace("*", f"{number:05d}"))


def test_sound_shards_have_no_problems(make_shards):
    assert list(verify.problems(make_shards([3, 2]))) == []


def test_a_flipped_bit_is_traced_to_its_sample_and_field(make_shards):
    pattern = make_shards([3, 3])
    content = bytearray(shard(pattern, 1).read_bytes())
    content[content.index(b"sample number 4")] ^= 1
    shard(pattern, 1).write_bytes(content)
    found = list(verify.problems(pattern))
    assert any("train-00001.tar: sample '000004', field 'txt': does not match its checksum" in line for line in found)
    assert any("sha256" in line for line in found)
    assert len(found) == 2


def test_a_truncated_shard_lists_the_samples_it_lost(make_shards):
    pattern = make_shards([4])
    content = shard(pattern).read_bytes()
    shard(pattern).write_bytes(content[: content.index(b"000002.txt")])
    found = list(verify.problems(pattern))
    assert any("truncated" in line for line in found)
    assert any("'000003', field 'jpg'" in line for line in found)
    assert not any("'000001'" in line for line in found)


@pytest.mark.parametrize(
    ("field", "content", "reason"),
    [
        ("jpg", b"\xff\xd8 not a jpeg", "cannot be decoded"),
        ("txt", b"  \n", "empty text"),
        ("cls", b"cat", "cannot be decoded"),
        ("json", b"{", "cannot be decoded"),
        ("pyd", b"x", "is a pickle"),
    ],
)
def test_undecodable_fields_are_named(make_shards, field, content, reason):
    pattern = make_shards([2], fields=lambda n: {**sample_fields(n), field: content} if n else sample_fields(n))
    (found,) = verify.problems(pattern)
    assert f"sample '000001', field '{field}'" in found
    assert reason in found


def test_check_28_a_key_in_two_shards_is_reported(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"train-{number:05d}.tar", {"same": sample_fields(number)})
    (found,) = verify.problems(str(tmp_path))
    assert "train-00001.tar: sample 'same' has the same key as one in" in found


def test_misaligned_folders_are_reported(make_shards, tmp_path):
    pattern = make_shards([4], "rgb")
    write_tar(tmp_path / "caption" / "train-00000.tar", {f"{n:06d}": {"txt": b"words"} for n in (0, 1, 3)})
    found = list(verify.problems({"rgb": pattern, "caption": str(tmp_path / "caption")}))
    assert len(found) == 1
    assert "lacks 1 samples that its aligned shards have, the first is '000002'" in found[0]


def test_a_damaged_index_is_reported_and_the_shards_are_read_all_the_same(make_shards):
    pattern = make_shards([2, 2])
    index_path(shard(pattern)).write_bytes(b"no index")
    content = shard(pattern, 1).read_bytes().replace(b"sample number 3", b"sample number X")
    shard(pattern, 1).write_bytes(content)
    found = list(verify.problems(pattern))
    assert any("is not a readable shard index" in line for line in found)
    assert any("'000003', field 'txt'" in line for line in found)
