"""The pages tell the truth: their commands parse, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from mmmask import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = "\n".join(page.read_text().replace("\\\n", " ") for page in PAGES)  # a backslash continues a line
COMMANDS = sorted(set(re.findall(r"^mmmask [^\n]+", WRITTEN, re.M)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, tmp_path, monkeypatch, capsys):
    """Run in an empty folder, each shows its help or configuration, or ends because its files are missing."""
    verb, *arguments = shlex.split(command, comments=True)[1:]
    assert verb in cli.VERBS
    if "shapes" in arguments or verb in ("demo", "doctor", "configs"):
        arguments.append("--help")
    if "--config" in arguments:
        arguments.append("--print_config")  # without it, those that come with mmmask would train
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main([verb, *arguments])
    except SystemExit as stopped:
        code = stopped.code
    errors = capsys.readouterr().err
    assert code == 0 if "--help" in arguments else code in ((0, 2) if "--config" in arguments else (1, 2))
    assert not re.search("there is no option|no command|mmmask: missing:|told by its place|is not one of", errors)
