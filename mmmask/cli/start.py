"""Verbs to begin with: what works here, what is shipped, the whole thing once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from mmmask.cli.calling import call
from mmmask.cli.models import evaluate, tokenize
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
    """Train a small tokenizer and a small ENAT on drawn scenes, let it decode better, train an any-to-any model,
    discover categories with it, and show the pictures and a page (10 to 20 minutes on 2 cores).

    Args:
        out: folder for everything that is made.
    """
    from datamodules.overview import save_sheet
    from datamodules.shapes_world_data import ensure_shapes_world
    from datamodules.shards import ShardSet
    from mmmask.shipped import find
    from tasks.generating import generate

    print("1/8 drawing ShapesWorld: scenes with aligned rgb, depth, segmentation, edges, boxes, captions")
    world = ensure_shapes_world(train=5_000, test=500)
    scenes = f"{world}/test-*.tar"
    out.mkdir(parents=True, exist_ok=True)
    pictures = [save_sheet(ShardSet(scenes), out / "scenes.png", count=12)]
    print("2/8 training a tokenizer")
    tokenizer, synthesis = out / "tokenizer", out / "synthesis"
    training("fit")(["--config", str(find("demo/tokenizer.yaml")), "--trainer.default_root_dir", str(tokenizer)])
    pictures.append(max(out.rglob("reconstruction-*.png"), key=os.path.getmtime))
    print("3/8 writing token shards")
    tokenize(str(tokenizer), scenes, out / "tokens", overwrite=True)
    print("4/8 training an ENAT: class and visible tokens in, masked tokens out")
    config = ["--config", str(find("demo/synthesis.yaml")), "--model.tokenizer", str(tokenizer)]
    training("fit")([*config, "--trainer.default_root_dir", str(synthesis)])
    pictures += [out / "classes.png", out / "steps.png"]
    generate(synthesis, n=8, out=pictures[-2], strip=pictures[-1])
    pictures.append(_better_decoding(out, synthesis, scenes))
    pictures += _any_to_any(out, tokenizer, f"{world}/train-*.tar")
    pictures.append(_discovery(out, f"{world}/train-*.tar"))
    print("done. Look at:")
    for picture in pictures:
        print(f"  {picture}")


def _better_decoding(out: Path, synthesis: Path, scenes: str) -> Path:
    """Search a strategy and train a policy for 4 steps; a picture of what they change."""
    from mmmask.shipped import find
    from tasks.comparing import compare
    from tasks.image_metrics import FrechetDistance
    from tasks.searching import search

    print("5/8 searching a strategy for 4 steps, by a classifier's eyes")
    fit, judge, policy = training("fit"), out / "classifier", out / "policy"
    fit(["--config", str(find("demo/classifier.yaml")), "--trainer.default_root_dir", str(judge)])
    real = out / "real.npz"
    evaluate(synthesis, judge, real=scenes, field="rgb.png", save_statistics=real, n=100)
    shutil.rmtree(out / "search", ignore_errors=True)  # of an earlier demo, whose model was another
    search(FrechetDistance(real, judge), synthesis, out / "search", evaluations=40, images=200)
    print("6/8 training a policy that looks at each picture before each step")
    best = out / "search" / "best.yaml"
    options = ["--model.model", synthesis, "--model.start", best, "--trainer.default_root_dir", policy]
    options += ["--model.reward.init_args.features.init_args.classifier", judge]
    fit(["--config", str(find("demo/policy.yaml")), *map(str, options)])
    ways: dict[str, tuple[Path, dict[str, Any]]] = {
        "cosine": (synthesis, {"schedule": "cosine", "steps": 4, "guidance": 1.0}),
        "searched": (synthesis, {"schedule": str(best)}),
        "policy": (policy, {}),
    }
    return compare(ways, out / "decoding.png")


def _any_to_any(out: Path, tokenizer: Path, scenes: str) -> list[Path]:
    """Train on scenes and captions; tables of what is given, predicted and true."""
    from mmmask.cli.vocabulary import vocabulary
    from mmmask.shipped import find

    print("7/8 training an any-to-any model: pictures in, captions out, and back")
    words, run = out / "words.json", out / "cross_modal"
    vocabulary(scenes, words, size=140, sentinels=12)
    options = ["--model.modalities.rgb.init_args.run", tokenizer, "--trainer.default_root_dir", run]
    options += ["--model.modalities.text.init_args.vocabulary", words]
    training("fit")(["--config", str(find("demo/cross_modal.yaml")), *map(str, options)])
    return [max(run.rglob(f"{table}-step-*.png"), key=os.path.getmtime) for table in ("pixels-to-text", "text-to-rgb")]


def _discovery(out: Path, scenes: str) -> Path:
    """Find the classes of scenes of which half are known by few labels; the page that shows them."""
    from datamodules.gathering import gather
    from datamodules.shapes_world import CLASS_NAMES
    from datamodules.shards import ShardSet
    from mmmask.cli import discovering
    from mmmask.discovery.protocol import Protocol
    from mmmask.shipped import find

    print("8/8 discovering categories: shapes and colours of what is nearest, half of them known by few labels")
    given, training_run, found = out / "protocol.json", out / "discovery_training", out / "discovery"
    told = gather(ShardSet(scenes), "cls", pictures="none")
    classes = dict(zip(told.keys, map(int, told.texts), strict=True))
    protocol = Protocol.drawn(classes, old=range(0, len(CLASS_NAMES), 2), share=0.1)
    protocol.write(given)
    options: dict[str, object] = {
        "model.protocol": given,
        "data.labelled.protocol": given,
        "model.init_from": out / "cross_modal",
    }
    options |= {"model.encoder.modalities.text.vocabulary": out / "words.json", "data.train": scenes}
    options["trainer.default_root_dir"] = training_run
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    training("fit")(["--config", str(find("demo/discovery.yaml")), *words])
    labels = "".join(f"{key},{CLASS_NAMES[label]}\n" for key, label in protocol.labelled.items())
    (out / "labels.csv").write_text(f"key,category\n{labels}")
    shutil.rmtree(found, ignore_errors=True)  # of an earlier demo
    known = str(len(CLASS_NAMES))
    discovering.find_categories(scenes, out / "labels.csv", found, known, model=training_run, pictures="rgb.png")
    discovering.report(found)
    return found / "report.html"
