"""Shards behind URLs: fetched by WebDataset's openers, kept in a folder of bounded size."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules import remote
from datamodules.index import ShardError, cache_folder, index_path
from datamodules.readers import Text
from datamodules.shard_data import ShardData
from datamodules.shards import ShardSet
from datamodules.verify import problems
from mmmask.errors import UserError


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and notes what was asked for."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *message):
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """A server of `tmp_path/shards` with an empty cache; gives its address and the paths asked for."""
    monkeypatch.setenv("MMMASK_CACHE", str(tmp_path / "cache"))
    Handler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "shards")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Handler.asked
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)


def keys(url, **options):
    data = ShardData(train=url, modalities={"caption": Text()}, batch_size=2, **{"allow": "remote"} | options)
    return sorted(key for batch in data.train_dataloader() for key in batch["key"])


def kept(cache_of="shards"):
    return sorted((cache_folder() / cache_of).glob("*.tar"))


def test_shards_of_a_server_are_read_like_local_ones(make_shards, serve):
    make_shards([3, 4])
    assert keys(serve[0] + "/train-{00000..00001}.tar") == [f"{n:06d}" for n in range(7)]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_shard_is_fetched_once_however_many_read_it(make_shards, serve, workers):
    make_shards([3, 4])
    for _ in range(2):
        keys(serve[0] + "/train-{00000..00001}.tar", num_workers=workers)
    assert sorted(serve[1]) == sorted(f"/train-0000{n}.{end}" for n in range(2) for end in ("idx", "tar"))


def test_counting_samples_fetches_indexes_only(make_shards, serve):
    make_shards([3, 4])
    assert len(ShardSet(serve[0] + "/train-{00000..00001}.tar", "remote")) == 7
    assert all(path.endswith(".idx") for path in serve[1])


def test_a_server_without_indexes_works_too(make_shards, serve, tmp_path):
    make_shards([3])
    index_path(tmp_path / "shards/train-00000.tar").unlink()
    assert len(keys(serve[0] + "/train-00000.tar")) == 3
    assert serve[1] == ["/train-00000.idx", "/train-00000.tar"]


def test_the_cache_stays_below_its_limit_and_keeps_what_was_used_last(make_shards, serve, tmp_path, monkeypatch):
    make_shards([3, 3, 3, 3])
    size = (tmp_path / "shards/train-00000.tar").stat().st_size
    monkeypatch.setenv("MMMASK_CACHE_GB", str(2.5 * size / remote.GIGABYTE))
    copies = []
    for n, moment in ((0, 1000), (1, 2000), (2, 3000), (1, 4000), (3, 5000)):
        copies.append(remote.local_copy(f"{serve[0]}/train-0000{n}.tar"))
        os.utime(copies[-1], (moment, moment))
        assert sum(path.stat().st_size for path in kept()) <= 2.5 * size
    assert kept() == sorted({copies[3], copies[4]})


def test_a_set_larger_than_the_cache_is_still_read_whole(make_shards, serve, tmp_path, monkeypatch):
    make_shards([3, 3, 3, 3])
    size = (tmp_path / "shards/train-00000.tar").stat().st_size
    monkeypatch.setenv("MMMASK_CACHE_GB", str(1.5 * size / remote.GIGABYTE))
    assert keys(serve[0] + "/train-{00000..00003}.tar") == [f"{n:06d}" for n in range(12)]
    assert len(kept()) == 1


def test_a_shard_that_is_not_there_is_named_and_nothing_is_kept(serve, make_shards):
    make_shards([3])
    with pytest.raises(ShardError, match=r"absent\.tar cannot be fetched: curl ended with code 22"):
        keys(serve[0] + "/absent.tar")
    assert list((cache_folder() / "shards").glob("*.tar*")) == []
    assert not any(path.suffix == ".idx" or ".tmp" in path.name for path in (cache_folder() / "shards").iterdir())


def test_a_copy_shorter_than_its_index_says_is_refused(make_shards, serve, tmp_path):
    make_shards([5])
    tar = tmp_path / "shards/train-00000.tar"
    tar.write_bytes(tar.read_bytes()[:-2048])
    with pytest.raises(ShardError, match="came with"):
        keys(serve[0] + "/train-00000.tar")
    assert kept() == []


def test_remote_shards_are_verified_byte_for_byte_under_their_url(make_shards, serve, tmp_path):
    make_shards([3, 3])
    url = serve[0] + "/train-{00000..00001}.tar"
    assert list(problems(url)) == []
    for path in (cache_folder() / "shards").iterdir():
        path.unlink()
    tar = tmp_path / "shards/train-00001.tar"
    content = tar.read_bytes()
    tar.write_bytes(content.replace(b"sample number 4", b"sample numbex 4"))
    (other, sample) = problems(url)
    assert other.startswith(f"{serve[0]}/train-00001.tar: its bytes differ")
    assert "sample '000004', field 'txt': does not match its checksum" in sample


def test_check_18_other_machines_are_asked_only_when_allowed(make_shards, serve):
    make_shards([3])
    with pytest.raises(UserError, match="is not on this machine. Set allow: remote"):
        keys(serve[0] + "/train-00000.tar", allow="local")
    assert serve[1] == []


def test_check_18_a_url_is_never_read_by_a_shell(tmp_path, serve):
    opened = tmp_path / "opened"
    for url in (f"{serve[0]}/x.tar'; touch {opened}; '", f"{serve[0]}/$(touch {opened}).tar"):
        with pytest.raises(ShardError):
            keys([url])
    assert not opened.exists()


def test_s3_urls_are_copied_by_the_aws_command(make_shards, tmp_path, monkeypatch):
    make_shards([3])
    monkeypatch.setenv("MMMASK_CACHE", str(tmp_path / "cache"))
    aws = tmp_path / "bin/aws"
    aws.parent.mkdir()
    aws.write_text(f'#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] && exec cat "{tmp_path}/shards/${{3#s3://bucket/}}"\n')
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", f"{aws.parent}:{os.environ['PATH']}")
    assert len(keys("s3://bucket/train-00000.tar")) == 3


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ShardError, match="the program 'aws' is not installed"):
        keys("s3://bucket/train-00000.tar")


def test_an_address_without_an_opener_is_named():
    with pytest.raises(ShardError, match=r"hdfs://cluster/a\.tar cannot be fetched: .*no gopen handler"):
        keys("hdfs://cluster/a.tar")


def test_file_urls_are_local(make_shards, tmp_path):
    make_shards([3])
    assert len(keys(f"file:{tmp_path}/shards/train-00000.tar", allow="local")) == 3
    assert remote.local_copy("file:/a/b.tar") == Path("/a/b.tar")
