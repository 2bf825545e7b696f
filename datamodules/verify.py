"""Reading every byte of a shard set: which sample of which shard is wrong, and how."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules import remote
from datamodules.index import ABSENT, ShardError, ShardIndex, build, index_path, load, load_or_build
from datamodules.readers import PICKLES
from datamodules.shards import Urls, expand


def problems(urls: Urls, each: Callable[[str], None] = lambda url: None) -> Iterator[str]:
    """Every problem of a shard set, as a sentence that names shard and sample; `each` is told of progress."""
    groups = {group: expand(u, "remote") for group, u in (urls.items() if isinstance(urls, Mapping) else [("", urls)])}
    for urls_of_group in groups.values():
        owner: dict[int, str] = {}
        for url in urls_of_group:
            each(url)
            try:
                tar = _local(url)
            except ShardError as error:
                yield str(error)
                continue
            for problem in chain(shard_problems(tar), _repeated_keys(tar, url, owner)):
                yield problem.replace(str(tar), url)
    if len(groups) > 1:
        yield from _misaligned(groups)


def _local(url: str) -> Path:
    """The shard as a local file, with its index beside it; a remote one is fetched."""
    if remote.is_remote(url):
        remote.open_index(url)
    return remote.local_copy(url)


def shard_problems(tar: Path) -> Iterator[str]:
    """What is wrong with one shard: its structure, its checksum, each field of each sample."""
    if not tar.is_file():
        yield f"{tar}: does not exist"
        return
    stored = None
    try:
        stored = load(index_path(tar)) if index_path(tar).is_file() else None
    except ShardError as error:
        yield str(error)
    try:
        index = build(tar)
    except ShardError as error:
        yield str(error)
        if stored is not None:
            yield from _bad_fields(tar, stored)
        return
    if stored is not None and len(stored) != len(index):
        yield f"{tar}: holds {len(index)} samples, its index says {len(stored)}"
    elif stored is not None and stored.sha256 != index.sha256:
        yield f"{tar}: its bytes differ from those that were indexed (sha256)"
    yield from _bad_fields(tar, stored or index)


def _bad_fields(tar: Path, index: ShardIndex) -> Iterator[str]:
    with open(tar, "rb") as stream:
        for row in range(len(index)):
            for field, column in index.columns.items():
                if (size := int(index.sizes[row, column])) == ABSENT:
                    continue
                stream.seek(int(index.offsets[row, column]))
                content = stream.read(size)
                if reason := _wrong(field, content, size, int(index.checksums[row, column])):
                    yield f"{tar}: sample '{index.key(row)}', field '{field}': {reason}"


def _wrong(field: str, content: bytes, size: int, checksum: int) -> str | None:
    """Why the bytes of a field cannot be used, if so."""
    if len(content) < size:
        return f"only {len(content)} of {size} bytes are there"
    if zlib.crc32(content) != checksum:
        return "does not match its checksum"
    kind = field.rpartition(".")[2].lower()
    if kind in PICKLES:
        return "is a pickle, which can run code; it is never read"
    try:
        DECODERS.get(kind, len)(content)
    except Exception as error:  # damaged bytes make the decoders raise all kinds
        return f"cannot be decoded ({error})"
    return None


def _decode_image(content: bytes) -> None:
    Image.open(io.BytesIO(content)).load()


def _decode_array(content: bytes) -> None:
    np.load(io.BytesIO(content), allow_pickle=False)


def _decode_text(content: bytes) -> None:
    if not content.decode().strip():
        raise ValueError("empty text")


DECODERS: dict[str, Callable[[bytes], object]] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), _decode_image),
    "npy": _decode_array,
    "txt": _decode_text,
    "json": json.loads,
    "cls": int,
}


def _repeated_keys(tar: Path, url: str, owner: dict[int, str]) -> Iterator[str]:
    for key in _keys(tar):
        first = owner.setdefault(hash(key), url)
        if first != url:
            yield f"{tar}: sample '{key}' has the same key as one in {first}"


def _keys(tar: Path) -> list[str]:
    """The keys of a shard as indexed; none when there is no index and none can be made."""
    try:
        return (load(index_path(tar)) if index_path(tar).is_file() else load_or_build(tar)).all_keys()
    except ShardError:
        return []


def _misaligned(groups: dict[str, list[str]]) -> Iterator[str]:
    """Samples that one of the aligned folders lacks."""
    if len({len(urls) for urls in groups.values()}) > 1:
        yield "aligned folders have different numbers of shards: " + ", ".join(
            f"{g} {len(u)}" for g, u in groups.items()
        )
        return
    for urls in zip(*groups.values(), strict=True):
        keys = {url: set(_keys(remote.local_copy(url))) for url in urls}
        everything = set().union(*keys.values())
        for url in urls:
            if lacking := sorted(everything - keys[url]):
                yield f"{url}: lacks {len(lacking)} samples that its aligned shards have, the first is '{lacking[0]}'"
