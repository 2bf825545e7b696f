"""Figures that people look at."""

from mmmask.report.rows import draw_rows
from mmmask.report.search_trail import draw_trail
from mmmask.report.trace import Trace

__all__ = ["Trace", "draw_rows", "draw_trail"]
