"""From the trees of published image-text sets to discovered categories, with the shipped configurations: two commands
before, small towers in the place of CLIP."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmmask.cli import main
from tasks.finished import model_of

CLASSES, EACH = 4, 12


def jpeg(number, colour):
    noise = np.random.default_rng(number).integers(-20, 20, (24, 24, 3))
    stream = io.BytesIO()
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (180, 180, 40)]


def upmc(root):
    """`images/<split>/<class>/` and `texts/<split>_titles.csv`."""
    (root / "texts").mkdir(parents=True)
    for split in ("train", "test"):
        rows = []
        for kind in range(CLASSES):
            folder = root / "images" / split / f"dish_{kind}"
            folder.mkdir(parents=True)
            for n in range(EACH):
                (folder / f"dish_{kind}_{n}.jpg").write_bytes(jpeg(n, COLOURS[kind]))
                rows.append((f"dish_{kind}_{n}.jpg", f"how to cook dish {kind} recipe {n}", f"dish_{kind}"))
        with open(root / "texts" / f"{split}_titles.csv", "w", newline="") as stream:
            csv.writer(stream).writerows(rows)


def n24news(root):
    """`news/nytimes_<split>.json` and `imgs/<id>.jpg`."""
    for name in ("news", "imgs"):
        (root / name).mkdir(parents=True)
    for split in ("train", "dev", "test"):
        records = []
        for n in range(CLASSES * EACH):
            kind, name = n % CLASSES, f"{split}-{n}"
            (root / "imgs" / f"{name}.jpg").write_bytes(jpeg(n, COLOURS[kind]))
            records.append({"section": f"Section {kind}", "headline": f"News {n} of kind {kind}", "image_id": name})
        (root / "news" / f"nytimes_{split}.json").write_text(json.dumps(records))


@pytest.mark.parametrize(
    ("name", "tree", "kind", "options"),
    [("upmc_food101", upmc, "upmc-food101", []), ("n24news", n24news, "n24news", ["--text", "headline"])],
)
def test_a_published_set_is_packed_split_and_trained_on(tmp_path, monkeypatch, capsys, name, tree, kind, options):
    import open_clip

    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "source")
    sizes = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    words = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    (tmp_path / "small.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": sizes, "text_cfg": words}))
    open_clip.add_model_config(tmp_path / "small.json")
    torch.save(open_clip.create_model("small").state_dict(), tmp_path / "weights.pt")
    (tmp_path / "runs").mkdir()

    shards = f"shards/{name.removeprefix('upmc_')}"
    assert main(["shards", "pack", kind, "source", shards, *options]) == 0
    assert main(["protocol", f"{shards}/train-*.tar", f"runs/{name}-protocol.json", "--field", "cls"]) == 0
    assert "12 of 48 samples labelled, of 2 old classes" in capsys.readouterr().out
    settings = {"trainer.precision": 32, "trainer.max_steps": 3, "model.classes": CLASSES, "data.num_workers": 0}
    settings |= {"model.width": 16, "model.projector_hidden": 16, "data.batch_size": 16, "trainer.accelerator": "cpu"}
    for look in ("photo", "text"):
        settings |= {
            f"model.encoder.looks.{look}.model": "small",
            f"model.encoder.looks.{look}.pretrained": "weights.pt",
        }
    given = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    assert main(["fit", "--config", f"discovery/{name}.yaml", *given]) == 0, capsys.readouterr().err
    run = tmp_path / "runs" / f"{name}_discovery" / "run-1"
    (row,) = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["val/all"]]
    assert all(0 < float(row[column]) <= 1 for column in ("val/all", "val/inductive/all", "val/photo/all"))
    before, after = torch.load(tmp_path / "weights.pt"), model_of(run).parts["discoverer"].encoder.looks["text"].net
    learned = {name for name, weight in after.state_dict().items() if not torch.equal(weight, before[name])}
    assert {name.rpartition(".resblocks.")[2][:2] for name in learned} == {"1."}  # the last block of two
