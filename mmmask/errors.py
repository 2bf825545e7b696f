"""The exceptions that the command line shows as a sentence instead of a traceback."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: says what is wrong, where, and what to do (exit code 2)."""

    exit_code = 2


class RunFailed(UserError):
    """A run that began well and cannot go on: lost a process, became NaN, ran out of memory (exit code 1)."""

    exit_code = 1


class Stopped(BaseException):
    """A signal asked the run to end. It did after a whole step, or `at_once` when the signal came twice."""

    def __init__(self, signum: int, at_once: bool = False) -> None:
        self.signal, self.at_once = signal.Signals(signum), at_once
        self.way_on = ""
        super().__init__(f"stopped by {self.signal.name}{' at once' if at_once else ''}")

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells count."""
        return 128 + self.signal


def nearest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known name closest to `name`, or nothing."""
    close = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
