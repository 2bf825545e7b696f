"""Folders and tables of the user's own."""

import io
import json
import os
import sys

import pytest
from conftest import jpeg
from PIL import Image

from datamodules import ShardSet, convert
from datamodules.convert.records import picture_bytes
from mmmask.errors import UserError


def picture(mode="RGB", size=(20, 30), format="PNG", **options):
    stream = io.BytesIO()
    Image.new(mode, size, 99 if mode == "L" else None).save(stream, format, **options)
    return stream.getvalue()


def tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def contents(out, split="train"):
    """key -> {field: bytes}."""
    shards = ShardSet(str(out / f"{split}-*.tar"))
    return {s.key(i): {f: s.read(i, f) for f in shards.fields} for s in shards.shards for i in range(len(s))}


def test_a_folder_tree_with_splits_has_one_numbering_of_classes(tmp_path):
    files = {"train/cat/a.JPEG": jpeg(1), "train/dog/b.JPEG": jpeg(2), "val/ant/c.JPEG": jpeg(3)}
    reports = convert.pack_all(convert.image_folder(tree(tmp_path / "in", files)), tmp_path / "out")
    assert {split: r.samples for split, r in reports.items()} == {"train": 2, "val": 1}
    assert json.loads((tmp_path / "out/classes.json").read_text())["classes"] == ["ant", "cat", "dog"]
    assert contents(tmp_path / "out") == {
        "cat/a": {"cls": b"1", "jpg": jpeg(1)},
        "dog/b": {"cls": b"2", "jpg": jpeg(2)},
    }


def test_a_folder_tree_without_splits_is_one_split(tmp_path):
    files = {"cat/deep/a.b.png": picture(), "dog/x.png": picture(), "dog/notes.txt": b"x", "dog/.hidden": b""}
    report = convert.pack_all(convert.image_folder(tree(tmp_path / "in", files)), tmp_path / "out")["train"]
    assert dict(report.skipped) == {"not a picture by its name (*.txt)": 1}
    assert contents(tmp_path / "out").keys() == {"cat/deep/a_b", "dog/x"}
    assert contents(tmp_path / "out")["dog/x"]["png"] == picture()


