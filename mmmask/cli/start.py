"""Verbs to begin with: what works here, what is shipped, the whole thing once."""

from __future__ import annotations

import os
from pathlib import Path

from mmmask.cli.calling import call
from mmmask.cli.models import tokenize
from mmmask.cli.training import training
from mmmask.errors import UserError


def configs(arguments: list[str]) -> int:
    """`mmmask configs [list | copy NAME]`."""
    from mmmask import shipped

    return call({"list": shipped.show, "copy": shipped.copy}, arguments or ["list"], "configs")


def doctor(folder: Path = Path(), json: bool = False) -> int:
    """Look at versions, devices, memory, disk and limits, and try one training step. Exit code 1: cannot train.

    Args:
        folder: where runs would be written.
        json: print a list of records instead of a table.
    """
    from mmmask.doctor import can_train, findings

    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}.")
    found = list(findings(folder))
    if json:
        from dataclasses import asdict
        from json import dumps

        print(dumps([asdict(finding) for finding in found], indent=1))
    else:
        from rich import print as rich_print
        from rich.markup import escape
        from rich.table import Table

        table = Table("", "what", "found", "what to do", box=None)
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for row in found:
            table.add_row(f"[{colours[row.state]}]{row.state}", *map(escape, (row.what, row.found, row.advice)))
        rich_print(table)
        print("training can run" if can_train(found) else "training cannot run: see the rows that say fail")
    return 0 if can_train(found) else 1


def demo(out: Path = Path("runs/demo")) -> None:
    """Train a small tokenizer and a small ENAT on drawn scenes, and show their pictures (5 minutes on 2 cores).

    Args:
        out: folder for everything that is made.
    """
    from datamodules.overview import save_sheet
    from datamodules.shapes_world_data import ensure_shapes_world
    from datamodules.shards import ShardSet
    from mmmask.shipped import find
    from tasks.generating import generate

    print("1/4 drawing ShapesWorld: scenes with aligned rgb, depth, segmentation, edges, boxes, captions")
    scenes = f"{ensure_shapes_world(train=5_000, test=500)}/test-*.tar"
    out.mkdir(parents=True, exist_ok=True)
    pictures = [save_sheet(ShardSet(scenes), out / "scenes.png", count=12)]
    print("2/4 training a tokenizer")
    tokenizer, synthesis = out / "tokenizer", out / "synthesis"
    training("fit")(["--config", str(find("demo/tokenizer.yaml")), "--trainer.default_root_dir", str(tokenizer)])
    pictures.append(max(out.rglob("reconstruction-*.png"), key=os.path.getmtime))
    print("3/4 writing token shards")
    tokenize(tokenizer, scenes, out / "tokens", overwrite=True)
    print("4/4 training an ENAT: class and visible tokens in, masked tokens out")
    config = ["--config", str(find("demo/synthesis.yaml")), "--model.tokenizer", str(tokenizer)]
    training("fit")([*config, "--trainer.default_root_dir", str(synthesis)])
    pictures += [out / "classes.png", out / "steps.png"]
    generate(synthesis, n=8, out=pictures[-2], strip=pictures[-1])
    print("done. Pictures:")
    for picture in pictures:
        print(f"  {picture}")
