"""What discover and assign do: read shards, find or assign, write tables; the summary in lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from datamodules.gathering import gather
from datamodules.shards import ShardSet
from mmmask.cli.given_vectors import vectors_of_run, with_features
from mmmask.discovery.categories import Discovery
from mmmask.discovery.continuing import keep_ids
from mmmask.discovery.corrections import Corrections, corrected
from mmmask.discovery.describing import describe
from mmmask.discovery.discovery_files import is_discovery, read_discovery, write_discovery
from mmmask.discovery.drift import drift
from mmmask.discovery.finding import Found, Wanted, find
from mmmask.discovery.space import Samples, Space
from mmmask.discovery.tables import read_labels, read_members, write_assignments, write_categories
from mmmask.errors import UserError
from mmmask.files import only_writer, written_whole

MAP, MAPPED = "map.safetensors", 5000  # rows of samples drawn by chance, for the page


def discover(
    settings: dict[str, Any], out: Path, wanted: Wanted, before: Path | None, changes: Path | None
) -> Iterator[str]:
    """Write a run folder, whole or not at all; lines that tell what was found."""
    if out.exists() and (not out.is_dir() or is_discovery(out) or _foreign(out)):
        what = "another discovery" if is_discovery(out) else "other things"
        raise UserError(f"{out} holds {what}: choose a new folder (--continue takes up an earlier discovery).")
    old = read_discovery(before) if before is not None else None
    shards = ShardSet(settings["data"], allow="remote")
    samples = _samples(shards, settings)
    labels, names = read_labels(Path(settings["labels"]), samples.keys)
    if old is not None and before is not None and changes is not None:
        found = _changed(old, before, samples, labels, changes)
    else:
        found = find(samples, labels, names, wanted, Space.fit(samples, wanted.seed))
        if old is not None:
            keep_ids(found, old, samples)
    found.discovery.made_from = settings | {
        "samples": len(samples.keys),
        "labelled": int((labels >= 0).sum()),
        "classes": wanted.classes,
        "continued": before and str(before),
        "corrections": changes and str(changes),
        "distance": float(found.discovery.nearest(found.rows).distance.mean()),
    }
    with only_writer(out):
        _write(out, samples, found)
    yield from summary(found, names, wanted, old)
    yield f"written to {out}; look at it: mmmask report {out}"


def _foreign(folder: Path) -> bool:
    ours = {"assignments.csv", "categories.csv", "curves.json", MAP, "discovery.safetensors"}
    return any(path.name not in ours and not path.name.startswith(".") for path in folder.iterdir())


def _samples(shards: ShardSet, settings: dict[str, Any]) -> Samples:
    other = settings["features"] or settings["model"]
    pictures = "none" if other else settings["pictures"]
    samples = gather(shards, settings["text"], settings["part"], pictures)
    samples = with_features(samples, settings)
    if settings["model"] and settings["features"]:
        raise UserError("--model and --features both say what to go by: give one of them.")
    if settings["model"]:
        samples.given, samples.learned = vectors_of_run(Path(settings["model"]), settings["data"])
    samples.check()
    return samples


def _changed(old: Discovery, before: Path, samples: Samples, labels: np.ndarray, changes: Path) -> Found:
    """The earlier result with a person's corrections; samples that it did not have are assigned."""
    members_of = read_members(before, old)
    rows, nothing = old.space.joined(old.space.parts(samples))
    nearest_to = old.nearest(rows, nothing).category
    members = np.array([members_of.get(key, near) for key, near in zip(samples.keys, nearest_to, strict=True)])
    read = Corrections.read(changes)
    members = corrected(old, members, rows, labels >= 0, read, changes)
    curves = json.loads((before / "curves.json").read_text()) if (before / "curves.json").is_file() else {}
    return Found(old, rows, members, curves)


def _write(out: Path, samples: Samples, found: Found) -> None:
    """Tables, rows for the map, then the model, whose record comes last."""
    discovery = found.discovery
    assigned = discovery.of_members(found.rows, found.members)
    describe(discovery, samples, assigned)
    write_assignments(out / "assignments.csv", samples.keys, assigned, discovery.categories)
    write_categories(out / "categories.csv", discovery.categories)
    with written_whole(out / "curves.json") as stream:
        stream.write(json.dumps(found.curves, indent=1).encode())
    some = np.random.default_rng(0).permutation(len(samples.keys))[:MAPPED]
    with written_whole(out / MAP) as stream:
        stream.write(save({"rows": found.rows[np.sort(some)].astype(np.float16), "places": np.sort(some)}))
    write_discovery(out, discovery)


def summary(found: Found, names: list[str], wanted: Wanted, old: Discovery | None) -> Iterator[str]:
    """What was found, and what of it was estimated."""
    discovery, curves = found.discovery, found.curves
    categories = discovery.categories
    told, known = discovery.made_from, sum(category.known for category in categories)
    yield f"samples     {told['samples']:,}, of which {told['labelled']:,} are labelled in {len(names)} categories"
    if weights := discovery.space.weights:
        shares = ", ".join(f"{name} {weight:.0%}" for name, weight in weights.items())
        yield f"trust       {shares}" + (" (chosen on the labelled samples)" if len(weights) > 1 else "")
    yield f"categories  {len(categories)}: {known} known, {len(categories) - known} new"
    if curve := curves.get("classes"):
        low, high = curve["range"]
        yield f"            the number is an estimate: best {curve['best']}, and {low} to {high} cannot be told from it"
    elif not told["corrections"]:
        yield "            the number was given"
    if old is not None:
        kept = {category.id for category in old.categories} & {category.id for category in categories}
        yield f"            {len(kept)} of {len(old.categories)} earlier ids are kept"
    calibration = discovery.calibration
    if calibration.held_out:
        coverage, accuracy = calibration.reached
        yield (
            f"assign      on {calibration.held_out:,} labelled samples held out: above confidence "
            f"{calibration.threshold:.2f}, {coverage:.0%} of them, {accuracy:.1%} are right"
        )
        if calibration.tested:
            coverage, accuracy = calibration.tested
            yield f"            tested where the threshold was not chosen: {coverage:.0%}, {accuracy:.1%} right"
        if calibration.learned:
            learned = f"features had learned {calibration.learned:,} of these labels"
            yield f"            {learned}: of others fewer will be right"
        if calibration.reached[1] < wanted.accuracy:
            yield f"            {wanted.accuracy:.0%} was asked for, and is not reached at any confidence"
    else:
        yield "assign      each category has one labelled sample: none can be held out, so no threshold is known"
    if nothing := curves.get("nothing"):
        yield f"            {nothing:,} samples have no picture and no known word: they lie in the middle of all"


def assign(run: Path, data: str, out: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Write the table of new samples; how they differ from those of the discovery."""
    discovery = read_discovery(run)
    if out.suffix != ".csv":
        raise UserError(f"the table of assignments is a .csv, not '{out.name}'.")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} into: make it first.")
    settings = {**discovery.made_from, "data": data, **given}
    if discovery.made_from.get("features") and not given["features"]:
        raise UserError(f"{run} was found by vectors: give those of the new samples, --features and --keys.")
    if given["features"] and not discovery.made_from.get("features"):
        raise UserError(f"{run} was not found by vectors that were given: leave out --features.")
    samples = _samples(ShardSet(data, allow="remote"), settings)
    found = discovery.assign(samples)
    threshold = discovery.calibration.threshold
    kinds = write_assignments(out, samples.keys, found, discovery.categories, threshold)
    return drift(discovery, found, kinds)