def test_two_pictures_of_one_name_are_not_merged(tmp_path):
    files = {"cat/a.jpg": jpeg(1), "cat/a.png": picture(), "cat/b.jpg": jpeg(2)}
    report = convert.pack_all(convert.image_folder(tree(tmp_path / "in", files)), tmp_path / "out")["train"]
    assert (report.samples, dict(report.skipped)) == (2, {"duplicate key": 1})


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no class folders"):
        convert.image_folder(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        convert.image_folder(tmp_path / "nowhere")


def test_pictures_and_texts_of_two_folders_belong_together_by_their_names(tmp_path):
    tree(tmp_path / "pictures", {"a cat.jpg": jpeg(1), 'sub/it\'s "b".v2.JPG': jpeg(2), "alone.jpg": jpeg(3)})
    texts = {"a cat.txt": b'\xef\xbb\xbfA, "cat"\n here', 'sub/it\'s "b".v2.txt': "ein Tölpel".encode()}
    texts |= {"alone.txt": b" \n", "words only.txt": b"no picture", "bad.txt": b"\xff\xfe", "none.txt": b""}
    found = convert.pairs(tmp_path / "pictures", tree(tmp_path / "texts", texts))
    report = convert.pack_all(found, tmp_path / "out")["train"]
    assert dict(report.skipped) == {"text is not UTF-8": 1, "empty text, no picture": 1}
    assert contents(tmp_path / "out") == {
        "a cat": {"jpg": jpeg(1), "txt": b'A, "cat" here'},
        'sub/it\'s "b"_v2': {"jpg": jpeg(2), "txt": "ein Tölpel".encode()},
        "alone": {"jpg": jpeg(3), "txt": None},
        "words only": {"jpg": None, "txt": b"no picture"},
    }


def test_folders_that_are_no_pairs_are_refused(tmp_path):
    pictures, texts = tree(tmp_path / "pictures", {"a.jpg": jpeg(1)}), tree(tmp_path / "texts", {"b.txt": b"b"})
    (tmp_path / "empty").mkdir()
    for given, message in (
        ((pictures, texts), r"no picture of .*pictures \(a, ...\) has the name of a text of .*texts \(b, ...\)"),
        ((pictures, tmp_path / "empty"), r"empty holds no texts \(\*.txt\)"),
        ((tmp_path / "empty", texts), "empty holds no pictures"),
        ((pictures, tmp_path / "nowhere"), "nowhere is missing: give the folder of the texts"),
    ):
        with pytest.raises(UserError, match=message):
            convert.pairs(*given)


ROWS = [
    {"file": "a.jpg", "caption": " a  cat ", "kind": "cat", "part": "train"},
    {"file": "a.jpg", "caption": "the same cat", "kind": "cat", "part": "train"},
    {"file": "sub/b.jpg", "caption": "a dog", "kind": "ape", "part": "test"},
    {"file": "sub/b.jpg", "caption": "", "kind": "ape", "part": "train"},
]


def as_csv(rows, comma=","):
    return "\n".join(comma.join(row) for row in [list(rows[0]), *(row.values() for row in rows)])


def write_table(folder, kind):
    path = folder / f"table.{kind}"
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        jsonl = "\n".join(map(json.dumps, ROWS))
        forms = {"csv": as_csv(ROWS), "tsv": as_csv(ROWS, "\t"), "json": json.dumps(ROWS), "jsonl": jsonl}
        path.write_text(forms[kind])
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_form_of_table_gives_the_same_samples(tmp_path, kind):
    tree(tmp_path, {"a.jpg": jpeg(1), "sub/b.jpg": jpeg(2)})
    columns = convert.Columns("file", "caption", "kind", split="part")
    reports = convert.pack_all(convert.table(write_table(tmp_path, kind), columns), tmp_path / "out")
    assert contents(tmp_path / "out") == {
        "00000000": {"jpg": jpeg(1), "txt": b"a cat", "cls": b"1"},
        "00000001": {"jpg": jpeg(1), "txt": b"the same cat", "cls": b"1"},
    }
    assert contents(tmp_path / "out", "test") == {"00000002": {"jpg": jpeg(2), "txt": b"a dog", "cls": b"0"}}
    assert dict(reports["train"].skipped) == {"empty 'caption'": 1}


def test_whole_numbers_stay_the_labels_they_are_and_missing_ones_stay_missing(tmp_path):
    rows = [{"t": "x", "c": 10, "id": "k.1"}, {"t": "y", "c": 2, "id": "k2"}, {"t": "z", "c": None, "id": "k3"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = convert.table(tmp_path / "t.jsonl", convert.Columns(text="t", label="c", key="id"))
    assert [(r.key, r.fields.get("cls")) for r in data.splits["train"]] == [("k_1", b"10"), ("k2", b"2"), ("k3", None)]
    assert len(data.classes) == 11


@pytest.mark.parametrize(
    ("name", "content", "columns", "words"),
    [
        ("t.csv", "file,text\na,b", {"image": "flie"}, "no column 'flie'.*Did you mean 'file'"),
        ("t.csv", "file,text\na,b", {}, "name at least one column"),
        ("t.csv", "file,text\n", {"text": "text"}, "has no rows"),
        ("t.jsonl", '{"a": 1', {"text": "a"}, "cannot be read as jsonl"),
        ("t.json", "[1, 2]", {"text": "a"}, "row 0 is not a record"),
        ("t.parquet", "no", {"text": "a"}, "cannot be read as parquet"),
        ("t.xlsx", "no", {"text": "a"}, "a table is a .csv"),
        ("t.csv", "text,s\na,../b", {"text": "text", "split": "s"}, "cannot be part of a file name"),
    ],
)
def test_a_table_that_does_not_fit_is_explained(tmp_path, name, content, columns, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        convert.table(tmp_path / name, convert.Columns(**columns))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(UserError, match=r"pip install 'mmmask\[parquet\]'"):
        convert.table(tmp_path / "t.parquet", convert.Columns(text="a"))


def decoded(content):
    return Image.open(io.BytesIO(content))


def test_a_picture_keeps_its_bytes_unless_it_must_change():
    assert picture_bytes(jpeg(1, 64), "JPEG", None) == jpeg(1, 64)
    assert picture_bytes(jpeg(1, 64), "JPEG", 64) == jpeg(1, 64)
    smaller = decoded(picture_bytes(picture(size=(40, 60)), "PNG", 20))
    assert (smaller.format, smaller.size) == ("PNG", (20, 30))
    assert decoded(picture_bytes(picture(), "JPEG", None)).format == "JPEG"


def test_a_picture_on_its_side_is_set_upright():
    turned = Image.Exif()
    turned[0x0112] = 6
    content = picture(size=(40, 20), format="JPEG", exif=turned)
    assert decoded(content).size == (40, 20)
    assert decoded(picture_bytes(content, "JPEG", None)).size == (20, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_pictures_of_all_modes_can_be_stored(mode, format):
    content = picture(mode, format="TIFF")
    result = decoded(picture_bytes(content, format, 10))
    assert result.mode in ("L", "RGB", "RGBA")
    assert result.size == (10, 15)


def test_a_picture_that_unpacks_to_gigabytes_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.convert.records.MAX_PIXELS", 500)
    files = {"cat/a.png": picture(), "cat/b.png": picture(size=(10, 10))}
    report = convert.pack_all(convert.image_folder(tree(tmp_path / "in", files)), tmp_path / "out")["train"]
    assert dict(report.skipped) == {"picture of too many pixels (a decompression bomb)": 1}


def test_labels_never_change_their_meaning_in_a_folder_of_shards(tmp_path):
    pets = tree(tmp_path / "pets", {"train/cat/a.png": picture(), "train/dog/b.png": picture()})
    wild = tree(tmp_path / "wild", {"test/dog/a.png": picture(), "test/zebra/b.png": picture()})
    convert.pack_all(convert.image_folder(pets), tmp_path / "out")
    with pytest.raises(UserError, match="the same labels would mean two things"):
        convert.pack_all(convert.image_folder(wild), tmp_path / "out")
    assert json.loads((tmp_path / "out/classes.json").read_text())["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("content", ["[]", "not json", "{}"])
def test_a_foreign_list_of_classes_is_not_overwritten(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/classes.json").write_text(content)
    source = tree(tmp_path / "in", {"train/cat/a.png": picture()})
    with pytest.raises(UserError, match="classes.json lists other classes"):
        convert.pack_all(convert.image_folder(source), tmp_path / "out")
    assert (tmp_path / "out/classes.json").read_text() == content


def test_all_splits_are_looked_at_before_the_first_is_packed(tmp_path):
    source = tree(tmp_path / "in", {"train/cat/a.png": picture(), "test/cat/b.png": picture()})
    convert.pack_all(convert.image_folder(source), tmp_path / "out")
    (tmp_path / "out" / "train-00000.tar").unlink()
    with pytest.raises(UserError, match="already holds shards of 'test'"):
        convert.pack_all(convert.image_folder(source), tmp_path / "out")
    assert not (tmp_path / "out" / "train-00000.tar").exists()


def rows(tmp_path, written, suffix=".csv", **columns):
    (tmp_path / f"t{suffix}").write_text(written)
    return convert.table(tmp_path / f"t{suffix}", convert.Columns(**columns))


@pytest.mark.parametrize("names", [("01", "1"), ("\u00b2", "3"), ("1700000000", "1700000001")])
def test_labels_that_only_look_like_numbers_are_names(tmp_path, names):
    data = rows(tmp_path, f"t,l\na,{names[0]}\nb,{names[1]}\n", text="t", label="l")
    assert data.classes == sorted(names)


@pytest.mark.parametrize("option", ["split", "key"])
def test_a_row_without_its_split_or_key_is_named(tmp_path, option):
    with pytest.raises(UserError, match="row 1 has nothing in the column 's'"):
        rows(tmp_path, "t,s\na,x\nb\n", text="t", **{option: "s"})


def test_json_that_is_no_list_is_refused(tmp_path):
    with pytest.raises(UserError, match="must hold a list of records"):
        rows(tmp_path, "5", ".json", text="t")


def test_half_a_character_is_replaced_and_a_bad_key_skipped(tmp_path):
    data = rows(tmp_path, '{"t": "a\\ud83d", "k": "x"}\n{"t": "b", "k": "y/"}\n', ".jsonl", text="t", key="k")
    report = convert.pack_all(data, tmp_path / "out")["train"]
    assert contents(tmp_path / "out") == {"x": {"txt": b"a?"}}
    assert dict(report.skipped) == {"a key must be a relative path without dots": 1}


def test_a_file_name_that_is_not_utf_8_is_skipped(tmp_path):
    folder = tree(tmp_path / "in", {"cat/a.png": picture()}) / "cat"
    with open(os.fsdecode(bytes(folder) + b"/\xe9.png"), "wb") as stream:
        stream.write(picture())
    report = convert.pack_all(convert.image_folder(tmp_path / "in"), tmp_path / "out")["train"]
    assert (report.samples, dict(report.skipped)) == (1, {"a key must be UTF-8": 1})
