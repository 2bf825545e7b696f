"""The verb that writes a protocol of category discovery."""

from __future__ import annotations

from pathlib import Path

from mmmask.errors import UserError


def protocol(
    shards: str,
    out: Path,
    label: str = "label",
    given: str | None = None,
    old: list[int] | None = None,
    share: float = 0.5,
    seed: int = 0,
    field: str = "json",
) -> None:
    """Write which classes are old and which training samples are labelled, for `CategoryDiscovery`.

    Args:
        shards: path or pattern of the training shards.
        out: file to write, a .json.
        label: part of the records that holds the class, a number; samples where it is null are left out.
        given: part of the records that says whether a sample is labelled (default: they are drawn).
        old: classes of which samples are labelled (default: half of all, the larger one, drawn).
        share: of the samples of each old class that are labelled.
        seed: of the draws.
        field: of the shards that holds the records, or the class alone (cls).
    """
    from datamodules import ShardSet
    from datamodules.selection import records
    from mmmask.discovery.protocol import Protocol

    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} into: make it first.")
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
    made.write(out)
    print(f"{out}: {len(made.labelled):,} of {len(classes):,} samples labelled, of {len(made.old)} old classes")
    print(f"new       {len(made.new)} classes, which training does not hear of")
