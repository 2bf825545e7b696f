"""Verbs that are functions: their signature is the help, the options and what is checked."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

from mmmask.errors import UserError


def called(name: str, place: str, by_place: bool = True) -> Callable[[list[str]], int]:
    """The verb that calls what is at `module:function`, or one of several functions there; imported when it runs."""

    def run(arguments: list[str]) -> int:
        module, _, function = place.partition(":")
        return call(getattr(importlib.import_module(module), function), arguments, name, by_place)

    return run


def call(functions: Any, arguments: list[str], name: str, by_place: bool = True) -> int:
    """Call a function with arguments read from its signature; those that it must have are told by place, or name."""
    import jsonargparse

    from mmmask.config_errors import Parser, sentence

    try:
        result = jsonargparse.auto_cli(
            functions, args=arguments, prog=f"mmmask {name}", parser_class=Parser, as_positional=by_place
        )
    except (TypeError, ValueError) as error:
        if "Errors:" not in str(error):
            raise
        raise UserError(sentence(str(error), ())) from error  # what a constructor complains of
    return result if isinstance(result, int) else 0


def listed(arguments: list[str], option: str, comma: str | None) -> list[str]:
    """`--option a b c`, also in several parts, as `--option ["a","b","c"]`, which is how lists are parsed."""
    out: list[str] = []
    found: list[str] | None = None
    rest = list(arguments)
    while rest:
        name, equals, value = rest[0].partition("=")
        if name != option:
            out.append(rest.pop(0))
            continue
        values = [value] if equals else []
        rest.pop(0)
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if comma:
            values = [part for value in values for part in value.strip("[]").split(comma) if part]
        if not values:
            raise UserError(f"{option} needs a value after it.")
        found = [*(found or []), *values]
    return out if found is None else [*out, option, json.dumps(found)]
