"""The index: build(tar) -> ShardIndex; damage is named, never passed over."""

import gzip
import tarfile

import numpy as np
import pytest
from conftest import sample_fields, write_tar

from datamodules.index import ABSENT, ShardError, build, index_path, load, load_or_build, write


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "train-00000.tar", {f"{n:03d}": sample_fields(n) for n in range(5)})


def test_an_index_survives_the_way_through_its_file(tar):
    index = build(tar)
    write(index, index_path(tar))
    again = load(index_path(tar))
    assert again.all_keys() == ["000", "001", "002", "003", "004"] == [again.key(row) for row in range(5)]
    assert again.fields == ("cls", "jpg", "npy", "txt")
    for name in ("offsets", "sizes", "checksums"):
        assert np.array_equal(getattr(again, name), getattr(index, name))
    assert (again.sha256, again.tar_bytes) == (index.sha256, tar.stat().st_size)


def test_offsets_point_at_the_bytes_of_each_field(tar):
    index, content = build(tar), tar.read_bytes()
    for row in range(5):
        for field, expected in sample_fields(row).items():
            column = index.columns[field]
            start, size = index.offsets[row, column], index.sizes[row, column]
            assert content[start : start + size] == expected


def test_an_absent_field_is_marked(tmp_path):
    samples = {"a": {"jpg": b"1", "txt": b"2"}, "b": {"jpg": b"3"}}
    index = build(write_tar(tmp_path / "x.tar", samples))
    assert index.sizes[1, index.columns["txt"]] == ABSENT


def boundaries(tar):
    with tarfile.open(tar) as archive:
        return [(m.offset, m.offset_data, m.offset_data + m.size) for m in archive]


@pytest.mark.parametrize("where", ["member boundary", "mid-header", "mid-data", "last block"])
def test_check_9_a_truncated_shard_is_named_wherever_it_is_cut(tar, where):
    members = boundaries(tar)
    header, data, end = members[9]
    padded = data + -(-(end - data) // 512) * 512
    cut = {"member boundary": padded, "mid-header": header + 100, "mid-data": (data + end) // 2}
    last = members[-1][2]
    tar.write_bytes(tar.read_bytes()[: cut.get(where, last)])
    with pytest.raises(ShardError, match="truncated") as error:
        build(tar)
    assert str(tar) in str(error.value)


def test_check_9_a_shard_cut_after_indexing_is_named_at_start(tar):
    write(build(tar), index_path(tar))
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(ShardError, match="it was cut or changed"):
        load_or_build(tar)


def test_check_10_a_flipped_bit_in_a_header_is_found_and_located(tar):
    content = bytearray(tar.read_bytes())
    header = boundaries(tar)[8][0]
    content[header + 20] ^= 1
    tar.write_bytes(content)
    with pytest.raises(ShardError, match=f"damaged or truncated at byte {header} "):
        build(tar)


@pytest.mark.parametrize("content", [b"this is a text file\n" * 100, b"\xff" * 5000])
def test_check_11_a_file_that_is_no_tar_is_named(tmp_path, content):
    path = tmp_path / "train-00000.tar"
    path.write_bytes(content)
    with pytest.raises(ShardError, match="train-00000.tar"):
        load_or_build(path)


def test_check_11_missing_and_empty_shards_are_named(tmp_path):
    with pytest.raises(ShardError, match="does not exist"):
        load_or_build(tmp_path / "none.tar")
    (tmp_path / "empty.tar").touch()
    with pytest.raises(ShardError, match="empty"):
        load_or_build(tmp_path / "empty.tar")


@pytest.mark.parametrize("name", ["../../etc/x", "/abs/x", "a/../../x"])
def test_check_16_member_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ShardError, match="leaves its folder"):
        build(write_tar(tmp_path / "x.tar", {name: {"txt": b"1"}}))


def test_check_16_links_are_refused(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ShardError, match="link"):
        build(path)


def test_check_17_compressed_shards_are_refused(tar):
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(ShardError, match="not a plain tar"):
        build(tar)


def test_check_28_a_key_used_twice_is_reported_not_merged(tmp_path):
    path = tmp_path / "x.tar"
    first = write_tar(path, {"a": {"txt": b"1"}}).read_bytes()[:1024]
    second = write_tar(path, {"a": {"txt": b"2"}}).read_bytes()
    path.write_bytes(first + second)
    with pytest.raises(ShardError, match="'a' has the field 'txt' twice"):
        build(path)


def test_a_damaged_index_says_how_to_make_it_again(tar):
    index_path(tar).write_bytes(b"\x10\0\0\0\0\0\0\0not json at all.")
    with pytest.raises(ShardError, match="mmmask shards index"):
        load_or_build(tar)


def test_indexes_of_read_only_folders_are_kept_in_the_cache(tar):
    assert len(load_or_build(tar)) == 5
    assert not index_path(tar).exists()
