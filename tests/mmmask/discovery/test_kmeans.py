"""k-means that keeps classes together: what it promises about memory, ranks, threads and bad input."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import together

from mmmask.discovery import KMeans
from mmmask.discovery.breathing import breathe, missed_least
from mmmask.discovery.lloyd import Lloyd
from mmmask.discovery.nearest import NearestCentres
from mmmask.discovery.ranks import Ranks
from mmmask.discovery.rows import Rows
from mmmask.errors import UserError
from mmmask.metrics import adjusted_rand, agreement, meetings


def blobs(count=600, k=8, dim=16, seed=0, spread=0.4):
    """Rows, their true classes, and labels: half of the first half of the classes, numbered 10, 20, ..."""
    rng = np.random.default_rng(seed)
    true = np.arange(count) % k
    rows = (rng.normal(size=(k, dim))[true] + spread * rng.normal(size=(count, dim))).astype(np.float32)
    labelled = (true < k // 2) & (rng.random(count) < 0.5)
    return rows, true, np.where(labelled, 10 * (true + 1), -1)


def test_known_classes_come_first_and_new_ones_are_found():
    rows, true, labels = blobs()
    clusters = KMeans(8).fit(rows, labels)
    assert clusters.classes.tolist() == [10, 20, 30, 40]
    assert np.array_equal(clusters.labels[labels > 0], labels[labels > 0] // 10 - 1)
    assert agreement(clusters.labels, true)["all"] > 0.98
    assert np.array_equal(clusters.labels[true < 4], true[true < 4])
    assert np.array_equal(clusters.assign(rows[labels < 0]), clusters.labels[labels < 0])


def test_labelled_rows_stay_with_their_class_wherever_they_lie():
    rows, true, labels = blobs()
    wrong = labels.copy()
    wrong[np.flatnonzero(true == 7)[0]] = 10
    clusters = KMeans(8).fit(rows, wrong)
    assert clusters.labels[np.flatnonzero(true == 7)[0]] == 0


def test_what_is_not_labelled_has_no_effect_and_a_seed_repeats():
    rows, _, labels = blobs(spread=1.0)
    first, again, other = (KMeans(8, seed=seed).fit(rows, labels) for seed in (3, 3, 4))
    assert np.array_equal(first.centres, again.centres)
    assert np.array_equal(first.labels, again.labels)
    assert adjusted_rand(meetings(first.labels, other.labels).counts) > 0.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_blocks_of_a_memory_map_give_the_result_of_the_array(tmp_path, dtype):
    rows, _, labels = blobs(spread=1.0)
    np.save(tmp_path / "features.npy", rows.astype(dtype))
    whole = KMeans(8).fit(rows.astype(dtype), labels)
    blocks = KMeans(8, block=37).fit(tmp_path / "features.npy", labels)
    assert np.array_equal(blocks.labels, whole.labels)
    np.testing.assert_allclose(blocks.centres, whole.centres, rtol=1e-6, atol=1e-7)
    assert blocks.inertia == pytest.approx(whole.inertia, rel=1e-9)


def test_memory_stays_far_below_the_data(tmp_path):
    """64 MB of features in float16 cost less than 40 MB, beyond what an empty run costs."""
    rng = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float16, (2**18, 128))
    for start in range(0, len(rows), 2**14):
        rows[start : start + 2**14] = rng.normal(size=(2**14, 128))
    del rows
    program = """
import resource, sys, numpy as np
from mmmask.discovery import KMeans
anonymous = lambda: next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 1024
KMeans(4).fit(np.random.default_rng(0).normal(size=(100, 128)).astype("f"))
before = anonymous()
clusters = KMeans(8, sample=2000, iterations=2, block=4096, breathing=False).fit(sys.argv[1])
print(anonymous() - before, len(clusters.labels))
"""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "large.npy")], capture_output=True, text=True, check=True
    )
    grown, count = done.stdout.split()
    assert int(count) == 2**18
    assert float(grown) < 40


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_label(threads):
    """Within the stated tolerance: rows as near to one centre as to another, in float32, may differ. None is here."""
    program = """
import sys; sys.path.insert(0, "tests/mmmask/discovery"); sys.path.insert(0, "tests")
import numpy as np, faiss
from test_kmeans import blobs
from mmmask.discovery import KMeans
rows, _, labels = blobs(spread=1.0)
clusters = KMeans(8).fit(rows, labels)
print(faiss.omp_get_max_threads(), f"{clusters.inertia:.3f}", *clusters.labels)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    used, inertia, *found = done.stdout.split()
    rows, _, labels = blobs(spread=1.0)
    here = KMeans(8).fit(rows, labels)
    assert int(used) == threads
    assert float(inertia) == pytest.approx(here.inertia, rel=1e-6)
    assert np.array_equal(np.array(found, dtype=int), here.labels)


