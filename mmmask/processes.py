"""Processes that end when the one that started them does."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from contextlib import suppress

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have this process killed when its parent ends, however that ends. (Linux alone can.)"""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before this was said
        os._exit(1)
