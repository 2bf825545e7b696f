"""The index of a shard: where each field of each sample lies in its tar, with checksums.

A WebDataset tar can lose samples without a word: a damaged header or a cut at a member boundary looks like
its end. The index `train-00000.idx` beside `train-00000.tar` knows what belongs there, and its offsets make
every sample directly readable. It is a safetensors file, read memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from mmmask.errors import UserError
from mmmask.files import written_whole

FORMAT = "mmmask-index-1"
ABSENT = -1
NAME = re.compile(
    r"^((?:.*/)?[^./]+)\.([^/]+)$"
)  # WebDataset's rule: the field starts at the first dot of the file name


class ShardError(UserError):
    """A shard that is damaged or does not hold what it should."""


@dataclass(frozen=True)
class ShardIndex:
    """Where each field of each sample lies: row = sample, column = field; size -1 where a field is absent."""

    fields: tuple[str, ...]
    key_bytes: np.ndarray  # uint8, all keys one after the other
    key_ends: np.ndarray  # (n,) int64
    offsets: np.ndarray  # (n, fields) int64
    sizes: np.ndarray  # (n, fields) int64
    checksums: np.ndarray  # (n, fields) uint32, crc32
    tar_bytes: int
    sha256: str

    def __len__(self) -> int:
        return len(self.key_ends)

    def key(self, row: int) -> str:
        """The key of a sample."""
        start = self.key_ends[row - 1] if row else 0
        return bytes(self.key_bytes[start : self.key_ends[row]]).decode()

    def all_keys(self) -> list[str]:
        """All keys, in the order of the tar."""
        ends = self.key_ends.tolist()
        text = self.key_bytes.tobytes()
        return [text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def columns(self) -> dict[str, int]:
        """Field name -> column."""
        return {field: column for column, field in enumerate(self.fields)}


def index_path(tar: Path) -> Path:
    """`train-00000.tar` -> `train-00000.idx`."""
    return tar.with_suffix(".idx")


def build(tar: Path) -> ShardIndex:
    """Read a tar from end to end and index it; a damaged one raises `ShardError` and says where."""
    rows: dict[str, dict[str, tuple[int, int, int]]] = {}
    size = _size(tar)
    with open(tar, "rb") as stream:
        try:
            members = _members(stream, tar, size)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise ShardError(f"{tar} is not a plain tar file ({error}). Pack it again.") from error
        for name, offset, length in members:
            key, field = _split_name(name, tar)
            stream.seek(offset)
            checksum = zlib.crc32(stream.read(length))
            if field in rows.setdefault(key, {}):
                raise ShardError(f"{tar}: sample '{key}' has the field '{field}' twice. Give each sample its own key.")
            rows[key][field] = (offset, length, checksum)
        stream.seek(0)
        sha256 = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            sha256.update(chunk)
    if not rows:
        raise ShardError(f"{tar} holds no samples. Remove it or pack it again.")
    return _from_rows(rows, size, sha256.hexdigest())


def _members(stream: object, tar: Path, size: int) -> list[tuple[str, int, int]]:
    """(name, offset, size) of every regular file; checks that the archive ends where a tar must end."""
    with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
        members = []
        for member in archive:
            if member.issym() or member.islnk():
                raise ShardError(f"{tar}: '{member.name}' is a link. Shards hold plain files only.")
            if not member.isfile():
                continue
            if member.offset_data + member.size > size:
                raise ShardError(
                    f"{tar} is truncated: '{member.name}' needs {member.offset_data + member.size} bytes, "
                    f"the file has {size}. Copy or pack it again."
                )
            members.append((member.name, member.offset_data, member.size))
        end = archive.offset
    stream.seek(end)  # type: ignore[attr-defined]
    rest = stream.read()  # type: ignore[attr-defined]
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise ShardError(
            f"{tar} is damaged or truncated at byte {end} of {size}, after {len(members)} files: "
            "no end-of-archive mark there. Copy or pack it again."
        )
    return members


def _split_name(name: str, tar: Path) -> tuple[str, str]:
    """'a/000012.depth.npy' -> ('a/000012', 'depth.npy'); refuses names that climb out of a folder."""
    name = name.removeprefix("./")
    if name.startswith(("/", "\\")) or ".." in name.split("/") or "\0" in name:
        raise ShardError(f"{tar}: the member name '{name}' leaves its folder. Refused.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ShardError(f"{tar}: the member name {name!a} is not UTF-8. Pack it again.") from None
    match = NAME.match(name)
    if match is None:
        raise ShardError(f"{tar}: the member name '{name}' is not of the form key.field. Pack it again.")
    return match[1], match[2]


def _from_rows(rows: dict[str, dict[str, tuple[int, int, int]]], size: int, sha256: str) -> ShardIndex:
    fields = tuple(sorted({field for row in rows.values() for field in row}))
    table = np.full((len(rows), len(fields), 3), ABSENT, dtype=np.int64)
    for i, row in enumerate(rows.values()):
        for field, place in row.items():
            table[i, fields.index(field)] = place
    keys = [key.encode() for key in rows]
    return ShardIndex(
        fields=fields,
        key_bytes=np.frombuffer(b"".join(keys), dtype=np.uint8),
        key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
        offsets=np.ascontiguousarray(table[..., 0]),
        sizes=np.ascontiguousarray(table[..., 1]),
        checksums=np.where(table[..., 2] == ABSENT, 0, table[..., 2]).astype(np.uint32),
        tar_bytes=size,
        sha256=sha256,
    )


ARRAYS = (
    "offsets",
    "sizes",
    "key_ends",
    "checksums",
    "key_bytes",
)  # widest first keeps each aligned in the file


def write(index: ShardIndex, path: Path) -> None:
    """Write an index, whole or not at all."""
    metadata = {
        "format": FORMAT,
        "fields": json.dumps(index.fields),
        "tar_bytes": str(index.tar_bytes),
        "sha256": index.sha256,
    }
    with written_whole(path) as stream:
        stream.write(save({name: getattr(index, name) for name in ARRAYS}, metadata))


def load(path: Path) -> ShardIndex:
    """Memory-map an index: nothing but its header is read until it is used."""
    try:
        content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        start = 8 + int(content[:8].view(np.uint64)[0])
        header = json.loads(bytes(content[8:start]))
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']}")
        arrays = {}
        for name in ARRAYS:
            first, last = header[name]["data_offsets"]
            dtype = {"I64": np.int64, "U32": np.uint32, "U8": np.uint8}[header[name]["dtype"]]
            arrays[name] = content[start + first : start + last].view(dtype).reshape(header[name]["shape"])
        return ShardIndex(
            fields=tuple(json.loads(metadata["fields"])),
            tar_bytes=int(metadata["tar_bytes"]),
            sha256=metadata["sha256"],
            **arrays,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{path} is not a readable shard index ({error}). Make it again: mmmask shards index {path.parent}"
        ) from error


def load_or_build(tar: Path) -> ShardIndex:
    """The index beside the tar, or one kept in the user's cache, made now if there is none.

    A tar whose size differs from its index is refused: it was cut or changed after indexing.
    """
    size = _size(tar)
    beside = index_path(tar)
    if beside.is_file():
        index = load(beside)
        if index.tar_bytes != size:
            raise ShardError(
                f"shard {tar} has {size} bytes, its index says {index.tar_bytes}: it was cut or changed. Copy it "
                f"again, or if it is right, run: mmmask shards index {tar.parent}"
            )
        return index
    cached = cache_folder() / "index" / f"{_identity(tar)}.idx"
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        write(build(tar), cached)
    return load(cached)


def _size(tar: Path) -> int:
    """Bytes of a tar; a missing or empty one is an error."""
    if not tar.is_file():
        raise ShardError(f"shard {tar} does not exist. Check the path or pattern.")
    if not (size := tar.stat().st_size):
        raise ShardError(f"shard {tar} is empty (0 bytes). Copy or pack it again.")
    return size


def cache_folder() -> Path:
    """Where indexes of read-only folders and copies of remote shards are kept (MMMASK_CACHE)."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmmask"
    return Path(os.environ.get("MMMASK_CACHE", default))


def _identity(tar: Path) -> str:
    stat = tar.stat()
    return hashlib.sha256(f"{tar.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:32]