def _fit_a_part(rank, expected, sample):
    dist.init_process_group("gloo")
    rows, _, labels = blobs(spread=1.0)
    part = slice(0, 250) if rank == 0 else slice(250, None)  # unequal parts
    clusters = KMeans(8, sample=sample).fit(rows[part], labels[part])
    assert np.array_equal(clusters.labels, expected.labels[part])
    np.testing.assert_allclose(clusters.centres, expected.centres, rtol=1e-6, atol=1e-7)
    assert abs(clusters.inertia - expected.inertia) < 1e-9 * expected.inertia
    assert (clusters.seeding, clusters.passes) == (expected.seeding, expected.passes)


@pytest.mark.parametrize("sample", [None, 300])
def test_two_ranks_find_what_one_does(sample):
    rows, _, labels = blobs(spread=1.0)
    together(2, _fit_a_part, KMeans(8, sample=sample).fit(rows, labels), sample)


def _refuse(rank, damage, sentence):
    dist.init_process_group("gloo")
    rows, _, labels = blobs()
    part = slice(200 * rank, 200 * rank + 200)
    mine = (rows[part], labels[part]) if rank != 1 else damage(rows[part], labels[part])
    with pytest.raises(UserError, match=f"^rank 1: {sentence}"):
        KMeans(8).fit(*mine)
    dist.barrier()  # all came here, and are in step


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda rows, labels: (rows[:0], labels[:0]), "the features: expected rows"),
        (lambda rows, labels: (rows, labels[1:]), "expected a whole number as the label of each of 200 rows"),
        (lambda rows, labels: (np.where(np.arange(200)[:, None] == 7, np.nan, rows), labels), "the features: row 7"),
    ],
)
def test_what_is_wrong_on_one_rank_is_heard_on_all_and_none_waits(damage, sentence):
    together(3, _refuse, damage, sentence)


def test_passes_that_skip_rows_find_the_same_as_passes_over_all():
    rows, _, _ = blobs(2000, k=20, spread=1.5)
    begun = rows[:20]
    pinned = np.full(len(rows), -1)

    class Thorough(Lloyd):
        def _loosen(self, moves):
            self.margins[:] = 0

    runs = [kind(Rows(rows), pinned, NearestCentres(16), Ranks()).run(begun, 300, 0.0) for kind in (Lloyd, Thorough)]
    assert np.array_equal(runs[0].labels, runs[1].labels)
    assert runs[0].passes == runs[1].passes > 5


def test_late_passes_search_few_rows():
    rows, _, _ = blobs(4000, k=20, spread=1.0)
    searched = []

    class Counting(NearestCentres):
        def of(self, rows, count=1):
            searched.append(len(rows))
            return super().of(rows, count)

    search = Counting(16)
    found = Lloyd(Rows(rows), np.full(len(rows), -1), search, Ranks()).run(rows[:20], 300, 0.0)
    assert searched[0] == len(rows)
    assert sum(searched) < 0.7 * found.passes * len(rows)


