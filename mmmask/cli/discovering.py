"""Verbs of discovery: discover, assign, report."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mmmask.cli.calling import call
from mmmask.errors import UserError


def find_categories(
    data: str,
    labels: Path,
    out: Path,
    classes: str | None = None,
    features: Path | None = None,
    keys: Path | None = None,
    model: Path | None = None,
    text: str = "txt",
    part: str | None = None,
    pictures: str | None = None,
    accuracy: float = 0.9,
    seed: int = 0,
    continue_: Path | None = None,
    corrections: Path | None = None,
) -> None:
    """Find the categories of samples of which few are labelled; writes tables, and a model that assigns new samples.

    Args:
        data: folder or pattern of shards.
        labels: table (.csv) with the columns key and category, or a protocol (.json).
        out: folder to write into.
        classes: how many there are, the known ones among them, as 40, or a range as 30-60 (default: estimated).
        features: vectors (.npy) of samples to go by, in place of those made here of texts and pictures.
        keys: file with the key of each of these vectors, one a line.
        model: run folder of a category discovery, or of a cross-modal training with alignment: whose features to go by.
        text: field that holds texts.
        part: entry of its JSON record, if the field is one.
        pictures: fields that hold pictures, separated by commas, or none (default: all there are).
        accuracy: how often assignments by `mmmask assign` should be right, where it does not abstain.
        seed: decides every draw.
        continue_: run folder of an earlier discovery, whose categories keep their ids and names.
        corrections: file (.yaml) with renames, merges and splits of the run that is continued; nothing else changes.
    """
    from mmmask.cli import discovery_runs
    from mmmask.discovery.finding import Wanted

    if not 0 < accuracy <= 1:
        raise UserError(f"--accuracy is {accuracy:g}; it is a share between 0 and 1.")
    if corrections is not None and continue_ is None:
        raise UserError("--corrections are of an earlier discovery: give its run folder with --continue.")
    settings = {
        "data": data,
        "labels": str(labels),
        "features": features and str(features),
        "keys": keys and str(keys),
        "model": model and str(model),
        "text": text,
        "part": part,
        "pictures": pictures,
        "seed": seed,
    }
    wanted = Wanted(number_of_classes(classes), accuracy, seed)
    for line in discovery_runs.discover(settings, out, wanted, continue_, corrections):
        print(line)


def number_of_classes(words: str | None) -> int | tuple[int, int] | None:
    """40, or (30, 60) of `30-60`."""
    if words is None:
        return None
    found = re.fullmatch(r"\s*(\d+)\s*(?:(?:-|\.\.)\s*(\d+)\s*)?", str(words))
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise UserError(f"--classes is '{words}'; give a number as 40, or a range as 30-60.")
    return (int(found[1]), int(found[2])) if found[2] else int(found[1])


def assign(arguments: list[str]) -> int:
    """`mmmask assign RUN --data SHARDS --out FILE`: the run is told by its place."""
    by_place = [arguments[0]] if arguments and not arguments[0].startswith("-") else []
    named = ["--run", *by_place] if by_place else []
    return call(assign_samples, named + arguments[len(by_place) :], "assign", by_place=False)


def assign_samples(
    run: Path,
    data: str,
    out: Path,
    features: Path | None = None,
    keys: Path | None = None,
    report: Path | None = None,
) -> None:
    """Give new samples the categories of a discovery, whose centres stay; abstain where that is unsure.

    Args:
        run: folder that mmmask discover wrote.
        data: folder or pattern of shards.
        out: table (.csv) to write: the category of each sample, or unsure, or far from everything.
        features: vectors (.npy) of the samples, if the categories were found by such.
        keys: file with the key of each of these vectors, one a line.
        report: file (.json) that gets the drift report, which is printed too.
    """
    from mmmask.cli import discovery_runs
    from mmmask.discovery.drift import drift_lines

    found = discovery_runs.assign(run, data, out, {"features": features, "keys": keys})
    if report is not None:
        from mmmask.files import written_whole

        with written_whole(report) as stream:
            stream.write(json.dumps(found, indent=1).encode())
    for line in drift_lines(found):
        print(line)


def report(run: Path, data: str | None = None, out: Path | None = None, points: int = 3000) -> None:
    """Write one HTML file that shows the categories of a discovery: cards, a map, curves. It needs no network.

    Args:
        run: folder that mmmask discover wrote.
        data: the shards, if they are not where they were.
        out: file to write (default: report.html in the run folder).
        points: samples on the map, at most.
    """
    from mmmask.cli import discovery_page

    if points < 10:
        raise UserError(f"--points is {points}; give 10 or more.")
    path, size = discovery_page.write(run, data, out or run / "report.html", points)
    print(f"{path}: {size / 1e6:.1f} MB")
