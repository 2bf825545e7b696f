"""Loading speed against a plain WebDataset pipeline, interleaved in one process.

    python benchmarks/loading.py [--samples 4000] [--rounds 5] [--workers 2]

Three loads: JPEG 256 px to a random crop of 128 and of 64 px, and arrays of 256 tokens. Both sides read the same
shards with the same batch size and number of workers, crop the same way and return the same batches. Printed are
the medians over the rounds, the ratio of each pair of rounds, and how much of the limit set by decoding alone
(one process per worker that only decodes and crops) each side reaches.
"""

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image as Pillow
from rich.console import Console
from rich.table import Table
from runs import SETS
from torchvision.transforms import v2

from datamodules import Array, Image, Label, ShardData
from datamodules.order import sample_generator
from datamodules.pack import array_bytes, pack
from datamodules.shapes_world import ShapesWorld

BATCH = 64


def photographs():
    """256 px photographs: those of food101-raw where they are, else drawn scenes with grain."""
    archive = SETS / "food101-raw" / "food-101-layout.tar"
    if archive.is_file():
        with tarfile.open(archive) as tar:
            members = [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]
        return [Pillow.open(io.BytesIO(member)).convert("RGB") for member in members]
    grain = np.random.default_rng(0).normal(0, 8, (256, 256, 3))
    scenes = ShapesWorld(size=256).scenes(np.arange(100)).rgb
    return [Pillow.fromarray((scene + grain).clip(0, 255).astype(np.uint8)) for scene in scenes]


def image_samples(count):
    """JPEGs of 256 x 256 cut out of the photographs."""
    sources, rng = photographs(), np.random.default_rng(0)
    for n in range(count):
        source = sources[n % len(sources)]
        side = min(source.size)
        left, top = (int(rng.integers(0, edge - side + 1)) for edge in source.size)
        picture = source.resize((256, 256), Pillow.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=90)
        yield {"__key__": f"{n:07d}", "jpg": stream.getvalue(), "cls": str(n % 10).encode()}


def token_samples(count):
    """256 token ids a sample."""
    rng = np.random.default_rng(0)
    for n in range(count):
        ids = rng.integers(0, 1024, 256).astype(np.uint16)
        yield {"__key__": f"{n:07d}", "npy": array_bytes(ids), "cls": str(n % 10).encode()}


def mmmask_loader(shards, reader, workers):
    """What this project offers."""
    modalities = {"value": reader, "label": Label()}
    return ShardData(shards, modalities, batch_size=BATCH, num_workers=workers).train_dataloader()


def plain_loader(shards, size, workers):
    """The pipeline of WebDataset's own documentation: shuffle, decode, transform, batch in the loader."""
    paths = sorted(str(path) for path in Path(shards).parent.glob("*.tar"))
    field = "jpg" if size else "npy"
    dataset = wds.WebDataset(paths, shardshuffle=len(paths), seed=0).shuffle(1000).decode("pil").to_tuple(field, "cls")
    if size:
        crop = v2.Compose(
            [v2.RandomResizedCrop(size, (0.3, 1.0), (1.0, 1.0)), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        )
        dataset = dataset.map_tuple(crop, int)
    else:
        dataset = dataset.map_tuple(lambda ids: torch.from_numpy(ids.astype(np.int64)), int)
    return torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=workers)


def one_epoch(make):
    """(seconds to the first batch, samples a second after it, proportional memory of a worker in MB)."""
    start = time.perf_counter()
    iterator = iter(make())
    first = next(iterator)
    begun = time.perf_counter()
    seen, memory, measuring = 0, 0.0, 0.0
    for number, batch in enumerate(iterator):
        seen += len(batch["key"]) if isinstance(batch, dict) else len(batch[1])
        if number == 30:  # in full swing; looking takes milliseconds, which are not the loader's
            look = time.perf_counter()
            memory = worker_memory()
            measuring = time.perf_counter() - look
    del first
    return begun - start, seen / (time.perf_counter() - begun - measuring), memory


def worker_memory():
    """Mean proportional set size of the child processes, MB (Linux)."""
    sizes = []
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children:
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
            sizes.append(int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024)
    except (OSError, StopIteration):
        return 0.0
    return sum(sizes) / len(sizes) if sizes else 0.0


def decode_alone(job):
    """Samples a second that one process decodes and crops, without reading, batching or handing over."""
    contents, reader = job
    start = time.perf_counter()
    for n, content in enumerate(contents):
        reader.read(content, sample_generator(0, 0, n))
    return len(contents) / (time.perf_counter() - start)


def limit(samples, field, reader, workers):
    """What decoding alone allows with this many processes at once."""
    contents = [sample[field] for sample in samples]
    with ProcessPoolExecutor(workers) as pool:
        return sum(pool.map(decode_alone, [(contents, reader)] * workers))


def compare(name, folder, samples, field, reader, size, options, table):
    """Measure both sides in turn and add a row for each."""
    pack(iter(samples), folder, samples_per_shard=max(BATCH, len(samples) // 8))
    shards = str(folder / "train-*.tar")
    sides = {
        "mmmask": lambda: mmmask_loader(shards, reader, options.workers),
        "webdataset": lambda: plain_loader(shards, size, options.workers),
    }
    for make in sides.values():
        one_epoch(make)
    rounds = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, make in sides.items():
            rounds[side].append(one_epoch(make))
    alone = limit(samples[:2000], field, reader, max(options.workers, 1))
    ratios = [ours[1] / theirs[1] for ours, theirs in zip(rounds["mmmask"], rounds["webdataset"], strict=True)]
    for side, measured in rounds.items():
        first, rate, memory = (statistics.median(column) for column in zip(*measured, strict=True))
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if side == "mmmask" else ""
        share = f"{rate / alone:.0%}"
        table.add_row(name, side, f"{rate:,.0f}", ratio, share, f"{first:.2f}", f"{memory:.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4000, help="images (ten times as many token arrays)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("load", "side", "samples/s", "ratio (range)", "of decode limit", "first batch s", "MB/worker")
    table = Table(*columns, box=None)
    images, tokens = list(image_samples(options.samples)), list(token_samples(options.samples * 10))
    with tempfile.TemporaryDirectory() as folder:
        for size in (128, 64):
            reader = Image(size=size, crop="random", scale=(0.3, 1.0), flip=True)
            compare(f"jpeg 256 -> {size}", Path(folder) / str(size), images, "jpg", reader, size, options, table)
        compare("256 tokens", Path(folder) / "tokens", tokens, "npy", Array(vocab_size=1024), 0, options, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
