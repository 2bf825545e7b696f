"""The trail of a search as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmmask.report.figures import BLUE, GREY, panels
from mmmask.synthesis.search import Vector, parted


def draw_trail(strategies: Sequence[Vector], worth: Sequence[float], path: Path) -> None:
    """What each strategy was worth, the best so far, and the best one's four lists beside those of the first."""
    values = np.array(worth)
    with panels(path, [5.0, 3, 3, 3, 3]) as (left, *others):
        left.plot(values, ".", color=GREY, label="strategies")
        left.plot(np.minimum.accumulate(values), color=BLUE, label="best so far")
        most = np.quantile(values, 0.97)  # a few bad ones would flatten all others
        if values.min() < most:
            left.set_ylim(values.min() - 0.05 * np.ptp(values), most + 0.05 * np.ptp(values))
        left.set(xlabel="strategies judged", ylabel="worth, less is better")
        left.legend(frameon=False)
        start, best = parted(strategies[0]), parted(strategies[int(values.argmin())])
        for axis, name in zip(others, start, strict=True):
            steps = np.arange(1, len(start[name]) + 1)
            axis.plot(steps, start[name], "o-", color=GREY, label="start")
            axis.plot(steps, best[name], "o-", color=BLUE, label="best")
            axis.set(title=name, xlabel="step", xticks=steps)
        others[0].legend(frameon=False)
