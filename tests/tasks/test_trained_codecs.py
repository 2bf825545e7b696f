"""Tokenizers that were trained here make modalities of an any-to-any model by configuration."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from small_generators import tokenizer_of

from datamodules.pack import array_bytes, pack
from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.pretrained.model_files import Model, build, read, write
from mmmask.synthesis import log_chances
from tasks import TrainedPictures, TrainedVectors
from tasks.finished import model_of

NAMES = ["bird", "fish", "horse", "snake"]
CENTRES = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))  # of the vectors of each kind


def vector(number):
    draw = torch.Generator().manual_seed(number)
    return CENTRES[number % 4] + 0.2 * torch.randn(6, generator=draw)


def sample(number):
    content = array_bytes(vector(number).numpy().astype(np.float32))
    return {"__key__": f"{number:06d}", "npy": content, "cls": str(number % 4).encode()}


def kinds_of(vectors):
    """The nearest kinds, by direction."""
    return F.cosine_similarity(vectors[:, None], CENTRES, dim=-1).argmax(1)


VECTOR_TOKENIZER = {
    "class_path": "mmmask.tokenizers.VectorTokenizer",
    "init_args": {
        "channels": 6,
        "tokens": 2,
        "width": 32,
        "quantizer": {"class_path": "mmmask.tokenizers.CosineQuantizer", "init_args": {"vocab_size": 16, "dim": 4}},
    },
}


def fit(folder, task, settings, readers, steps):
    """The run folder of a training by the command line."""
    shards = str(folder.parent / "shards")
    data = {"train": shards, "val": shards, "batch_size": 32, "modalities": readers}
    once = {"max_steps": steps, "val_check_interval": steps, "check_val_every_n_epoch": None}
    config = {
        "trainer": {"accelerator": "cpu", "default_root_dir": str(folder), **once},
        "model": {"class_path": task, "init_args": settings},
        "data": {"class_path": "ShardData", "init_args": data},
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) == 0
    return folder / "run-1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a model that knows kinds and vectors, the latter by a tokenizer of its own run."""
    root = tmp_path_factory.mktemp("vectors")
    pack(map(sample, range(128)), root / "shards", "train")
    clip = {"clip": {"class_path": "Array"}}
    settings = {"tokenizer": VECTOR_TOKENIZER, "modality": "clip"}
    tokenizer = fit(root / "tokenizer", "TokenizerTraining", settings, clip, 80)
    sizes = {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "word_std": 0.7}
    settings = {
        "modalities": {
            "features": {"class_path": "TrainedVectors", "init_args": {"run": str(tokenizer), "source": "clip"}},
            "kind": {"class_path": "Choice", "init_args": {"names": NAMES}},
        },
        "backbone": {"class_path": "mmmask.transformer.FourM", "init_args": sizes},
        "masks": {
            "class_path": "mmmask.masking.DirichletMask",
            "init_args": {"components": [{"known": 0.3, "asked": 1.0}], "known": [0, 2], "asked": [1, 3]},
        },
        "examples": [{"given": ["kind"], "wanted": ["features"]}],
        "lr": 5e-3,
    }
    return fit(root / "both", "CrossModal", settings, clip | {"kind": {"class_path": "Label"}}, 160)


def test_vectors_are_predicted_and_predict_and_so_does_an_export(run, tmp_path):
    model = model_of(run).part("any_to_any", run)
    assert model.catalogue["features"].kind == "vector"
    asked = torch.arange(4).repeat(25)
    drawn = model.predict({"kind": [NAMES[kind] for kind in asked]}, ["features"])["features"]
    assert drawn.shape == (100, 6)
    assert (kinds_of(drawn) == asked).float().mean() > 0.8  # by chance 0.25
    given = torch.stack([vector(number) for number in range(1000, 1100)])
    told = model.predict({"features": given}, ["kind"])["kind"]
    assert np.mean([NAMES[number % 4] == name for number, name in enumerate(told)]) > 0.9
    unknown = log_chances(model, {"features": torch.full((1, 6), torch.nan)}, "kind")
    torch.testing.assert_close(unknown, log_chances(model, {"kind": [""]}, "kind"))
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
    exported = read(tmp_path / "model").parts["any_to_any"]
    assert exported.predict({"features": given}, ["kind"])["kind"] == told  # by the tokenizer that lies in it
    assert torch.equal(exported.predict({"kind": NAMES}, ["features"])["features"], drawn[:4])


def test_the_command_reads_and_tells_vectors_as_lists_of_numbers(run, tmp_path, capsys):
    def predict(*options):
        return main(["predict-modality", "--checkpoint", str(run), "--out", str(tmp_path / "out"), *options])

    assert predict("--given", "kind=fish", "--want", "features", "--n", "2") == 0
    told = [json.loads(line) for line in (tmp_path / "out" / "features.txt").read_text().splitlines()]
    assert kinds_of(torch.tensor(told)).tolist() == [1, 1]
    file = tmp_path / "fish.json"
    file.write_text(json.dumps(CENTRES[1].tolist()))
    capsys.readouterr()
    assert predict("--given", f"features={file}", "--want", "kind") == 0
    assert "kind: fish" in capsys.readouterr().out
    file.write_text('{"fish": 1}')
    assert predict("--given", f"features={file}", "--want", "kind") == 2
    assert "fish.json is no list of numbers" in capsys.readouterr().err


def test_a_tokenizer_of_other_data_is_refused(tmp_path):
    specs = {"pictures": tokenizer_of(image_size=8, patch=2), "vectors": VECTOR_TOKENIZER}
    for name, spec in specs.items():
        write(tmp_path / name, Model({"tokenizer": build(spec)}, {"tokenizer": spec}), "")
    with pytest.raises(UserError, match="pictures is no tokenizer of vectors, but of pictures: take TrainedPict"):
        TrainedVectors(tmp_path / "pictures")
    with pytest.raises(UserError, match="vectors is no tokenizer of pictures, but of vectors: take TrainedVect"):
        TrainedPictures(tmp_path / "vectors")
