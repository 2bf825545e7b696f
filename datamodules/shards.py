"""A shard set: tars with their indexes, local or remote, in one folder or one folder per modality."""

from __future__ import annotations

import glob
import os
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from webdataset.shardlists import expand_urls

from datamodules import remote
from datamodules.index import ABSENT, ShardError, ShardIndex
from mmmask.errors import UserError, nearest

Allow = Literal["local", "remote", "pipe"]  # what a URL may reach: files, other machines, any shell command
Urls = str | Sequence[str] | Mapping[str, str | Sequence[str]]


class BadSample(ShardError):
    """One sample that cannot be used; the loader raises or skips it, as asked."""


@dataclass(frozen=True)
class Member:
    """One tar of a shard, and which of its rows belongs to each sample of the shard (-1: absent)."""

    url: str
    group: str  # the modality folder, '' when all fields are in one tar
    index: ShardIndex
    rows: np.ndarray | None = None  # None: row i is sample i

    def row(self, sample: int) -> int:
        """The row of a sample in this tar, -1 when it is absent."""
        return sample if self.rows is None else int(self.rows[sample])

    @cached_property
    def columns(self) -> dict[str, int]:
        """Field as the readers name it -> column of the index."""
        prefix = f"{self.group}." if self.group else ""
        return {prefix + field: column for field, column in self.index.columns.items()}


