"""`mmmask protocol`: from the records of shards to who is labelled."""

import json

import pytest

from mmmask import cli
from mmmask.discovery.protocol import Protocol


@pytest.fixture
def shards(make_shards):
    def fields(number):
        record = {"label": [0, 1, 2, 3, None][number % 5], "labelled": number % 5 < 2 and number < 20}
        return {"json": json.dumps(record | {"name": "x"}).encode()}

    return make_shards([20, 20], fields=fields)


def test_labelled_samples_are_drawn_or_given(shards, tmp_path, capsys):
    out = tmp_path / "protocol.json"
    assert not cli.main(["protocol", shards, str(out), "--old", "[2, 3]", "--share", "0.25"])
    assert "4 of 32 samples labelled, of 2 old classes" in capsys.readouterr().out
    assert set(Protocol.read(out).labelled.values()) == {2, 3}
    assert not cli.main(["protocol", shards, str(out), "--given", "labelled"])
    assert sorted(Protocol.read(out).labelled) == [f"{n:06d}" for n in range(20) if n % 5 < 2]
    assert Protocol.read(out).new == (2, 3)


def test_a_field_may_hold_the_class_alone_and_the_larger_half_is_old(make_shards, tmp_path, capsys):
    shards, out = make_shards([30], fields=lambda number: {"cls": str(number % 3).encode()}), tmp_path / "protocol.json"
    assert not cli.main(["protocol", shards, str(out), "--field", "cls"])
    made = Protocol.read(out)
    assert (len(made.old), len(made.new), len(made.labelled)) == (2, 1, 10)
    assert "10 of 30 samples labelled, of 2 old classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "name"], "is 'x' and no whole number"),
        (["--label", "class"], "its record, 'json', has no 'class'"),
        (["--given", "nobody"], "labels no sample"),
    ],
)
def test_mistakes_are_told(shards, tmp_path, capsys, options, message):
    assert cli.main(["protocol", shards, str(tmp_path / "p.json"), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_table_of_names_makes_a_protocol(shards, tmp_path, capsys):
    out, table = tmp_path / "protocol.json", tmp_path / "labels.csv"
    table.write_text("key,category\n000003,shoes\n000001,bags\n000007,shoes\n000002,\n000030,bags\n")
    assert not cli.main(["protocol", shards, str(out), "--labels", str(table)])
    assert "4 of 40 samples labelled, of 2 old classes" in capsys.readouterr().out
    made = Protocol.read(out)
    assert (made.names, made.old, made.new) == (("bags", "shoes"), (0, 1), ())
    assert made.called() == {"000003": "shoes", "000007": "shoes", "000001": "bags", "000030": "bags"}


def test_of_assignments_the_sure_ones_of_known_categories_are_labels(shards, tmp_path):
    out, table = tmp_path / "protocol.json", tmp_path / "assignments.csv"
    rows = [f"{n:06d},{n % 3},{'abc'[n % 3]},{'new' if n % 3 == 1 else 'known'},{n / 20:.2f}" for n in range(20)]
    table.write_text("key,id,category,kind,confidence\n" + "\n".join(rows) + "\n")
    assert not cli.main(["protocol", shards, str(out), "--labels", str(table), "--confidence", "0.5"])
    made = Protocol.read(out)
    assert made.called() == {f"{n:06d}": "abc"[n % 3] for n in range(10, 20) if n % 3 != 1}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("000001,a\n000002,b\n000003,b\n", [], "labels 1 sample of 'a'"),
        ("gone,a\n000002,a\n", [], "1 keys are not in the data, the first is 'gone' in line 2"),
        ("000001,a\n000002,a\n", ["--old", "[1]"], "leave --given and --old out"),
        ("000001,a\n000002,a\n", ["--confidence", "0.5"], "no column 'kind'"),
        ("".join(f"{n:06d},a\n" for n in range(40)), [], "labels all samples"),
    ],
)
def test_mistakes_in_tables_are_told(shards, tmp_path, capsys, rows, options, message):
    (tmp_path / "labels.csv").write_text("key,category\n" + rows)
    arguments = ["protocol", shards, str(tmp_path / "p.json"), "--labels", str(tmp_path / "labels.csv"), *options]
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


def test_confidence_needs_assignments(shards, tmp_path, capsys):
    assert cli.main(["protocol", shards, str(tmp_path / "p.json"), "--confidence", "0.5"]) == 2
    assert "give both" in capsys.readouterr().err
