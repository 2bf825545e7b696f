"""Boxes, records and palettes in the words of one vocabulary: learned, predicted, configured, exported."""

import io
import json

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from PIL import Image
from quiet import QUIET
from torch.utils.data import DataLoader

from mmmask.cli import main
from mmmask.masking import Component, DirichletMask
from mmmask.pretrained.model_files import read
from mmmask.synthesis import Autoregressive
from mmmask.tokenizers import Boxes, Choice, Metadata, Palette, learn_words
from mmmask.transformer import FourM
from tasks.cross_modal import CrossModal

COLOURS = {"red": (239, 32, 64), "blue": (80, 112, 207), "green": (96, 191, 128)}  # of 17 levels
NAMES = list(COLOURS)
WORDS = json.loads(learn_words(["a"], 200, sentinels=12, coordinates=17, classes=NAMES).to_str())
SETTINGS = {
    "group": ("Choice", {"names": NAMES}),
    "palette": ("Palette", {"colours": 2, "levels": 17, "source": "picture"}),
    "det": ("Boxes", {"names": NAMES, "size": 16, "most": 2}),
    "metadata": ("Metadata", {"entries": {"brightness": [0, 240, 17], "people": [0, 16, 17]}}),
}
WRITTEN = ["palette", "det", "metadata"]
RECORDS = [{"brightness": 75.0 * kind, "people": float(kind)} for kind in range(3)]


def sample(number):
    """A bar whose colour tells where it is, and how bright it is."""
    kind = number % 3
    picture = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    picture[:, 2 + 4 * kind : 6 + 4 * kind] = torch.tensor(COLOURS[NAMES[kind]], dtype=torch.uint8)[:, None, None]
    box = [kind, 0, 2 + 4 * kind, 16, 6 + 4 * kind]
    return {
        "key": str(number),
        "picture": picture,
        "det": torch.tensor([box]),
        "metadata": RECORDS[kind],
        "group": NAMES[kind],
    }


def together(samples):
    stacked = {name: torch.stack([one[name] for one in samples]) for name in ("picture", "det")}
    return stacked | {name: [one[name] for one in samples] for name in ("metadata", "group", "key")}


@pytest.fixture(scope="module")
def model():
    """Trained for seconds."""
    seed_everything(0, verbose=False)
    kinds = {"Choice": Choice, "Palette": Palette, "Boxes": Boxes, "Metadata": Metadata}
    codecs = {
        name: kinds[kind](**own, **({} if kind == "Choice" else {"vocabulary": WORDS}))
        for name, (kind, own) in SETTINGS.items()
    }
    masks = [Component(known=0.1, asked=1.0, keep=keep) for keep in (None, dict.fromkeys(WRITTEN, "all"))]
    task = CrossModal(
        codecs,
        lambda modalities: FourM(modalities, 32, 2, 2, 2, word_std=0.7),
        lambda modalities: DirichletMask(modalities, masks, known=(8, 8), asked=(24, 24)),
        decoders={name: Autoregressive(0.0) for name in WRITTEN},
        lr=1e-2,
    )
    data = DataLoader([sample(number) for number in range(48)], 24, collate_fn=together)
    Trainer(max_steps=120, **QUIET).fit(task, data)
    return task.model.eval()


def test_each_is_predicted_from_each_other(model):
    truth = together([sample(kind) for kind in range(3)])
    truth["palette"] = truth.pop("picture")
    del truth["key"]
    for given in truth:
        others = [name for name in truth if name != given]
        found = model.predict({given: truth[given]}, others, grow=False)
        if given != "group":
            assert found["group"] == NAMES, given
        if given != "palette":
            stripes = (found["palette"][:, :, 0, [0, -1]] * 255).round()
            assert stripes[:, :, 0].tolist() == [list(map(float, colour)) for colour in COLOURS.values()], given
            assert (stripes[:, :, 1] == 255).all(), given
        if given != "det":
            assert torch.equal(found["det"][:, :1], truth["det"]), given
        if given != "metadata":
            assert found["metadata"] == RECORDS, given


def test_what_is_known_of_a_record_stays_and_the_rest_is_filled(model):
    (found,) = model.predict({"metadata": [{"people": 1, "___": ""}]}, ["metadata"])["metadata"]
    assert found == RECORDS[1]


@pytest.fixture
def config(make_shards, tmp_path):
    (tmp_path / "words.json").write_text(json.dumps(WORDS))

    def fields(number):
        one, png, npy = sample(number), io.BytesIO(), io.BytesIO()
        Image.fromarray(one["picture"].permute(1, 2, 0).numpy()).save(png, "PNG")
        np.save(npy, one["det"].numpy())
        texts = {"json": json.dumps(one["metadata"]), "txt": one["group"]}
        np.save(ids := io.BytesIO(), np.full(16, number))
        arrays = {"png": png.getvalue(), "npy": npy.getvalue(), "ids.npy": ids.getvalue()}
        return {**arrays, **{name: text.encode() for name, text in texts.items()}}

    words = {"vocabulary": str(tmp_path / "words.json")}
    modalities = {
        name: {"class_path": kind, "init_args": {**own, **({} if kind == "Choice" else words)}}
        for name, (kind, own) in SETTINGS.items()
    }
    modalities["dinov2@4m"] = {
        "class_path": "PublishedTokens",
        "init_args": {"of": "tok_dinov2_global", "source": "ids"},
    }
    sizes = {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
    model = {
        "modalities": modalities,
        "backbone": {"class_path": "mmmask.transformer.FourM", "init_args": sizes},
        "masks": {"class_path": "mmmask.masking.DirichletMask", "init_args": {"known": [0, 8], "asked": [8, 8]}},
        "codes_begin": True,
    }
    model["masks"]["init_args"]["components"] = [{"known": 1.0, "asked": 1.0}]
    readers = {
        "group": {"class_path": "Text"},
        "picture": {"class_path": "Image", "init_args": {"field": "png", "size": 16, "crop": "none"}},
        "det": {"class_path": "Array"},
        "metadata": {"class_path": "Json"},
        "ids": {"class_path": "Array", "init_args": {"field": "ids.npy"}},
    }
    shards = make_shards([6], fields=fields)
    data = {"train": shards, "val": shards, "batch_size": 3, "modalities": readers}
    trainer = {"accelerator": "cpu", "max_steps": 2, "default_root_dir": str(tmp_path / "runs")}
    whole = {
        "trainer": trainer,
        "model": {"class_path": "CrossModal", "init_args": model},
        "data": {"class_path": "ShardData", "init_args": data},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(whole))
    return tmp_path / "config.yaml"


def test_they_are_configured_by_name_and_an_export_needs_no_file_of_words(config, tmp_path, capsys):
    assert main(["fit", "--config", str(config)]) == 0
    assert main(["export", str(tmp_path / "runs" / "run-1"), str(tmp_path / "model")]) == 0
    (tmp_path / "words.json").unlink()
    codecs = read(tmp_path / "model").parts["any_to_any"].codecs
    assert codecs["det"].words.content == WORDS
    assert codecs["dinov2@4m"].like.vocab_size == 8192
    options = [
        "--checkpoint",
        str(tmp_path / "model"),
        "--want",
        "det,metadata,palette",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["predict-modality", *options, "--given", "palette=#0000ff #ffffff", 'metadata={"people": 2}']) == 0
    assert (tmp_path / "out" / "palette-0.png").exists()
    assert "metadata: " in capsys.readouterr().out
