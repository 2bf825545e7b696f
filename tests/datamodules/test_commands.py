"""`mmmask shards show` and `stats` as a person sees them."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import jpeg
from PIL import Image

from datamodules import commands
from mmmask.errors import UserError

WORDS = "a very long caption that goes on and on until nobody wants to read any more of it, and then some"


@pytest.fixture
def captioned(make_shards):
    return make_shards([2], fields=lambda n: {"jpg": jpeg(n), "txt": WORDS.encode(), "cls": b"7"})


@pytest.mark.parametrize("width", [60, 100, 200])
def test_a_narrow_screen_cuts_long_texts_and_nothing_else(captioned, tmp_path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    commands.show(captioned, tmp_path / "sheet.png")
    head, first, second, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["key", "cls", "jpg", "txt"]
    assert first.startswith("000000  7    32x32 RGB  a very long caption")
    assert second.startswith("000001  7    32x32 RGB  a very long caption")
    assert len(first) <= width
    assert first.endswith(("…", "and then some"))
    assert last == f"contact sheet: {tmp_path / 'sheet.png'}"
    assert Image.open(tmp_path / "sheet.png").size == (2 * 136, 14 + 128 + 38)


@pytest.mark.parametrize(
    ("out", "count", "words"),
    [("a.jpg", 3, "ends in .png, not 'a.jpg'"), ("none/a.png", 3, "none/a.png"), ("a.png", 0, "count is 0")],
)
def test_an_impossible_sheet_is_refused(captioned, tmp_path, out, count, words):
    with pytest.raises(UserError, match=words):
        commands.show(captioned, tmp_path / out, count)
    assert not list(tmp_path.glob("*.*"))


def test_wide_letters_and_control_codes_keep_the_columns_straight(make_shards, tmp_path, capsys):
    texts = ["寿司の盛り合わせ", "\x1b[31mred\x1b[0m"]
    shards = make_shards([2], fields=lambda n: {"a.txt": texts[n].encode(), "z.cls": b"7"})
    commands.show(shards, tmp_path / "sheet.png")
    _, first, second = capsys.readouterr().out.splitlines()
    assert first == "000000  寿司の盛り合わせ  7"
    assert second == "000001  [31mred[0m        7"


def test_statistics_are_printed_for_each_field(captioned, capsys):
    commands.stats(captioned)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    assert rows["cls"] == ["2", "0", "0.0", "1", "1", "1"]
    assert rows["txt"][3:] == [str(len(WORDS))] * 3
    assert lines[-1] == "2 samples in 1 shards"


def test_the_sheet_shows_the_pictures_themselves(make_shards, tmp_path):
    def fields(n):
        pixels = np.full((16, 16, 3), 40 + 100 * n, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "one.png")
        return {"png": (tmp_path / "one.png").read_bytes()}

    commands.show(make_shards([2], fields=fields), tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert (sheet[70, 60].tolist(), sheet[70, 136 + 60].tolist()) == ([40] * 3, [140] * 3)


@pytest.mark.parametrize("verb", ["show", "stats"])
def test_a_reader_that_has_had_enough_is_no_error(captioned, tmp_path, verb):
    command = f"'{sys.executable}' -m mmmask.cli shards {verb} '{captioned}' | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
