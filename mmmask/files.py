"""Files that appear whole or not at all, in folders that have one writer at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from mmmask.errors import UserError

LOCK = ".mmmask.lock"


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `path` only when all went well: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        settle(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def settle(folder: Path) -> None:
    """Have the names in a folder on disk, as fsync has the bytes of a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed writers left under temporary names. Only for who is the only writer."""
    for leftover in folder.glob(".*.tmp-*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; a second writer is refused at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process is writing into {folder}. Wait for it, or choose another folder.") from None
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}. Choose another folder.") from error
    try:
        yield
    finally:
        lock.release()  # its file stays: deleting it could let two others in at once
