"""Clustering with known classes: speed, accuracy on real titles, scale.

    python benchmarks/clustering.py --part speed|titles|count|baselines|scale [--seeds 10] [--starts default]
        [--rows 10000000] [--masked] [--data food10-pairs ...] [--breathing]

speed: 20,000 x 768 in 100 classes, 50 of them known, against the published algorithm in torch, in turns. Of that a few
centres and iterations are timed and the rest is extrapolated: each new centre costs in proportion to the centres there
are, each iteration the same, and there are as many as ours needs from the same start. Each side runs in a process of
its own, which tells its memory. What `matched` seeds with is itself a k-means, and counts as seeding.
titles: the 22,716 titles of UPMC-Food-101, 51 of 101 classes known: accuracy by seeding, time and memory. --masked
leaves out of each title the words of its class; labels of new classes so shape what the test reads, and no more.
count: the number of classes by each criterion, on the grid that `mmmask discover` looks at: from the known classes to
four times as many and ten, then closer about the best. Features are those of `mmmask discover` from one field.
baselines: Ward's clustering, alone and after the mean shift of CMS, on the small ones of these sets, K known.
scale: float16 features in a file, memory-mapped (made where it is not; 10,000,000 x 256 are 5 GB), K = 1000.
Labels of new classes are used to judge, and for nothing else. Seconds are of the processor, all threads together:
with OMP_NUM_THREADS=1 those of a quiet machine, also on a busy one.
"""

import argparse
import multiprocessing
import os
import re
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from discovery import truth
from plain_clustering import PlainKMeans
from rich.console import Console, Group
from rich.table import Table
from runs import SETS
from title_features import read_titles, title_vectors, without_class

from datamodules.gathering import gather
from datamodules.shards import ShardSet
from mmmask.discovery import ClassCount, KMeans
from mmmask.discovery.agglomerative import mean_shift, ward
from mmmask.discovery.seeding import SEEDINGS, far_apart
from mmmask.discovery.space import Space, picked
from mmmask.metrics import agreement

OURS = {
    "published seeding": {"seedings": ["published"], "breathing": False},
    "means": {"seedings": ["means"], "breathing": False},
    "matched": {"seedings": ["matched"], "breathing": False},
    "means, breathing": {"seedings": ["means"]},
    "default": {},  # means and matched, both breathing
}
COUNTED = {  # set: its field of pictures, where it is not texts
    "food101-raw": "none",
    "fashion-products": "none",
    "emoji-aligned": "none",
    "food10-pairs": "none",
    "omniglot-strokes": "png",
}


def mixture(count=20_000, dim=768, k=100, seed=0):
    """Rows of length 1 of classes in a subspace of 32 dimensions, with noise in all; and their classes."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, count)
    inner = rng.normal(size=(k, 32))[true] + 0.8 * rng.normal(size=(count, 32))
    rows = inner @ rng.normal(size=(32, dim)) / 32**0.5 + 0.5 * rng.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), true


def half_labelled(true, old, seed=0):
    """-1, but the class of half of the rows of the first `old` classes."""
    return np.where((true < old) & (np.random.default_rng(seed).random(len(true)) < 0.5), true, -1)


def percent(labels, true, given):
    """All, old and new accuracy on the unlabelled rows, in %; old are the classes that have labels."""
    found = agreement(labels[given < 0], true[given < 0], np.unique(given[given >= 0]))
    return [100 * found[part] for part in ("all", "old", "new")]


def peak():
    """The most memory this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(work, *arguments):
    """In a process of its own: what `work` returns, its seconds, those of seeding, and the MB it held beyond before."""
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_measure, args=(sender, work, *arguments))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    return found


def _measure(sender, work, *arguments):
    KMeans(2).fit(np.random.default_rng(0).normal(size=(100, 768)).astype("f"))  # libraries are loaded now
    spent = []

    def timed(seeding):
        def seed(*given, **options):
            start = time.process_time()
            found = seeding(*given, **options)
            spent.append(time.process_time() - start)
            return found

        return seed

    SEEDINGS.update({name: timed(seeding) for name, seeding in SEEDINGS.items()})
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held, start = memory("VmRSS"), time.process_time()
    found = work(*arguments, timed)
    sender.send((found, time.process_time() - start, sum(spent), memory("VmHWM") - held))


