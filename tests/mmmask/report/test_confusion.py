"""Who is taken for whom: rows of classes, in the columns of the categories that were matched with them."""

import numpy as np

from mmmask.metrics.matching import class_table, meetings
from mmmask.report.confusion import confusion_shares, draw_confusion

FOUND = [9, 9, 9, 4, 4, 7, 9, 2]
TRUE = [5, 5, 5, 3, 3, 3, 1, 3]


def test_each_class_has_the_column_of_its_category_and_one_without_has_none():
    met = meetings(FOUND, TRUE)
    table = class_table(met, {5})
    shares = confusion_shares(met, table, [2, 0, 1])  # classes 5, 1, 3: class 1 is taken for 5
    np.testing.assert_allclose(shares, [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0.5, 0.25, 0.25]])


def test_the_picture_is_written_whole(tmp_path):
    met = meetings(FOUND, TRUE)
    draw_confusion(met, class_table(met, {5}), tmp_path / "confusion.png")
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]
