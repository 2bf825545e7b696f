"""Where a run is told: a live line on a terminal, plain lines where there is none."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from typing import Any, NamedTuple, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

REDRAW = 0.25  # least seconds between two drawings: for each, metrics are fetched from the GPU
NARROWEST, WIDEST = 10, 40  # columns of the bar


class Piece(NamedTuple):
    """A part of a line; where they do not all fit, those of the highest rank are left out."""

    rank: int
    text: str
    style: str = ""


class Line:
    """One row whatever the width: pieces, and a bar behind the first of them where it is known how much is `done`."""

    def __init__(self, head: list[Piece], done: float | None, tail: list[Piece]) -> None:
        self.head, self.done, self.tail = head, done, tail

    def __str__(self) -> str:
        return "  ".join(piece.text for piece in [*self.head, *self.tail])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = [] if self.done is None else [Piece(2, "-" * NARROWEST)]
        shown: list[Piece] = []
        left = options.max_width + 2  # the last piece has no gap behind it
        for piece in sorted([*self.head, *bar, *self.tail], key=lambda piece: piece.rank):
            if not shown or len(piece.text) + 2 <= left:
                shown.append(piece)
                left -= len(piece.text) + 2
        row: list[Any] = [_text(piece) for piece in self.head if piece in shown]
        if bar and bar[0] in shown:
            row.append(Bar(1.0, self.done or 0.0, width=min(WIDEST, NARROWEST + left)))
        row += [_text(piece) for piece in self.tail if piece in shown]
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        table.add_row(*row)
        yield table


def _text(piece: Piece) -> Text:
    return Text(piece.text, piece.style, no_wrap=True, overflow="ellipsis")


class Screen:
    """Shows lines in place on a terminal, and one every `plain_seconds` elsewhere."""

    def __init__(self, console: Console, plain_seconds: float) -> None:
        self.console = console
        self.live: Live | None = None
        self._moved: list[tuple[logging.StreamHandler[Any], TextIO]] = []
        self._every = plain_seconds
        if console.is_terminal and not console.is_dumb_terminal:
            self._every = REDRAW
            # No thread redraws it: a worker forked meanwhile would inherit a lock that nobody opens.
            self.live = Live(console=console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
            streams = {id(sys.stdout), id(sys.stderr)}
            self.live.start()
            self._move_logs(streams)
            atexit.register(self.close)  # gives the cursor back, also where Lightning cannot end its run in order
        self._shown = time.monotonic()

    def due(self, now: float) -> bool:
        """Whether it is time to show something again."""
        return now - self._shown >= self._every

    def show(self, line: Line, below: Line | None = None) -> None:
        """Draw over what was there; elsewhere, add a line."""
        self._shown = time.monotonic()
        if self.live:
            self.live.update(Group(line, below) if below else line, refresh=True)
        else:
            self.say(str(below or line))

    def say(self, words: str) -> None:
        """Add a line that stays."""
        self.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last line as it is and give the terminal back."""
        if self.live:
            atexit.unregister(self.close)
            self.live.stop()
            for handler, stream in self._moved:
                handler.setStream(stream)
        self.live, self._moved = None, []

    def _move_logs(self, streams: set[int]) -> None:
        """Let log messages to the terminal appear above the line, as what is printed does."""
        loggers = [logging.root, *logging.root.manager.loggerDict.values()]
        for handler in {h for logger in loggers for h in getattr(logger, "handlers", ())}:
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in streams:
                self._moved.append((handler, handler.stream))
                handler.setStream(sys.stderr)
