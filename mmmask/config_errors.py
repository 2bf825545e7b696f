"""Turns complaints about configurations and arguments into one sentence with the nearest valid name."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionYesNo, ArgumentParser

from mmmask.errors import UserError, nearest

LARGEST = 100_000  # entries of a configuration once all its aliases are written out


class Parser(ArgumentParser):
    """An argument parser whose errors are `UserError`s, and whose switches need no value."""

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Make `--json` mean `--json true`, and `--no_json` false; and `--continue` an option of the parameter
        `continue_`, whose own name is a word of Python."""
        if names[-1].startswith("--") and names[-1].endswith("_"):
            options |= {"dest": names[-1].lstrip("-"), "metavar": names[-1].strip("-_").upper()}
            names = (names[-1].rstrip("_"),)
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
        keys.append(action.dest.rstrip("_"))
        if isinstance(getattr(action, "choices", None), dict):
            for sub in action.choices.values():
                keys += known_keys(sub)
    return keys


def sentence(message: str, keys: Iterable[str]) -> str:
    """One sentence: the place, what is wrong there, and the nearest valid name.

    The parser nests complaints: what the parser of a class says (already a sentence of ours, for it uses the
    same method) stands in the `Errors:` list of the parser around it.
    """
    place = re.match(r'Parser key "([\w.]+)":\s*', message)
    text = message[place.end() :] if place else message
    if "Errors:" in text:
        complaints = re.split(r"\n\s+- ", text.partition("Errors:")[2].partition("Given value type:")[0])
        text = "; ".join(c.strip() for c in complaints if c.strip() and "NoneType" not in c)
    text = _reworded(" ".join(text.split()), list(keys))
    text = f"{place[1]}: {text}" if place and place[1] != "config" else text
    return text if text.endswith((".", "?")) else f"{text}."


def _reworded(text: str, keys: list[str]) -> str:
    """The known complaints, in plain words."""
    if found := re.search(r"(?:[Oo]ption|[Kk]ey) '([\w.]+)' is not (?:accepted|expected)", text):
        return f"there is no option '{found[1]}'.{_nearest_key(found[1], keys)}"
    if found := re.search(r"does not accept option '([\w.]+)'|[Uu]nrecognized arguments: --?([\w.]+)", text):
        wrong = found[1] or found[2]
        if wrong in keys:
            return f"'{wrong}' is told by its place, not by an option: leave out --{wrong}. See --help."
        return f"there is no option '{wrong}'.{_nearest_key(wrong, keys)}"
    if found := re.search(r"Requirement '([\w-]+)[^']*' not met", text):
        return f"{found[1]} is not installed: pip install {found[1]}."
    if found := re.search(
        r"given class_path '([\w.]+)': (?!No module named|module '[\w.]+' has no attribute)(.*)", text
    ):
        return f"{found[1]} cannot be made of what it is given (do its parameters have type hints?): {found[2]}"
    if found := re.search(r"(?:dot import path string: |given class_path |No module named )'?([\w.]+)", text):
        return f"there is no class '{found[1]}'.{nearest(found[1].rpartition('.')[2], _class_names())}"
    if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", text):
        choices = re.findall(r"[\w-]+", found[2])
        return f"'{found[1]}' is not one of {', '.join(choices)}.{nearest(found[1], choices)}"
    if found := re.search(r"arguments are required: (.*)", text):
        missing = re.sub(r"\b(?!model|data|trainer)\w+\.", "", found[1]).rstrip(".")  # without the verb
        missing = ", ".join(sorted(missing.split(", ")))
        return f"missing: {missing}. See --help; settings can come from --config FILE.yaml."
    if found := re.search(r"Expected a <class '(\w+)'>\. Got value: (.*?)\.?$", text):
        return f"expected {found[1]}, got '{found[2]}'."
    return text


def _nearest_key(wrong: str, keys: list[str]) -> str:
    """The nearest key; its last part counts most, for the rest of a dotted key is usually right."""
    return nearest(wrong, keys) or nearest(wrong.rpartition(".")[2], {key.rpartition(".")[2] for key in keys})


def _class_names() -> set[str]:
    """The classes of this project that a configuration can name, as far as they are imported."""
    own = [m for name, m in sys.modules.items() if name.split(".")[0] in ("mmmask", "datamodules", "tasks")]
    return {name for module in own for name in getattr(module, "__all__", [])}


def check_readable(path: Path) -> None:
    """Refuse a configuration file that is missing, no UTF-8, no YAML, or unpacks to something huge."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"configuration {path} {what}. `mmmask configs` lists those that come with mmmask.")
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        entries = _entries(root, {}) if root else 0
    except UnicodeDecodeError as error:
        raise UserError(f"configuration {path} is not UTF-8 text (byte {error.start}).") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"configuration {path} is not valid YAML: {place}{problem}.") from error
    except RecursionError:
        raise UserError(f"configuration {path} is nested too deeply.") from None
    if entries > LARGEST:
        raise UserError(f"configuration {path} unpacks to {entries:,} entries (aliases of aliases): refused.")


def _entries(node: Any, seen: dict[int, int]) -> int:
    """Entries of a node with its aliases written out, without writing them out."""
    if id(node) not in seen:
        seen[id(node)] = LARGEST + 1  # an alias to itself never ends
        parts = node.value if isinstance(node.value, list) else []
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        seen[id(node)] = 1 + sum(_entries(child, seen) for child in children)
    return seen[id(node)]
