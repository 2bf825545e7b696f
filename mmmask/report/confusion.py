"""Who is taken for whom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmmask.metrics.matching import ClassRow, Meetings
from mmmask.report.figures import GREY, panels


def draw_confusion(met: Meetings, table: Sequence[ClassRow], path: Path) -> None:
    """A row for each class, old ones above the line: the shares of its samples in the category that was matched with
    each class, in the same order, and in those that none was matched with."""
    order = sorted(range(len(table)), key=lambda n: (not table[n].old, table[n].label))
    shares, names = confusion_shares(met, table, order), [str(table[n].label) for n in order]
    inches = [max(3.0, 0.8 + 0.16 * size) for size in (shares.shape[1], len(names))]
    with panels(path, inches[:1], inches[1]) as (axis,):
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.axhline(sum(row.old for row in table) - 0.5, color=GREY, linewidth=0.8)
        axis.set_yticks(range(len(names)), names, fontsize=6)
        axis.set_xticks(range(len(names)), names, fontsize=6, rotation=90)
        axis.set(xlabel="category, by its class", ylabel="class")


def confusion_shares(met: Meetings, table: Sequence[ClassRow], order: Sequence[int]) -> np.ndarray:
    """`(classes, columns)` of classes in this order; zeros in the column of one that no category was matched with."""
    row_of = {int(cluster): row for row, cluster in enumerate(met.clusters)}
    matched = [table[n].cluster for n in order]
    nothing = np.zeros(len(table), dtype=met.counts.dtype)
    columns = [nothing if cluster is None else met.counts[row_of[cluster]] for cluster in matched]
    columns += [met.counts[row] for cluster, row in row_of.items() if cluster not in matched]
    return np.stack(columns, axis=1)[list(order)] / met.counts.sum(0)[list(order), None]