def test_breathing_lowers_inertia_and_keeps_the_classes():
    rows, _, labels = blobs(2000, k=40, dim=8, spread=0.4)
    plain = KMeans(40, seedings=["published"], breathing=False).fit(rows, labels)
    deep = KMeans(40, seedings=["published"]).fit(rows, labels)
    assert deep.inertia < 0.95 * plain.inertia
    assert np.array_equal(deep.labels[labels > 0], labels[labels > 0] // 10 - 1)


def test_breathing_returns_as_many_clusters():
    rows, _, labels = blobs(60, k=8)
    pinned = np.where(labels > 0, labels // 10 - 1, -1)
    lloyd = Lloyd(Rows(rows), pinned, NearestCentres(16), Ranks())
    found = lloyd.run(rows[:20], 20, 0.0)
    assert breathe(lloyd, found, rows, np.random.default_rng(0)).centres.shape == (20, 16)


def test_spherical_goes_by_angle_alone():
    rows, _, labels = blobs()
    scaled = rows * np.random.default_rng(1).uniform(0.1, 10, (len(rows), 1)).astype(np.float32)
    clusters = KMeans(8, spherical=True).fit(scaled, labels)
    same = KMeans(8, spherical=True).fit(rows, labels)
    # two starts reach the same inertia but for rounding, which then numbers the new clusters
    assert adjusted_rand(meetings(clusters.labels, same.labels).counts) == 1
    np.testing.assert_allclose(np.linalg.norm(clusters.centres, axis=1), 1, rtol=1e-5)
    assert np.array_equal(clusters.assign(scaled[labels < 0]), clusters.labels[labels < 0])


def test_empty_clusters_are_filled_from_the_farthest_rows():
    rows, _, _ = blobs()
    begun = np.concatenate([rows[:4], np.full((4, 16), 50, dtype=np.float32)])
    clusters = KMeans(8).fit(rows, start=begun)
    assert np.bincount(clusters.labels, minlength=8).min() > 0


def test_all_rows_are_used_where_faiss_would_take_256_a_centre():
    rows = np.zeros((2000, 4), dtype=np.float32)
    rows[:1990] = np.random.default_rng(0).normal(size=(1990, 4))
    rows[1990:] = 100
    clusters = KMeans(2, sample=500).fit(rows)
    assert sorted(np.bincount(clusters.labels).tolist()) == [10, 1990]


def test_inertia_is_the_sum_of_squared_distances():
    rows, _, labels = blobs(spread=1.0)
    clusters = KMeans(8).fit(rows, labels)
    gaps = rows.astype(np.float64) - clusters.centres[clusters.labels]
    assert clusters.inertia == pytest.approx((gaps**2).sum(), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows, labels: (rows, labels, 3), "k=3 clusters were asked for, but 4 classes are labelled"),
        (lambda rows, labels: (rows[:6], None, 8), "k=8 clusters were asked for, but there are only 6 rows"),
        (lambda rows, labels: (rows, np.full(600, -1), 8), "none of the rows are labelled"),
        (lambda rows, labels: (rows, np.zeros(600, dtype=int), 8), "all of the rows are labelled"),
        (lambda rows, labels: (rows, labels[:-1], 8), r"each of 600 rows .* found shape \(599,\)"),
        (lambda rows, labels: (rows, labels.astype(float), 8), "found shape .* of float64"),
        (lambda rows, labels: (np.where(np.arange(600)[:, None] == 41, np.nan, rows), labels, 8), "row 41 .* NaN"),
        (lambda rows, labels: (np.where(np.arange(600)[:, None] == 41, 1e30, rows), labels, 8), "row 41 .* too large"),
        (lambda rows, labels: (rows[0], None, 8), r"expected rows of floating-point numbers \(N, D\)"),
        (lambda rows, labels: (np.repeat(rows[:5], 120, axis=0), None, 8), "rows differ in only 5 places: lower K"),
        (lambda rows, labels: ("nowhere.npy", None, 8), "there is no such file"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    features, labels, k = change(*blobs()[::2])
    with pytest.raises(UserError, match=sentence):
        KMeans(k).fit(features, labels)


def test_seedings_that_need_labels_are_refused_without_them():
    rows, _, labels = blobs()
    with pytest.raises(UserError, match="'means' is none of plain where nothing is labelled"):
        KMeans(8, seedings=["means"]).fit(rows)
    with pytest.raises(UserError, match="Did you mean 'matched'"):
        KMeans(8, seedings=["match"]).fit(rows, labels)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("gpu", [True, "shard"])
def test_a_gpu_that_is_not_there_is_refused_where_faiss_would_take_the_cpu(gpu):
    with pytest.raises(UserError, match="FAISS sees none"):
        KMeans(8, gpu=gpu).fit(blobs()[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gpu", [True, "shard"])
def test_gpus_find_what_the_cpu_does(gpu):
    rows, _, labels = blobs(5000, k=20)
    on_gpu, on_cpu = (KMeans(20, gpu=where).fit(rows, labels) for where in (gpu, False))
    assert on_gpu.inertia == pytest.approx(on_cpu.inertia, rel=1e-4)
    assert adjusted_rand(meetings(on_gpu.labels, on_cpu.labels).counts) > 0.99


def test_importing_the_room_does_not_import_faiss():
    program = "import sys, mmmask.discovery; sys.exit('faiss' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_breathing_never_takes_away_a_class_however_little_it_is_missed():
    rows, _, labels = blobs()
    lloyd = Lloyd(Rows(rows), np.where(labels > 0, labels // 10 - 1, -1), NearestCentres(16), Ranks())
    centres = np.concatenate([np.full((4, 16), 50, dtype=np.float32), rows[:8]])  # no row is near the classes
    gone = missed_least(lloyd, centres, rows, 3)
    assert len(set(gone)) == 3
    assert min(gone) >= 4


def test_as_many_clusters_as_known_classes_are_these_classes():
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels = np.where(np.arange(60) < 30, np.arange(60) % 3, -1)
    clusters = KMeans(3).fit(rows, labels)
    assert np.array_equal(clusters.labels[:30], labels[:30])
    assert set(clusters.labels[30:].tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("sample", [None, 20])
@pytest.mark.parametrize("unlabelled", [1, 3])
def test_few_unlabelled_rows_make_new_clusters_too(sample, unlabelled):
    """Each alone, where as many clusters are asked for; a sample must not miss them, nor lack of rows in it refuse."""
    for seed in range(20):
        rows, true, _ = blobs(80, seed=seed)
        labels = true % 5
        free = np.random.default_rng(seed).choice(80, unlabelled, replace=False)
        labels[free] = -1
        clusters = KMeans(5 + unlabelled, sample=sample, seed=seed).fit(rows, labels)
        assert sorted(clusters.labels[free]) == list(range(5, 5 + unlabelled))


def test_each_new_cluster_needs_an_unlabelled_row():
    rows, true, _ = blobs(80)
    labels = np.where(np.arange(80) < 2, -1, true)
    with pytest.raises(UserError, match="8 classes are labelled and 2 rows are not: choose a k from 8 to 10"):
        KMeans(11).fit(rows, labels)
