"""Remote shards: fetched whole, once per machine, into a folder of bounded size.

Opening is WebDataset's own (`gopen`: http, https, s3, gs, pipe, ...); here is only the keeping.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock

from datamodules.index import (
    ShardError,
    ShardIndex,
    build,
    cache_folder,
    index_path,
    load,
    load_or_build,
    write,
)
from mmmask.files import written_whole

GIGABYTE = 1 << 30


def is_remote(url: str) -> bool:
    """Whether a URL needs an opener."""
    return url.startswith("pipe:") or (len(urlparse(url).scheme) > 1 and not url.startswith("file:"))


def cache_limit() -> int:
    """Bytes the copies may take: MMMASK_CACHE_GB (default 50)."""
    return int(float(os.environ.get("MMMASK_CACHE_GB", "50")) * GIGABYTE)


def local_copy(url: str) -> Path:
    """The path of a shard; a remote one is fetched if it is not here (one process fetches, others wait)."""
    if not is_remote(url):
        return Path(url.removeprefix("file:"))
    path = _kept(url)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                _fetch(url, path)
                _check_copy(url, path)
                _trim(path)
    with suppress(OSError):
        os.utime(path)  # the least recently used go first
    return path


def open_index(url: str) -> ShardIndex:
    """The index of a shard. Of a remote one the index is fetched alone (it is small); where the server has
    none, the shard is fetched and indexed here."""
    if not is_remote(url):
        return load_or_build(Path(url.removeprefix("file:")))
    path = _kept(url)
    beside = index_path(path)
    if not beside.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not beside.is_file() and not _fetch_index(url, beside):
                _fetch(url, path)
                write(build(path), beside)
                _trim(path)
    return load(beside)


def _kept(url: str) -> Path:
    name = hashlib.sha256(url.encode()).hexdigest()[:24]
    return cache_folder() / "shards" / f"{name}.tar"


def _fetch_index(url: str, path: Path) -> bool:
    """Whether the server has an index beside the shard (then it is here now)."""
    if url.startswith("pipe:") or not url.endswith(".tar"):
        return False
    try:
        _fetch(url.removesuffix(".tar") + ".idx", path, attempts=1)
        load(path)
    except ShardError:
        path.unlink(missing_ok=True)
        return False
    return True


def _fetch(url: str, path: Path, attempts: int = 3) -> None:
    for attempt in range(attempts):
        try:
            with written_whole(path) as target:
                target.writelines(_chunks(url))
                if not target.tell():
                    raise ShardError("nothing came")
            return
        except ShardError as error:
            if attempt + 1 == attempts:
                raise ShardError(
                    f"shard {url} cannot be fetched: {error}. Check the address and the network."
                ) from error
            time.sleep(2**attempt)


def _chunks(url: str) -> Iterator[bytes]:
    from webdataset.gopen import gopen, gopen_schemes

    gopen_schemes.setdefault("s3", _open_s3)  # WebDataset has none of its own
    try:
        with gopen(url) as source:
            while chunk := source.read(1 << 20):
                yield chunk
    except FileNotFoundError as error:
        raise ShardError(f"the program '{error.filename}' is not installed") from error
    except (OSError, ValueError) as error:
        ended = re.search(r"\['(\w+)'.*exit (\d+)", str(error))
        raise ShardError(f"{ended[1]} ended with code {ended[2]}" if ended else str(error)) from error


def _open_s3(url: str, mode: str = "rb", bufsize: int = 8192) -> Any:
    from webdataset.gopen import Pipe

    return Pipe(["aws", "s3", "cp", url, "-"], mode=mode, bufsize=bufsize)


def _check_copy(url: str, path: Path) -> None:
    """A copy that is shorter than its index says was cut on the way."""
    beside = index_path(path)
    if beside.is_file() and load(beside).tar_bytes != path.stat().st_size:
        size = path.stat().st_size
        path.unlink()
        raise ShardError(
            f"shard {url} came with {size} bytes, its index says {load(beside).tar_bytes}. Index it again."
        )


def _trim(newest: Path) -> None:
    """Delete the least recently used copies beyond the limit. Open ones stay readable until closed."""
    copies = sorted(newest.parent.glob("*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in copies:
        total += path.stat().st_size
        if total > cache_limit() and path != newest:
            path.unlink(missing_ok=True)
