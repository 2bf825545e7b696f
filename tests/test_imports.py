"""The direction of imports (DESIGN 2): mmmask knows neither data nor Lightning; datamodules know no tasks."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "mmmask": {"datamodules", "tasks", "lightning", "pytorch_lightning"},
    "datamodules": {"tasks"},
    "tasks": {"datamodules"},
}
FRONT_DOOR = ROOT / "mmmask" / "cli"  # what brings the rooms together


def imported(path):
    """The top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_each_room_imports_only_what_lies_below_it(room):
    files = [path for path in (ROOT / room).rglob("*.py") if FRONT_DOOR not in path.parents]
    wrong = {str(path.relative_to(ROOT)): bad for path in files if (bad := FORBIDDEN[room] & set(imported(path)))}
    assert files
    assert not wrong


def test_no_file_imports_what_is_not_required():
    required = (ROOT / "pyproject.toml").read_text().lower().replace("-", "_")
    names = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open_clip_torch", "sklearn": "scikit_learn"}
    used = {name for room in FORBIDDEN for path in (ROOT / room).rglob("*.py") for name in imported(path)}
    foreign = used - set(sys.stdlib_module_names) - set(FORBIDDEN)
    assert not {name for name in foreign if f'"{names.get(name, name).lower()}' not in required}
