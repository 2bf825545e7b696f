"""The number of classes: curves over K, cached, with a range that holds the truth where classes are apart."""

import numpy as np
import pytest
from test_kmeans import blobs

from mmmask.discovery import ClassCount, KMeans
from mmmask.discovery.class_count import Count, Curve, silhouette, ward_merges
from mmmask.errors import UserError


def test_the_range_holds_the_truth_and_the_curves_peak_there():
    rows, _, labels = blobs(1000, k=12, spread=0.3)
    counted = ClassCount(rows, labels)
    curve = counted.sweep([6, 8, 10, 12, 14, 18])
    low, high = curve.range
    assert low <= 12 <= high < 18
    assert curve.best == 12
    assert max(curve.counts, key=lambda count: count.silhouette.mean()).k == 12
    assert counted.at(12).stability.min() > 0.95 > counted.at(18).stability.mean()
    assert counted.at(12).accuracy.shape == (3,)


def test_labels_of_new_classes_are_never_looked_at():
    rows, true, labels = blobs(300)
    assert set(np.unique(labels)) == {-1, 10, 20, 30, 40}  # what is given: nothing of classes 4 to 7
    one, other = (ClassCount(rows, labels, seeds=2).at(8) for _ in range(2))
    assert np.array_equal(one.accuracy, other.accuracy)
    labelled = labels > 0
    found = KMeans(8, breathing=False).fit(rows)
    pairs = {(a, b) for a, b in zip(found.labels[labelled], true[labelled], strict=True)}
    assert one.accuracy[0] == pytest.approx(1.0 if len(pairs) == 4 else one.accuracy[0])


def test_merging_too_many_clusters_finds_the_classes_again():
    rows, _, labels = blobs(1000, k=12, spread=0.3)
    accuracies = ClassCount(rows, labels).merged(40)
    assert list(accuracies) == list(range(6, 40))
    assert accuracies[12].tolist() == [1, 1, 1]
    assert accuracies[39].max() < 0.7


def test_merged_clusters_are_those_of_the_sweep_each_made_once():
    made = []

    class Noting(ClassCount):
        def _cluster(self, k, seed):
            made.append((k, seed))
            return super()._cluster(k, seed)

    rows, _, labels = blobs(1000, k=12, spread=0.3)
    counted = Noting(rows, labels, seeds=2)
    curve = counted.sweep([8, 12, 40])
    assert list(curve.merged) == list(range(8, 40))  # from the least that was asked for
    assert curve.merged[12].tolist() == [1, 1]
    assert curve.peaks == {"accuracy": 12, "silhouette": 12, "stability": 12, "merged": 12}
    counted.brent(40)
    counted.merged(12)
    assert len(made) == len(set(made))
    assert {seed for k, seed in made if k not in (8, 12, 40)} <= {0}  # Brent's search needs one


def test_a_search_looks_closer_about_the_best():
    rows, _, labels = blobs(1000, k=12, spread=0.3)
    ks = [count.k for count in ClassCount(rows, labels, seeds=1).search(6, 48, steps=4).counts]
    assert ks == [6, 12, 24, 48]  # half of 4 steps are the ends of 6 to 24
    ks = [count.k for count in ClassCount(rows, labels, seeds=1).search(6, 48, steps=6).counts]
    assert ks == [6, 9, 14, 15, 21, 32, 48]  # 9, 15 and 21 about 14


def test_as_many_classes_as_labelled_ones_leave_nothing_to_merge():
    rows, _, labels = blobs()
    curve = ClassCount(rows, labels, seeds=1).sweep([4])
    assert curve.merged == {}
    assert curve.peaks == {"accuracy": 4, "silhouette": 4, "stability": 4}


def test_merges_join_what_raises_inertia_least():
    rows = np.array([[0.0], [1], [10], [11], [30]], dtype=np.float32)
    clusters = KMeans(5, breathing=False).fit(rows)
    merged = [[{float(clusters.centres[c, 0])} for c in pair] for pair in ward_merges(clusters)]
    assert [set.union(*pair) for pair in merged[:2]] in ([{0, 1}, {10, 11}], [{10, 11}, {0, 1}])
    assert 30 in set.union(*merged[3])


def test_the_range_grows_with_the_noise():
    def curve(noise):
        means = {10: 0.5, 20: 0.6, 30: 0.57}
        nothing = np.zeros(2)
        return Curve([Count(k, np.array([m - noise, m + noise]), nothing, nothing, nothing) for k, m in means.items()])

    assert curve(0.0).range == (20, 20)
    assert curve(0.03).range == (20, 30)
    assert curve(0.2).range == (10, 30)
    assert curve(0.2).best == 20


def test_silhouette_by_hand():
    rows = np.array([[0.0], [2], [10]], dtype=np.float32)
    # first: (10 - 2) / 10, second: (8 - 2) / 8, third: alone
    assert silhouette(rows, np.array([5, 5, 7])) == pytest.approx((0.8 + 0.75 + 0) / 3)
    assert silhouette(rows, np.array([5, 5, 5])) == 0


def test_fewer_classes_than_labelled_ones_are_refused():
    rows, _, labels = blobs()
    with pytest.raises(UserError, match="from 4 on"):
        ClassCount(rows, labels).sweep([3, 8])


def test_as_many_clusters_as_rows_can_be_judged():
    rows, _, labels = blobs(40)
    judged = ClassCount(rows, labels).at(39)
    assert judged.stability.min() > 0.5
    assert judged.accuracy.max() < 0.5


def test_merging_fewer_clusters_than_classes_is_refused():
    rows, _, labels = blobs()
    with pytest.raises(UserError, match="4 clusters cannot be merged into 4 classes"):
        ClassCount(rows, labels).merged(4)
