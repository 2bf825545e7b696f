"""Real processes, joined by gloo: ranks share an epoch exactly, also when their number changes on the way."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from training_run import epochs_seen, steps_seen, train

pytestmark = pytest.mark.slow
ALL = [f"{n:06d}" for n in range(31)]  # 31 samples, in batches of 2 a rank


def run(shards, folder, ranks, workers, **options):
    train(
        shards,
        folder,
        folder.with_suffix(".log"),
        workers=workers,
        batch_size=2,
        devices=ranks,
        strategy="ddp_fork" if ranks > 1 else "auto",
        **options,
    )


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_check_26_every_sample_once_per_epoch_and_as_many_batches_on_every_rank(make_shards, tmp_path, ranks, workers):
    shards = make_shards([14, 17])  # fewer shards than ranks and workers
    folder, log = tmp_path / "run", tmp_path / "run.log"
    run(shards, folder, ranks, workers, steps=-1, max_epochs=1)
    run(shards, folder, ranks, workers=0, steps=-1, max_epochs=2)
    assert epochs_seen(log) == {0: ALL, 1: ALL}
    assert all(sorted(seen) == list(range(ranks)) for seen in steps_seen(log).values())


def test_an_epoch_with_fewer_samples_left_than_ranks_ends_and_the_next_is_whole(make_shards, tmp_path):
    shards = make_shards([14, 17])
    folder = tmp_path / "run"
    run(shards, folder, ranks=1, workers=1, steps=15)  # 30 of 31 samples
    run(shards, folder, ranks=3, workers=1, steps=-1, max_epochs=2)
    seen = epochs_seen(tmp_path / "run.log")
    assert (len(seen[0]), seen[1]) == (30, ALL)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_another_number_of_ranks_goes_on_with_the_rest_of_the_epoch(make_shards, tmp_path, before, after, stop):
    shards = make_shards([14, 17])
    folder = tmp_path / "run"
    run(shards, folder, before, workers=1, steps=stop)
    run(shards, folder, after, workers=1, steps=-1, max_epochs=3)
    assert epochs_seen(tmp_path / "run.log") == {0: ALL, 1: ALL, 2: ALL}
