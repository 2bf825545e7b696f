"""How figures are begun and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmmask.files import written_whole

GREY, BLUE = "0.65", "C0"


@contextmanager
def panels(path: Path, widths: list[float], height: float = 3.4) -> Iterator[list[Any]]:
    """Axes side by side, so many inches wide; the figure is written when they are drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (sum(widths), height)
    figure, axes = pyplot.subplots(
        1, len(widths), figsize=size, layout="constrained", width_ratios=widths, squeeze=False
    )
    try:
        yield list(axes[0])
        for axis in axes[0]:
            axis.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as stream:
            figure.savefig(stream, dpi=110, format=path.suffix[1:])
    finally:
        pyplot.close(figure)
