"""Protocols: drawn by a seed or given, written and read, refused where nothing could be learned."""

import pytest

from mmmask.discovery.protocol import Protocol
from mmmask.errors import UserError

CLASSES = {f"k{n}": n % 4 for n in range(40)} | {"none": -1}


def test_half_of_the_old_classes_samples_are_labelled():
    protocol = Protocol.drawn(CLASSES, seed=3)
    assert len(protocol.old) == len(protocol.new) == 2
    assert sorted(protocol.old + protocol.new) == [0, 1, 2, 3]
    assert len(protocol.labelled) == 10
    assert all(CLASSES[key] == label for key, label in protocol.labelled.items())
    assert protocol == Protocol.drawn(dict(reversed(CLASSES.items())), seed=3)
    assert protocol.labelled != Protocol.drawn(CLASSES, protocol.old, seed=4).labelled


def test_what_is_written_is_read_and_equal_protocols_are_equal_files(tmp_path):
    protocol = Protocol.given(CLASSES, ["k9", "k1", "k5", "k2", "k6"])
    assert (protocol.old, protocol.new) == ((1, 2), (0, 3))
    protocol.write(tmp_path / "one.json")
    Protocol.given(CLASSES, ["k6", "k2", "k5", "k1", "k9"]).write(tmp_path / "two.json")
    assert Protocol.read(tmp_path / "one.json") == protocol
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert protocol.numbers() == {"k1": 0, "k5": 0, "k9": 0, "k2": 1, "k6": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Protocol.given(CLASSES, []), "labels no sample"),
        (lambda: Protocol.given(CLASSES, ["k0", "k4", "k1"]), "labels 1 samples of the old class 1"),
        (lambda: Protocol.drawn(CLASSES, [2, 9]), "no sample is of the old class 9"),
        (lambda: Protocol.drawn(CLASSES, share=1.0), "share of labelled samples"),
        (lambda: Protocol((0,), (0,), {"k0": 0, "k4": 0}, ""), "calls class 0 old and new"),
        (lambda: Protocol((0,), (), {"k0": 0, "k1": 5}, ""), "class 5, which is not one of the old"),
        (lambda: Protocol((0,), (), {"k0": 0, "k1": 0}, "", names=("a", "b")), "2 names for 1 old classes"),
    ],
)
def test_protocols_that_teach_nothing_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_samples_must_be_those_it_was_made_for(tmp_path):
    protocol = Protocol.drawn(CLASSES)
    protocol.check(list(CLASSES))
    with pytest.raises(UserError, match="not there, first"):
        protocol.check(set(CLASSES) - set(protocol.labelled))
    with pytest.raises(UserError, match="labels all samples"):
        protocol.check(protocol.labelled)
    with pytest.raises(UserError, match="other training samples than these 42"):
        protocol.check([*CLASSES, "more"])
    (tmp_path / "list.json").write_text("[1]")
    for name in ("list.json", "gone.json"):
        with pytest.raises(UserError, match="`mmmask protocol` makes one"):
            Protocol.read(tmp_path / name)
