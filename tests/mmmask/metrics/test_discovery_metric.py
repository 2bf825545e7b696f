"""Scores of discovery: any ids, any number of ranks, what cannot be judged."""

import math

import pytest
import torch
import torch.distributed as dist
from processes import together

from mmmask.errors import UserError
from mmmask.metrics import (
    ClassRow,
    DiscoveryScores,
    adjusted_rand,
    class_table,
    meetings,
    normalized_mutual_information,
)

LABELS = torch.tensor([3, 3, 3, 3, 8, 8, 8, 8, 20, 20])
CLUSTERS = torch.tensor([7, 7, 7, 900, 900, 900, -5, 900, 1, 7])


def scores(clusters=CLUSTERS, labels=LABELS, old=(3,)):
    judge = DiscoveryScores(old)
    judge.update(clusters, labels)
    return {name: value.item() for name, value in judge.compute().items()}


def test_all_old_and_new_under_one_matching_of_any_ids():
    found = scores()
    assert found["all"] == pytest.approx(7 / 10)
    assert found["old"] == pytest.approx(3 / 4)
    assert found["new"] == pytest.approx(4 / 6)
    assert found["balanced_all"] == pytest.approx((3 / 4 + 3 / 4 + 1 / 2) / 3)
    assert found["balanced_old"] == pytest.approx(3 / 4)
    assert found["balanced_new"] == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_names_of_clusters_do_not_matter():
    order = torch.tensor([7, 900, -5, 1])
    again = (CLUSTERS[:, None] == order).int().argmax(1)
    assert scores(again) == scores()


def test_the_table_has_one_row_per_class():
    judge = DiscoveryScores([3])
    judge.update(CLUSTERS, LABELS)
    assert judge.table() == [
        ClassRow(3, True, 4, 7, 3, 4),
        ClassRow(8, False, 4, 900, 3, 4),
        ClassRow(20, False, 2, 1, 1, 1),
    ]


def test_a_class_that_no_cluster_has_anything_of_has_none():
    table = class_table(meetings(torch.tensor([0, 0, 0, 1]), torch.tensor([4, 4, 5, 4])), {4})
    assert table == [ClassRow(4, True, 3, 0, 2, 3), ClassRow(5, False, 1, None, 0, 0)]


def test_what_cannot_be_judged_is_nan():
    found = scores(old=(3, 8, 20))
    assert found["old"] == found["all"]
    assert math.isnan(found["new"])
    assert math.isnan(found["balanced_new"])
    empty = torch.empty(0, dtype=torch.long)
    assert all(math.isnan(value) for value in scores(empty, empty).values())


def test_agreement_of_one_group_and_of_single_samples():
    one, single = torch.zeros(6, dtype=torch.long), torch.arange(6)
    for clusters, labels in ((one, one), (single, single)):
        counts = meetings(clusters, labels).counts
        assert normalized_mutual_information(counts) == pytest.approx(1)
        assert adjusted_rand(counts) == 1
    counts = meetings(one, single).counts
    assert normalized_mutual_information(counts) == pytest.approx(0)
    assert adjusted_rand(counts) == 0


def judged_by_ranks(rank, world, parts, path):
    dist.init_process_group("gloo")
    judge = DiscoveryScores([0, 1])
    for clusters, labels in parts[rank]:
        judge.update(clusters, labels)
    values, table = judge.compute(), judge.table()
    torch.save((values, [tuple(row) for row in table]), path / f"{rank}.pt")
    judge.update(torch.tensor([0]), torch.tensor([0]))  # its state is its own again
    assert sum(map(len, judge.labels)) == 1 + sum(len(labels) for _, labels in parts[rank])
    # The group ends with its process: torch 2.7 hangs at times in destroy_process_group.


def test_ranks_are_judged_together_also_one_without_samples(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    clusters = torch.where(torch.rand(40, generator=generator) < 0.6, 10 * labels, 10 * ((labels + 1) % 4))
    parts = [[(clusters[:5], labels[:5]), (clusters[5:9], labels[5:9])], [], [(clusters[9:], labels[9:])]]
    together(3, judged_by_ranks, 3, parts, tmp_path)
    alone = DiscoveryScores([0, 1])
    alone.update(clusters, labels)
    for rank in range(3):
        values, table = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert values == alone.compute()
        assert table == [tuple(row) for row in alone.table()]


@pytest.mark.parametrize(
    ("clusters", "words"),
    [(torch.zeros(3, dtype=torch.long), "one class for each sample"), (torch.zeros(10), "take the argmax")],
)
def test_mistakes_are_told(clusters, words):
    with pytest.raises(UserError, match=words):
        DiscoveryScores([3]).update(clusters, LABELS)