class Shard:
    """The samples of one tar, or of several aligned tars that hold one modality each."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    def __len__(self) -> int:
        first = self.members[0]
        return len(first.index) if first.rows is None else len(first.rows)

    @property
    def name(self) -> str:
        """What an error message calls this shard."""
        return self.members[0].url

    @cached_property
    def places(self) -> dict[str, tuple[Member, int]]:
        """Field -> (tar, column)."""
        return {field: (member, column) for member in self.members for field, column in member.columns.items()}

    def at(self, samples: np.ndarray) -> Shard:
        """These samples alone, by number."""
        rows = [samples if member.rows is None else member.rows[samples] for member in self.members]
        return Shard([replace(member, rows=own) for member, own in zip(self.members, rows, strict=True)])

    def key(self, sample: int) -> str:
        """The key of a sample."""
        for member in self.members:
            if (row := member.row(sample)) >= 0:
                return member.index.key(row)
        raise IndexError(sample)

    def read(self, sample: int, field: str) -> bytes | None:
        """The bytes of one field, checked against their checksum; None when the sample does not have it."""
        place = self.places.get(field)
        if place is None:
            return None
        member, column = place
        row = member.row(sample)
        if row < 0 or (size := int(member.index.sizes[row, column])) == ABSENT:
            return None
        content = _read_at(member.url, int(member.index.offsets[row, column]), size)
        if zlib.crc32(content) != member.index.checksums[row, column]:
            raise BadSample(
                f"shard {member.url}: sample '{member.index.key(row)}', field '{field}' does not match its "
                "checksum. Copy the shard again (mmmask shards verify lists all bad samples)."
            )
        return content


class ShardSet:
    """Random access to the samples of a list of shards.

    `urls` is a path, a pattern (`train-*.tar`, `train-{00..09}.tar`), a list of them, or a mapping
    modality -> pattern for one folder of aligned tars per modality; then fields are named `modality.field`.
    """

    def __init__(self, urls: Urls, allow: Allow = "local") -> None:
        groups = dict(urls) if isinstance(urls, Mapping) else {"": urls}
        if not groups:
            raise UserError("the list of shards is empty. Name at least one.")
        self._hold(_open_shards({group: expand(url, allow) for group, url in groups.items()}))

    @classmethod
    def of(cls, shards: list[Shard]) -> ShardSet:
        """The set of these open shards."""
        self = cls.__new__(cls)
        self._hold(shards)
        return self

    def _hold(self, shards: list[Shard]) -> None:
        self.shards = shards
        self.counts = tuple(len(shard) for shard in shards)

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def fields(self) -> list[str]:
        """Every field that occurs."""
        return sorted({field for shard in self.shards for field in shard.places})

    @property
    def fingerprint(self) -> str:
        """Changes when the content of any shard does."""
        parts = [member.index.sha256 for shard in self.shards for member in shard.members]
        return f"{len(self)}-{zlib.crc32(''.join(parts).encode()):08x}"

    def require(self, fields: Sequence[str]) -> None:
        """Refuse a field that no shard has, naming the nearest one."""
        known = self.fields
        for field in fields:
            if field not in known:
                raise UserError(
                    f"no sample of {self.shards[0].name} has the field '{field}'; there are: {', '.join(known)}."
                    + nearest(field, known)
                )

    def having(self, fields: Sequence[str]) -> ShardSet:
        """The same without the samples that lack one of these fields."""
        self.require(fields)
        whole = [np.logical_and.reduce([_present(shard, field) for field in fields]) for shard in self.shards]
        if not any(has.any() for has in whole):
            raise ShardError(f"no sample of {self.shards[0].name} has all of: {', '.join(fields)}.")
        return ShardSet.of(
            [shard.at(np.flatnonzero(has)) for shard, has in zip(self.shards, whole, strict=True) if has.any()]
        )

    def missing(self, field: str) -> tuple[int, str | None]:
        """How many samples lack a field, and where the first of them is. Looks at the indexes alone."""
        count, first = 0, None
        for shard in self.shards:
            present = _present(shard, field)
            absent = len(shard) - int(present.sum())
            if absent and first is None:
                first = f"sample '{shard.key(int(np.argmin(present)))}' of {shard.name}"
            count += absent
        return count, first


def _present(shard: Shard, field: str) -> np.ndarray:
    place = shard.places.get(field)
    if place is None:
        return np.zeros(len(shard), dtype=bool)
    member, column = place
    has = np.asarray(member.index.sizes[:, column] != ABSENT)
    return has if member.rows is None else np.where(member.rows >= 0, has[member.rows], False)


def expand(urls: str | Sequence[str], allow: Allow = "local") -> list[str]:
    """Paths, patterns and URLs -> the list of shards they name; an empty match is an error."""
    found: list[str] = []
    for pattern in [urls] if isinstance(urls, str | os.PathLike) else urls:
        named = _named_by(str(pattern), allow) if str(pattern) else []
        if not named:
            raise UserError(f"no shards match '{pattern}'. Check the path; shards are files ending in .tar.")
        found += named
    if not found:
        raise UserError("the list of shards is empty. Name at least one.")
    if doubled := {url for url in found if found.count(url) > 1}:
        raise UserError(f"shard {min(doubled)} is listed twice: its samples would be seen twice per epoch.")
    return found


def _named_by(pattern: str, allow: Allow) -> list[str]:
    """The shards that one path, pattern or URL names."""
    if pattern.startswith("pipe:"):
        if allow != "pipe":
            raise UserError(f"'{pattern}' would run a shell command. Set allow: pipe if you trust it.")
        return [pattern]
    named: list[str] = []
    try:
        urls = expand_urls(pattern)
    except ValueError as error:
        raise UserError(f"the pattern '{pattern}' cannot be read: {error}.") from error
    for url in urls:
        if remote.is_remote(url):
            if allow == "local":
                raise UserError(f"'{url}' is not on this machine. Set allow: remote if you trust it.")
            named.append(url)
        elif Path(url).is_dir():
            named += sorted(str(path) for path in Path(url).glob("*.tar"))
        elif any(letter in url for letter in "*?["):
            named += sorted(glob.glob(url))
        else:
            named.append(url)
    return named


def _open_shards(groups: dict[str, list[str]]) -> list[Shard]:
    """Open all indexes first and report every bad shard at once, before anything is trained."""
    indexes, problems = {}, []
    for url in [url for urls in groups.values() for url in urls]:
        try:
            indexes[url] = remote.open_index(url)
        except ShardError as error:
            problems.append(str(error))
    if problems:
        raise ShardError("\n".join(problems))
    if len({len(urls) for urls in groups.values()}) > 1:
        counts = ", ".join(f"{group}: {len(urls)}" for group, urls in groups.items())
        raise ShardError(f"aligned modalities need the same number of shards each, found {counts}.")
    shards = [
        Shard(_align([Member(url, group, indexes[url]) for group, url in zip(groups, urls, strict=True)]))
        for urls in zip(*groups.values(), strict=True)
    ]
    _refuse_split_samples(shards)
    return shards


def _refuse_split_samples(shards: list[Shard]) -> None:
    """Aligned folders are joined shard by shard: a sample whose modalities lie in different ones would be torn."""
    if all(member.rows is None for shard in shards for member in shard.members):
        return
    owner: dict[str, str] = {}
    for shard in shards:
        for key in (shard.key(row) for row in range(len(shard))):
            if (first := owner.setdefault(key, shard.name)) != shard.name:
                raise ShardError(
                    f"sample '{key}' is in the aligned shards of {first} and of {shard.name}. "
                    "Pack all modalities with the same samples in each shard."
                )


def _align(members: list[Member]) -> list[Member]:
    """Join aligned tars by key; where all keys agree (the usual case) rows are samples already."""
    blobs = {bytes(member.index.key_bytes) + member.index.key_ends.tobytes() for member in members}
    if len(blobs) == 1:
        return members
    keys = list(dict.fromkeys(key for member in members for key in member.index.all_keys()))
    aligned = []
    for member in members:
        row = {key: i for i, key in enumerate(member.index.all_keys())}
        rows = np.array([row.get(key, -1) for key in keys], dtype=np.int64)
        aligned.append(Member(member.url, member.group, member.index, rows))
    own = [set(member.index.all_keys()) for member in members]
    others = [set().union(*own[:i], *own[i + 1 :]) for i in range(len(own))]
    if any(2 * len(mine & rest) < min(len(mine), len(rest)) for mine, rest in zip(own, others, strict=True)):
        names = ", ".join(member.url for member in members)
        raise ShardError(f"the keys of these aligned shards do not belong together: {names}. Check the patterns.")
    return aligned


class _OpenFiles(OrderedDict[str, int]):
    """File descriptors of the shards read last."""

    limit = 128

    def descriptor(self, url: str) -> int:
        if url in self:
            self.move_to_end(url)
            return self[url]
        try:
            self[url] = os.open(remote.local_copy(url), os.O_RDONLY)
        except OSError as error:
            raise ShardError(f"shard {url} cannot be opened: {error.strerror}.") from error
        if len(self) > self.limit:
            os.close(self.popitem(last=False)[1])
        return self[url]


_open_files = _OpenFiles()


def _read_at(url: str, offset: int, size: int) -> bytes:
    content = os.pread(_open_files.descriptor(url), size, offset)
    if len(content) < size:
        raise ShardError(f"shard {url} ends at byte {offset + len(content)}: it was cut while in use. Copy it again.")
    return content