def memory(line):
    """Of this process, MB."""
    return int(re.search(rf"{line}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def same_start(rows, given, seed, timed):
    """Ours from the start of the published code; and that start."""
    means = np.stack([rows[given == label].mean(0) for label in range(50)])
    unlabelled = rows[given < 0]
    drawn = timed(far_apart)(unlabelled, means, 50, np.random.default_rng(seed), candidates=1)
    begun = np.concatenate([means, unlabelled[drawn]])
    return KMeans(100, tolerance=0).fit(rows, given, start=begun), begun


def ours(rows, given, seed, name, timed):
    return KMeans(100, seed=seed, **OURS[name]).fit(rows, given)


def published(rows, given, seed, begun, timed):
    """Seconds of three of its centres, each with how many there were, and of two of its iterations."""
    labelled, labels, unlabelled = (torch.from_numpy(p) for p in (rows[given >= 0], given[given >= 0], rows[given < 0]))
    plain = PlainKMeans(100, seed)
    plain.seed(labelled, labels, unlabelled, new=3)
    plain.iterate(labelled, labels, unlabelled, torch.from_numpy(begun), 2)
    return plain.seeding_seconds, plain.iteration_seconds


def speed(options):
    rows, true = mixture()
    given = half_labelled(true, 50)
    table = Table("side", "seed", "s", "seeding s", "MB", "inertia", "All / Old / New", "times as fast", box=None)
    for seed in range(options.seeds):
        (same, begun), *cost = measured(same_start, rows, given, seed)
        sides = {"ours, the same start": (same, *cost)}
        parts, *_, most = measured(published, rows, given, seed, begun)
        seeding, whole = extrapolated(*parts, 50, 100, same.passes)
        sides = {f"published, {same.passes} iterations (extrapolated)": (same, whole, seeding, most), **sides}
        sides |= {name: measured(ours, rows, given, seed, name) for name in options.starts}
        for side, (clusters, seconds, seeding, most) in sides.items():
            numbers = [f"{seconds:.2f}", f"{seeding:.2f}", f"+{most:.0f}", f"{clusters.inertia:.1f}"]
            scores = show(percent(clusters.labels, true, given))
            table.add_row(side, str(seed), *numbers, scores, f"{whole / seconds:.0f}")
    table.caption = f"features: {rows.nbytes / 2**20:.0f} MB; MB: what was held beyond them at most"
    return table


def extrapolated(centres, iterations, old, k, count):
    """Seconds of a whole seeding, and of a whole run."""
    each = np.median([seconds / number for number, seconds in centres])
    seeding = each * np.arange(old, k).sum()
    return seeding, seeding + np.median(iterations) * count


def show(scores):
    return " / ".join(f"{score:.1f}" for score in scores)


def title_rows(masked=False):
    """Features `(22716, 256)`, classes and labels of the titles."""
    titles, classes = read_titles(SETS / "food101-raw" / "upmc_test_titles.csv.gz")
    if masked:
        titles = [without_class(*pair) for pair in zip(titles, classes, strict=True)]
    true = np.unique(classes, return_inverse=True)[1]
    return title_vectors(titles), true, half_labelled(true, 51)


def titles(options):
    rows, true, given = title_rows(options.masked)
    before = peak()
    table = Table("start", "All / Old / New (mean)", "All (range)", "lowest inertia: All", "s a run", "MB", box=None)
    for name in options.starts:
        runs, start = [], time.process_time()
        for seed in range(options.seeds):
            clusters = KMeans(101, seed=seed, **OURS[name]).fit(rows, given)
            runs.append([clusters.inertia, *percent(clusters.labels, true, given)])
        seconds, runs = (time.process_time() - start) / options.seeds, np.array(runs)
        span = f"{runs[:, 1].min():.1f}-{runs[:, 1].max():.1f}, sd {runs[:, 1].std():.1f}"
        best = f"{runs[runs[:, 0].argmin(), 1]:.1f}"
        table.add_row(name, show(runs[:, 1:].mean(0)), span, best, f"{seconds:.1f}", f"+{peak() - before:.0f}")
    table.caption = f"features: {rows.nbytes / 2**20:.0f} MB; MB: growth of the peak of the process so far"
    return table


def set_rows(name):
    """Features `(N, D)`, classes and labels of the training samples of a set that have a class."""
    if name == "food101-raw":
        return title_rows()
    shards = f"{SETS / name}/train-*.tar"
    records = truth(shards)
    samples = gather(ShardSet(shards), pictures=COUNTED[name])
    samples = picked(samples, [row for row, key in enumerate(samples.keys) if key in records])
    (rows,) = Space.fit(samples).parts(samples).values()
    true = np.array([records[key]["label"] for key in samples.keys])
    return rows, true, np.where([records[key]["labelled"] for key in samples.keys], true, -1)


def count(options):
    curves, table = (
        [],
        Table("data", "rows", "known", "true", "accuracy", "range", "silhouette", "stability", "merged", "Brent", "s"),
    )
    for name in options.data:
        rows, true, given = set_rows(name)
        known, classes = len(np.unique(given[given >= 0])), len(np.unique(true))
        start = time.process_time()
        counted = ClassCount(rows, given, options.seeds, KMeans(1, breathing=options.breathing))
        curve = counted.search(known, 4 * known + 10)
        seconds = time.process_time() - start
        found = curve.peaks | {"Brent": int(counted.brent(4 * known + 10)[0])}
        errors = {what: f"{k} ({100 * (k - classes) / classes:+.0f} %)" for what, k in found.items()}
        low, high = curve.range
        numbers = [
            len(rows),
            known,
            classes,
            errors.pop("accuracy"),
            f"{low}-{high}",
            *errors.values(),
            f"{seconds:.0f}",
        ]
        table.add_row(name, *map(str, numbers))
        curves.append(curve_table(name, curve))
    return Group(*curves, table)


def curve_table(name, curve):
    """Means over seeds, and standard deviations."""
    table = Table(f"{name}: K", "labelled accuracy", "merged", "silhouette", "stability", box=None)
    for one in curve.counts:
        criteria = [one.accuracy, curve.merged.get(one.k), one.silhouette, one.stability]
        cells = ("" if values is None else f"{values.mean():.3f} ({values.std():.3f})" for values in criteria)
        table.add_row(str(one.k), *cells)
    return table


def baselines(options):
    table = Table("data", "K", "k-means, labelled rows pinned", "Ward", "CMS's mean shift and Ward (steps)", box=None)
    for name in (name for name in options.data if name != "food101-raw"):  # too many rows for Ward
        rows, true, given = set_rows(name)
        k = len(np.unique(true))
        fits = (KMeans(k, seed=seed).fit(rows, given).labels for seed in range(options.seeds))
        pinned = np.mean([percent(labels, true, given) for labels in fits], 0)
        shifted, steps = mean_shift(rows, given, k)
        alone, after = (show(percent(labels, true, given)) for labels in (ward(rows, k), shifted))
        table.add_row(name, str(k), show(pinned), alone, f"{after} ({steps})")
    return table


def scale(options):
    path = Path(options.file or Path(tempfile.gettempdir()) / f"clustering-{options.rows}.npy")
    if not path.is_file():
        write_features(path, options.rows)
    start, before = time.process_time(), peak()
    clusters = KMeans(1000, restarts=1, seedings=["plain"], breathing=False, iterations=options.iterations).fit(path)
    table = Table("rows", "file MB", "s", "passes", "inertia", "peak MB (before)", box=None)
    numbers = [options.rows, path.stat().st_size / 2**20, time.process_time() - start, clusters.passes]
    table.add_row(*(f"{number:.0f}" for number in numbers), f"{clusters.inertia:.0f}", f"{peak():.0f} ({before:.0f})")
    return table


def write_features(path, count, dim=256, k=1000):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(k, dim)).astype(np.float32)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (count, dim))
    for start in range(0, count, 2**16):
        size = min(2**16, count - start)
        rows[start : start + size] = centres[rng.integers(0, k, size)] + rng.normal(size=(size, dim), scale=1.5)
    rows.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {part.__name__: part for part in (speed, titles, count, baselines, scale)}
    parser.add_argument("--part", choices=parts, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", nargs="+", choices=OURS, default=list(OURS), help="speed, titles: which are run")
    parser.add_argument("--masked", action="store_true", help="titles: without the words of their classes")
    parser.add_argument("--data", nargs="+", choices=COUNTED, default=list(COUNTED), help="count, baselines: the sets")
    parser.add_argument("--breathing", action="store_true", help="count: by clusters that breathe")
    parser.add_argument("--iterations", type=int, default=20, help="scale: at most so many passes")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--file", help="scale: features (.npy) to cluster instead")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    Console(width=160).print(parts[options.part](options))


if __name__ == "__main__":
    main()
