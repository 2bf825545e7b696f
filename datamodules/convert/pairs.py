"""Two folders, of pictures and of texts: `<name>.jpg` and `<name>.txt` are one sample."""

from __future__ import annotations

from pathlib import Path

from datamodules.convert.records import PICTURES, DataSet, Record, key_of, need
from datamodules.pack import Skipped
from mmmask.errors import UserError


def pairs(pictures: Path, texts: Path) -> DataSet:
    """Fields: the picture, `txt`, as far as there is one of that name (an empty text is none). Keys are the names, with
    those of folders within."""
    found = _files(need(pictures, "give the folder of the pictures"), PICTURES)
    written = _files(need(texts, "give the folder of the texts, <name>.txt for <name>.jpg"), (".txt",))
    for folder, kind, files in ((pictures, "pictures", found), (texts, "texts (*.txt)", written)):
        if not files:
            raise UserError(f"{folder} holds no {kind}.")
    if not set(found) & set(written):
        raise UserError(
            f"no picture of {pictures} ({next(iter(found))}, ...) has the name of a text of {texts} "
            f"({next(iter(written))}, ...): they belong together by their names, as a.jpg and a.txt."
        )
    records = [
        _record(key, picture, written.get(key, [None])[0])
        for key in sorted({*found, *written})
        for picture in found.get(key, [None])
    ]
    return DataSet({"train": records})


def _files(folder: Path, kinds: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files by key; of two pictures with one name the packer tells."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in kinds and path.is_file() and not path.name.startswith("."):
            found.setdefault(key_of(path.relative_to(folder).as_posix()), []).append(path)
    return found


def _record(key: str, picture: Path | None, text: Path | None) -> Record | Skipped:
    fields: dict[str, bytes] = {}
    if text is not None:
        try:
            words = " ".join(text.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError:
            return Skipped(key, "text is not UTF-8")
        if words:
            fields["txt"] = words.encode()
    if picture is None and not fields:
        return Skipped(key, "empty text, no picture")
    return Record(key, picture, fields)
