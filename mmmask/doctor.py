"""`mmmask doctor`: can this machine train, and with what; every row that is not ok says what to do."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

MALICIOUS = {("lightning", "2.6.2"), ("lightning", "2.6.3")}
EXTRAS = {"parquet": "needed to read Parquet; pip install 'mmmask[parquet]'"}
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One row of the table; `advice` says what a warning or failure means and what to do."""

    what: str
    found: str
    state: Literal["ok", "warn", "fail"] = "ok"
    advice: str = ""


def findings(folder: Path) -> Iterator[Finding]:
    """Everything looked at; `folder` is where runs would be written."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        versions,
        devices,
        faiss,
        memory,
        lambda: disk(folder),
        open_files,
        training_step,
    ]
    for check in checks:
        yield from check()


def can_train(found: list[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.state != "fail" for finding in found)


def versions() -> Iterator[Finding]:
    """Python, what mmmask requires, and its extras: there, new enough, not known to be harmful."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for requirement in map(Requirement, requires("mmmask") or []):
        if _wanted(requirement, extra=""):
            yield package(requirement)
            continue
        for extra, use in EXTRAS.items():
            if _wanted(requirement, extra):
                yield package(requirement, optional=use)


def _wanted(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement holds on this machine, for an installation with this extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def package(requirement: Requirement, optional: str = "") -> Finding:
    """A required package, or one whose absence only costs what `optional` says."""
    name = requirement.name
    try:
        found = version(name)
    except PackageNotFoundError:
        if optional:
            return Finding(name, "not installed", "warn", optional)
        return Finding(name, "missing", "fail", f"pip install '{name}{requirement.specifier}'")
    if (name, found) in MALICIOUS:
        return Finding(name, found, "fail", "this release steals credentials: uninstall it and renew your tokens")
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding(name, found, "fail", f"pip install '{name}{requirement.specifier}'")
    return Finding(name, found)


def devices() -> Iterator[Finding]:
    """Accelerators, and how many cores there are without."""
    import torch

    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: use precision 16-mixed"
        name = torch.cuda.get_device_name(number)
        yield Finding(f"cuda:{number}", f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, {bf16}")
    if torch.backends.mps.is_available():
        yield Finding("mps", "available")
    if not torch.cuda.is_available():
        reason = "built without CUDA" if torch.version.cuda is None else "no device or driver found"
        yield Finding("cuda", reason, "warn", "training runs on the processor: fine for demo and tests, slow beyond")
    yield Finding("processor", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}")


def faiss() -> Iterator[Finding]:
    """Whether nearest neighbours work, and on what."""
    try:
        library = importlib.import_module("faiss")
        import numpy as np

        index = library.IndexFlatL2(4)
        index.add(np.eye(4, dtype=np.float32))
        works = index.search(np.eye(4, dtype=np.float32), 1)[1].ravel().tolist() == [0, 1, 2, 3]
    except Exception as error:  # a broken binary can fail in any way
        yield Finding("faiss", f"does not work ({error})", "fail", "pip install --force-reinstall faiss-cpu")
        return
    gpus = library.get_num_gpus() if hasattr(library, "get_num_gpus") else 0
    where = f"on {gpus} GPUs" if gpus else "on the processor (no GPU)"
    yield Finding("faiss search", f"works {where}") if works else Finding("faiss search", "wrong answers", "fail")


def memory() -> Iterator[Finding]:
    """Free memory, and the part of it that loading workers hand batches over in."""
    if (free := _free_memory()) is not None:
        low = free < 2 * GIB
        yield Finding("memory", f"{free / GIB:.1f} GiB free", "warn" if low else "ok", "close something" if low else "")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        low = free < GIB // 4
        advice = "large batches kill workers: start the container with --shm-size=8g, or set num_workers: 0"
        yield Finding(str(shared), f"{free / GIB:.1f} GiB free", "warn" if low else "ok", advice if low else "")


def _free_memory() -> int | None:
    """Bytes available: the least of what the machine has and what a container allows (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no container, or no limit
    return free


def disk(folder: Path) -> Iterator[Finding]:
    """Room and permission where runs are written, and whether temporary files lie on the same file system."""
    folder = folder.resolve()
    free = shutil.disk_usage(folder).free
    low = free < GIB
    advice = "checkpoints fill it soon: free some space" if low else ""
    yield Finding(f"disk at {folder}", f"{free / GIB:.1f} GiB free", "warn" if low else "ok", advice)
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"x")
    except OSError as error:
        yield Finding("writing there", str(error.strerror), "fail", "change into a folder you may write to")
    temporary = Path(tempfile.gettempdir())
    if temporary.stat().st_dev != folder.stat().st_dev:
        advice = f"a kill while saving can cut a checkpoint short: set TMPDIR to a folder beside {folder}"
        yield Finding("TMPDIR", f"{temporary}, on another file system", "warn", advice)
    else:
        yield Finding("TMPDIR", str(temporary))


def open_files() -> Iterator[Finding]:
    """The limit on open files: each worker keeps up to 128 shards open."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    low = 0 <= limit < 1024
    yield Finding("open files", f"limit {limit}", "warn" if low else "ok", "raise it: ulimit -n 4096" if low else "")


def training_step() -> Iterator[Finding]:
    """One step of a tiny tokenizer on the best device: the proof of all the above."""
    import torch

    from mmmask.tokenizers import CosineQuantizer, ViTTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = ViTTokenizer(CosineQuantizer(8, 4), image_size=8, patch=4, dim=16, heads=2, width=8).to(device)
        images = torch.rand(4, 3, 8, 8, device=device)
        reconstruction = tokenizer(images)
        (reconstruction.images - images).square().mean().add(reconstruction.loss).backward()
        total = sum(float(p.grad.norm()) for p in tokenizer.parameters() if p.grad is not None)
    except Exception as error:  # whatever it is, it is the answer
        yield Finding("a training step", f"failed on {device}: {error}", "fail", "the row above may say why")
        return
    if 0 < total < float("inf"):
        yield Finding("a training step", f"works on {device}")
    else:
        yield Finding("a training step", f"gradients on {device} are {total}", "fail", "reinstall torch")
