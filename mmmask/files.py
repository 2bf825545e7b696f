"""Files that appear whole or not at all, in folders that have one writer at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from mmmask.errors import UserError


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
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; a second writer is refused at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".mmmask.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process is writing into {folder}. Wait for it, or choose another folder.") from None
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}. Choose another folder.") from error
    try:
        yield
    finally:
        lock.release()  # its file stays: deleting it could let two others in at once
