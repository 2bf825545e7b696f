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
