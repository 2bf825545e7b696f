"""Turns the parser's complaints about a configuration into one sentence with the nearest valid name."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser

from mmmask.errors import UserError, nearest


class Parser(ArgumentParser):
    """An argument parser whose errors are `UserError`s, and whose switches need no value."""

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Make `--json` mean `--json true`, and `--no_json` false."""
        if options.get("type") is bool and "action" not in options:
            del options["type"]
            options["action"] = ActionYesNo
        return super().add_argument(*names, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the complaint as a sentence."""
        raise UserError(sentence(message, known_keys(self))) from ex


def known_keys(parser: Any) -> list[str]:
    """All keys of a parser and of its subcommands, dotted."""
    keys = []
    for action in parser._actions:
        keys.append(action.dest)
        if isinstance(getattr(action, "choices", None), dict):
            for sub in action.choices.values():
                keys += known_keys(sub)
    return keys


def sentence(message: str, keys: list[str]) -> str:
    """The last cause of a nested complaint, and the nearest known key if a key was wrong."""
    lines = [line.strip(" -") for line in message.strip().splitlines() if line.strip()]
    text = lines[-1] if len(lines) > 1 and lines[0].endswith(":") else " ".join(lines)
    wrong = re.search(
        r"unrecognized arguments: --?([\w.]+)|(?:Key|key|option) ['\"]?([\w.]+)['\"]? is not expected",
        message,
    )
    if wrong:
        key = wrong[1] or wrong[2]
        return f"unknown key '{key}' in the configuration or arguments.{nearest(key, keys)}"
    return text if text.endswith(".") else f"{text}."
