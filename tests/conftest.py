"""Fixtures shared by all tests: tiny real shards, the real data sets, a cache of their own."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.index import build, index_path, write
from datamodules.pack import array_bytes

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("MMMASK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def real_data():
    """A function that finds a real data set, or skips the test with the reason."""

    def find(name):
        folder = Path(os.environ.get("MMMASK_DATA", ROOT.parent / "shared" / "data")) / name
        if not folder.is_dir():
            pytest.skip(f"real data set {name} is not at {folder} (set MMMASK_DATA)")
        return folder

    return find


def jpeg(seed, side=32):
    """A real JPEG with its own content."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(stream, "JPEG")
    return stream.getvalue()


def sample_fields(number):
    """The fields of sample `number`."""
    return {
        "jpg": jpeg(number),
        "txt": f"sample number {number}".encode(),
        "cls": str(number % 3).encode(),
        "npy": array_bytes(np.full(4, number, dtype=np.uint16)),
    }


def write_tar(path, samples):
    """A plain tar of {key: {field: bytes}}, without an index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, fields in samples.items():
            for field, content in fields.items():
                member = tarfile.TarInfo(f"{key}.{field}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def make_shards(tmp_path):
    """Write shards with the given numbers of samples, indexed; returns their pattern."""

    def make(counts, folder="shards", fields=sample_fields):
        first = 0
        for shard, count in enumerate(counts):
            samples = {f"{n:06d}": fields(n) for n in range(first, first + count)}
            path = write_tar(tmp_path / folder / f"train-{shard:05d}.tar", samples)
            write(build(path), index_path(path))
            first += count
        return str(tmp_path / folder / "train-*.tar")

    return make
