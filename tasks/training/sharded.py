"""Checkpoints as folders, written and read by all ranks at once.

`meta.pt` is the checkpoint as Lightning makes it, with empty tensors of the device `meta` where something was moved
out of it; what was moved lies in the other files (torch.distributed.checkpoint) under its path in the checkpoint.
Nothing in a folder is keyed by rank or by their number, so it can be read by any number of them.
"""

from __future__ import annotations

import copy
import ctypes
import io
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata

from mmmask.errors import UserError
from mmmask.files import settle, written_whole

META = "meta.pt"
KNOWN = {  # what torch.distributed.checkpoint's own pickle says of tensors; entries of other kinds are unpickled too
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"} | {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath"},
}


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint is such a folder."""
    return (path / META).is_file()


def mapped(value: Any, change: Callable[[tuple[Any, ...], Tensor], Any], path: tuple[Any, ...] = ()) -> Any:
    """The same dicts and lists with `change(path, tensor)` in the place of each tensor."""
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, dict):
        changed = copy.copy(value)  # an OrderedDict with what hangs on it, as state dicts have it
        changed.update({key: mapped(part, change, (*path, key)) for key, part in value.items()})
        return changed
    if type(value) in (list, tuple):
        return type(value)(mapped(part, change, (*path, index)) for index, part in enumerate(value))
    return value


def write(checkpoint: dict[str, Any], folder: Path, moved: Callable[[Tensor], bool], first: bool = True) -> None:
    """Write tensors of which `moved` is true as shards, all else as the `first` rank has it. All ranks must call."""
    shards: dict[str, Tensor] = {}

    def move(path: tuple[Any, ...], tensor: Tensor) -> Tensor:
        if not moved(tensor):
            return tensor
        shards[_key(path)] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    meta = mapped(checkpoint, move)
    with _in_any_number_of_processes():
        dcp.save(shards, storage_writer=dcp.FileSystemWriter(folder))  # fsyncs
    if first:
        absent = [name for name in _files(_Reader(folder).read_metadata()) if not (folder / name).is_file()]
        if absent:
            raise UserError(f"{folder.parent} is not one folder that all machines share ({absent[0]} is not there)")
        with written_whole(folder / META) as stream:
            torch.save(meta, stream)


def read(folder: Path, place: Callable[[tuple[Any, ...], Tensor], Tensor | None]) -> dict[str, Any]:
    """Read a checkpoint; `place(path, empty)` gives the tensor to read each shard into, or None to leave it out."""
    places: dict[str, Tensor] = {}

    def fill(path: tuple[Any, ...], tensor: Tensor) -> Tensor:
        if not tensor.is_meta or (found := place(path, tensor)) is None:
            return tensor
        places[_key(path)] = found
        return found

    try:
        _Reader(folder).read_metadata()  # or torch would hide its complaint
        checkpoint = mapped(torch.load(folder / META, map_location="cpu", weights_only=True), fill)
        with _in_any_number_of_processes():
            dcp.load(places, storage_reader=_Reader(folder))
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {folder} holds Python objects, which can run code: it is not loaded.") from error
    except (dcp.CheckpointException, RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"checkpoint {folder} is damaged ({reason(error)}). Take an older one.") from error
    return checkpoint


def take_place(new: Path, target: Path) -> None:
    """Give `new` the name `target`. Whatever had it is gone afterwards, and until then it is there."""
    if os.path.lexists(target):
        _exchange(new, target)
        shutil.rmtree(new) if new.is_dir() and not new.is_symlink() else new.unlink()
    else:
        new.rename(target)
    settle(target.parent)


def reason(error: BaseException) -> str:
    """The first line of what went wrong first, on whichever rank."""
    if isinstance(error, dcp.CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class _Reader(dcp.FileSystemReader):
    """Refuses a table of contents that holds anything but tensors: torch unpickles it, and all it names, blindly."""

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        _Unpickler(io.BytesIO((Path(self.path) / ".metadata").read_bytes())).load()
        return super().read_metadata()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _files(metadata: Metadata) -> set[str]:
    return {info.relative_path for info in metadata.storage_data.values()}


def _key(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


@contextmanager
def _in_any_number_of_processes() -> Iterator[None]:
    """torch warns when there is only one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _exchange(one: Path, other: Path) -> None:
    """Swap two names: on Linux at once, elsewhere (and on NFS) one after the other."""
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, flag_exchange = -100, 2
    swap = getattr(libc, "renameat2", None)
    if swap is None or swap(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), flag_exchange):
        before = other.with_name(f"{other.name}.before")
        other.rename(before)
        one.rename(other)
        before.rename(one)
