"""Category discovery through the command line, stopped again and again, or sharded over ranks: the same run."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from processes import sharding, together
from small_discovery import KINDS, write_small_shards

sys.path.insert(0, str(Path(__file__).parent))
from stoppable_run import differences, state

from mmmask.cli import main
from mmmask.discovery.protocol import Protocol
from mmmask.tokenizers import learn_words
from tasks.finished import model_of


@pytest.fixture
def made(tmp_path):
    """Shards, a protocol of half of the kinds, words."""
    truth = write_small_shards(tmp_path / "shards", 48)
    texts = [f"classic sport summer winter soft large {kind}" for kind in KINDS]
    (tmp_path / "words.json").write_text(learn_words(texts, 60, sentinels=4).to_str())
    Protocol.drawn({key: KINDS.index(kind) for key, kind in truth.items()}, old=[0, 1, 2]).write(tmp_path / "p.json")
    return tmp_path


def config(made, name, settings, *callbacks):
    """A small training in a folder of this name; the path of its configuration."""
    words = {"class_path": "Words", "init_args": {"vocabulary": str(made / "words.json"), "length": 8}}
    patches = {"class_path": "Patches", "init_args": {"image_size": 16, "patch": 8, "source": "photo"}}
    sizes = {"dim": 16, "encoder_depth": 2, "decoder_depth": 0, "heads": 2, "dropout": 0.2, "word_std": 0.7}
    encoder = {
        "modalities": {"pixels": patches, "text": words},
        "backbone": {"class_path": "mmmask.transformer.FourM", "init_args": sizes},
        "pool": "places",
    }
    given = {"class_path": "mmmask.discovery.BackboneEncoder", "init_args": encoder}
    task = {"encoder": given, "classes": len(KINDS), "protocol": str(made / "p.json"), "width": 16, "warmup_steps": 2}
    task |= {"objective": {"class_path": "mmmask.discovery.MMGCD"}, "projector_hidden": 16, "features_first": 0.4}
    crop = {"field": "png", "size": 16, "crop": "random", "scale": [0.6, 1.0], "jitter": 0.3}
    readers = {
        "photo": {"class_path": "Image", "init_args": crop},
        "text": {"class_path": "Text", "init_args": {"drop": 0.2}},
        "label": {"class_path": "Label"},
    }
    data = {"train": f"{made}/shards/*.tar", "views": 2, "val_train": True, "batch_size": 8, "modalities": readers}
    content = {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 15,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "default_root_dir": str(made / name),
            "callbacks": [{"class_path": "EMA", "init_args": {"decay": 0.9}}, *callbacks],
        },
        "model": {"class_path": "CategoryDiscovery", "init_args": {**task, **settings}},
        "data": {"class_path": "ShardData", "init_args": {**data, "labelled": {"protocol": str(made / "p.json")}}},
    }
    (made / name).mkdir()
    (made / name / "config.yaml").write_text(yaml.safe_dump(content))
    return str(made / name / "config.yaml")


def told(run):
    """What the run says of losses and scores."""
    with open(run / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = ("train/loss", "train/info_nce", "val/all", "val/new")
    return [(row["step"], values) for row in rows if any(values := [row[name] for name in columns])]


@pytest.mark.parametrize(
    "settings",
    [{}, {"low_rank": 2}, {"train_blocks": 1}, {"features_first": 1}],
    ids=["all", "low rank", "last block", "features alone"],
)
def test_stopped_every_five_batches_it_is_the_same_run(settings, made):
    assert main(["fit", "--config", config(made, "quiet", settings)]) == 0
    stop = {"class_path": "stoppable_run.SignalAt", "init_args": {"batch": 5, "signum": 15}}
    code = main(["fit", "--config", config(made, "stopped", settings, stop)])
    quiet, stopped, stops = made / "quiet/run-1", made / "stopped/run-1", 0
    while code == 143 and stops < 9:
        stops += 1
        code = main(["resume", str(stopped)])
    assert code == 0
    assert stops >= 2
    for name in ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step"):
        assert differences(state(stopped)[name], state(quiet)[name]) == [], name
    assert told(stopped) == told(quiet)


def test_what_a_person_corrects_is_trained_on_where_no_record_tells_a_class(made):
    truth = write_small_shards(made / "pile", 90)
    shards, labels = str(made / "pile/*.tar"), made / "labels.csv"
    known = [(key, kind) for key, kind in truth.items() if kind in KINDS[:3]][::2]
    labels.write_text("key,category\n" + "".join(f"{key},{kind}\n" for key, kind in known))
    found = ["discover", "--data", shards, "--labels", str(labels), "--text", "txt"]
    assert main([*found, "--classes", "6", "--out", str(made / "found")]) == 0
    assignments = list(csv.DictReader((made / "found/assignments.csv").open()))
    new = next(row["category"] for row in assignments if row["kind"] == "new")
    (made / "c.yaml").write_text(yaml.safe_dump({"rename": {new: "belts"}}))
    changed = ["--continue", str(made / "found"), "--corrections", str(made / "c.yaml"), "--out", str(made / "changed")]
    assert main([*found, *changed]) == 0
    table = ["--labels", str(made / "changed/assignments.csv"), "--confidence", "0.8"]
    assert main(["protocol", shards, str(made / "p.json"), *table]) == 0
    assert Protocol.read(made / "p.json").names == tuple(sorted([*KINDS[:3], "belts"]))
    where = Path(config(made, "run", {"label": None, "objective": {"class_path": "mmmask.discovery.MMGCD"}}))
    content = yaml.safe_load(where.read_text())
    content["data"]["init_args"]["train"] = shards
    del content["data"]["init_args"]["modalities"]["label"]
    where.write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(where)]) == 0
    asked = ["--config", str(where), "--ckpt_path", str(made / "run/run-1/checkpoints/last.ckpt")]
    asked += ["--data.predict", shards, "--trainer.default_root_dir", str(made / "said")]
    assert main(["predict", *asked]) == 0
    said = list(csv.DictReader((made / "said/predictions.csv").open()))
    assert len(said) == 90
    assert {row["class"] for row in said} <= {"", "belts", *KINDS[:3]}
    assert any(row["class"] for row in said)


def towers(made):
    """The texts by the small text side of open_clip and by a BERT."""
    import open_clip
    from transformers import BertConfig, BertModel

    sizes = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    words = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    (made / "small-one.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": sizes, "text_cfg": words}))
    open_clip.add_model_config(made / "small-one.json")
    torch.save(open_clip.create_model("small-one").state_dict(), made / "weights.pt")
    bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=60, **bert), False).save_pretrained(made / "bert")
    (made / "bert" / "tokenizer.json").write_text((made / "words.json").read_text())
    clip = {"model": "small-one", "pretrained": str(made / "weights.pt"), "source": "text"}
    looks = {
        "clip": {"class_path": "mmmask.discovery.OpenClipTexts", "init_args": clip},
        "bert": {
            "class_path": "mmmask.discovery.PretrainedTexts",
            "init_args": {"folder": str(made / "bert"), "source": "text"},
        },
    }
    return {"class_path": "mmmask.discovery.Towers", "init_args": {"looks": looks}}


@pytest.mark.parametrize("kind", ["backbone", "towers", "towers, low rank"])
@sharding
def test_sharded_over_two_ranks_it_trains_and_judges_as_over_two_whole_ones(made, kind):
    settings = {} if kind == "backbone" else {"encoder": towers(made)}
    settings |= {"low_rank": 2} if kind == "towers, low rank" else {}

    def run(rank, name, strategy):
        where = ["--config", f"trainer/{strategy}.yaml", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
        assert main(["fit", "--config", str(made / name / "config.yaml"), *where]) == 0

    for name, strategy in (("whole", "ddp"), ("sharded", "fsdp2")):
        config(made, name, settings)
        together(2, run, name, strategy)
    whole, sharded = (told(made / name / "run-1") for name in ("whole", "sharded"))
    assert [step for step, _ in sharded] == [step for step, _ in whole]
    for (_, mine), (_, theirs) in zip(sharded, whole, strict=True):
        assert [float(a) for a in mine if a] == pytest.approx([float(b) for b in theirs if b], rel=1e-3)
    mine, theirs = (model_of(made / name / "run-1").parts["discoverer"].state_dict() for name in ("sharded", "whole"))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-2, atol=1e-3)
