"""The configurations that come with mmmask."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mmmask.errors import UserError, nearest


def folder() -> Path:
    """Where they lie: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def names() -> list[str]:
    """All of them, e.g. `demo/tokenizer.yaml`."""
    return sorted(path.relative_to(folder()).as_posix() for path in folder().rglob("*.yaml"))


def find(name: str) -> Path:
    """The path of one; an unknown name gives the nearest."""
    name = name.removeprefix("configs/")
    if name not in names():
        raise UserError(f"there is no shipped configuration '{name}'.{nearest(name, names())} See: mmmask configs")
    return folder() / name


def show() -> None:
    """List the shipped configurations with their first line."""
    from rich import print as rich_print
    from rich.table import Table

    table = Table("configuration", "what it does", box=None)
    for name in names():
        first = (folder() / name).read_text().splitlines()[0]
        table.add_row(name, first.lstrip("# "))
    rich_print(table)


def copy(name: str, out: Path = Path()) -> None:
    """Copy a shipped configuration to change it.

    Args:
        name: as listed, e.g. demo/tokenizer.yaml.
        out: folder or file to copy to.
    """
    source = find(name)
    target = out / source.name if out.is_dir() else out
    if target.exists():
        raise UserError(f"{target} exists already. Choose another name.")
    shutil.copy(source, target)
    print(f"copied to {target}")


def with_paths(arguments: Sequence[str]) -> list[str]:
    """Replace names of shipped configurations in arguments by their paths, and look at each before it is parsed."""
    from mmmask.config_errors import check_readable

    found, rest = [], iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("-c", "--config"):
            path = Path(value if equals else next(rest, ""))
            if not path.exists() and path.as_posix().removeprefix("configs/") in names():
                path = find(path.as_posix())
            check_readable(path)
            argument = f"--config={path}"
        found.append(argument)
    return found
