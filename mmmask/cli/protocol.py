"""The verb that writes a protocol of category discovery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmmask.errors import UserError

if TYPE_CHECKING:
    from mmmask.discovery.protocol import Protocol


def protocol(
    shards: str,
    out: Path,
    label: str = "label",
    given: str | None = None,
    old: list[int] | None = None,
    share: float = 0.5,
    seed: int = 0,
    field: str = "json",
    labels: Path | None = None,
    confidence: float | None = None,
) -> None:
    """Write which classes are old and which training samples are labelled, for `CategoryDiscovery`.

    By the records of the shards or, where these tell no classes, by a table.

    Args:
        shards: path or pattern of the training shards.
        out: file to write, a .json.
        label: part of the records that holds the class, a number; samples where it is null are left out.
        given: part of the records that says whether a sample is labelled (default: they are drawn).
        old: classes of which samples are labelled (default: half of all, the larger one, drawn).
        share: of the samples of each old class that are labelled.
        seed: of the draws.
        field: of the shards that holds the records, or the class alone (cls).
        labels: table (.csv) with the columns key and category, in place of all these.
        confidence: of assignments by `mmmask discover` as labels: only known categories, so sure at least.
    """
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} into: make it first.")
    if labels is None and confidence is not None:
        raise UserError("protocol: confidence chooses among --labels, the assignments of a discovery; give both.")
    if labels is not None and (given is not None or old is not None):
        raise UserError("protocol: labels says which samples are labelled; leave --given and --old out.")
    if labels is None:
        made, count = _by_records(shards, field, label, given, old, share, seed)
    else:
        made, count = _by_table(shards, labels, confidence)
    made.write(out)
    print(f"{out}: {len(made.labelled):,} of {count:,} samples labelled, of {len(made.old)} old classes")
    if labels is None:
        print(f"new       {len(made.new)} classes, which training does not hear of")


def _by_records(
    shards: str, field: str, label: str, given: str | None, old: list[int] | None, share: float, seed: int
) -> tuple[Protocol, int]:
    """A protocol, and how many samples have a class."""
    from datamodules import ShardSet
    from datamodules.selection import records
    from mmmask.discovery.protocol import Protocol

    classes: dict[str, int] = {}
    labelled = []
    for key, record in records(ShardSet(shards), field, label):
        if record[label] is None:
            continue
        if not isinstance(record[label], int):
            raise UserError(f"sample '{key}': its class, '{label}', is {record[label]!r} and no whole number.")
        classes[key] = record[label]
        if given is not None and record.get(given):
            labelled.append(key)
    made = Protocol.drawn(classes, old, share, seed) if given is None else Protocol.given(classes, labelled)
    return made, len(classes)


def _by_table(shards: str, labels: Path, confidence: float | None) -> tuple[Protocol, int]:
    """A protocol, and how many samples there are."""
    from datamodules import ShardSet
    from mmmask.discovery.protocol import Protocol
    from mmmask.discovery.tables import labels_of, sure_members

    keys = [shard.key(row) for shard in ShardSet(shards).shards for row in range(len(shard))]
    named = labels_of(labels, keys)
    if confidence is not None:
        sure = sure_members(labels, confidence)
        named = {key: name for key, name in named.items() if key in sure}
    made = Protocol.named(named, keys)
    made.check(keys, str(labels))
    return made, len(keys)
