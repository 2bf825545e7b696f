"""Category discovery learns old classes by some labels and new ones by none, and never hears of the others."""

import io
import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback
from PIL import Image
from processes import together
from quiet import QUIET
from small_discovery import TurnedEncoder, rows_of

from datamodules import Array, Label, ShardData, Text
from datamodules.pack import array_bytes
from datamodules.selection import Labelled
from mmmask.cli import main
from mmmask.discovery import (
    GET,
    MMGCD,
    BackboneEncoder,
    ConfidenceFusion,
    KMeans,
    LearnedFusion,
    MeanFusion,
    SimGCD,
    Towers,
    Vectors,
)
from mmmask.discovery.protocol import Protocol
from mmmask.errors import UserError
from mmmask.metrics import agreement
from mmmask.tokenizers import Words, learn_words
from mmmask.transformer import FourM
from tasks import CategoryDiscovery
from tasks.finished import model_of
from tasks.training.ema import EMA
from tasks.training.parallel import Parallel
from tasks.training.randomness import Randomness

CLASSES, COUNT, WORDS = 6, 120, 6
VOCABULARY = json.loads(learn_words([" ".join(f"{k}{c}{w}" for c in "abcdef" for w in "uvwxyz") for k in "pq"], 200,
                                    sentinels=8).to_str())  # fmt: skip


UNHEARD = {"changed": lambda label: 5 - label, "removed": lambda label: None}


def texts(number):
    """Two texts, each five of six words that tell the class, in any order."""
    draw, letter = np.random.default_rng(number), "abcdef"[number % CLASSES]
    return [" ".join(f"{kind}{letter}{w}" for w in draw.permutation(list("uvwxyz"))[:5]) for kind in "pq"]


def fields(number, relabel=lambda label: label):
    one, two = texts(number)
    label = relabel(number % CLASSES)
    return {"p.txt": one.encode(), "q.txt": two.encode(), "json": json.dumps({"label": label}).encode()}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shards(make_shards):
    return make_shards([COUNT // 2, COUNT // 2], fields=fields)


@pytest.fixture
def protocol(tmp_path):
    classes = {f"{n:06d}": n % CLASSES for n in range(COUNT)}
    Protocol.drawn(classes, old=[0, 2, 4]).write(tmp_path / "protocol.json")
    return tmp_path / "protocol.json"


def data(shards, protocol, val=None, **settings):
    readers = {name: Text(f"{name}.txt", drop=0.3) for name in "pq"} | {"label": Label("json", "label")}
    half = Labelled(protocol)
    return ShardData(shards, readers, val=val, labelled=half, views=2, val_train=True, batch_size=40, **settings)


def task(protocol, names="pq", objective=None, depth=1, looks=None, encoder=None, **settings):
    seed_everything(0, verbose=False)
    codecs = {name: Words(VOCABULARY, WORDS) for name in names}
    return CategoryDiscovery(
        encoder or BackboneEncoder(codecs, lambda known: FourM(known, 16, depth, 0, 2, word_std=0.7), looks),
        **{"classes": CLASSES, "width": 16, "projector_width": 16, "projector_hidden": 32, "warmup_steps": 2}
        | {"objective": objective or MMGCD(), "lr": 3e-3, "protocol": protocol, **settings},
    )


def fit(model, where, steps=60, **options):
    runner = Trainer(**{"max_steps": steps, "callbacks": [Randomness(), Parallel()], **QUIET, **options})
    runner.fit(model, where)
    return runner


def measured(model, where):
    Trainer(**QUIET).validate(model, where, verbose=False)
    return {name: float(value) for name, value in model.trainer.callback_metrics.items()}


def test_new_classes_are_found_beside_the_old(shards, protocol, make_shards):
    others = make_shards([48], "others", fields=lambda n: fields(n + 1000))
    where, model = data(shards, protocol, others), task(protocol, objective=MMGCD(evenness=4), features_first=0.4)
    before = measured(model, where)
    fit(model, where, 120)
    after = measured(model, where)
    assert before["val/all"] < 0.75
    assert min(after["val/all"], after["val/old"], after["val/new"]) > 0.9
    assert min(after["val/p/all"], after["val/q/all"]) > 0.8
    assert after["val/inductive/all"] > 0.9
    tested = Trainer(**QUIET).test(model, where, verbose=False)[0]
    assert tested["test/all"] == pytest.approx(after["val/inductive/all"])


def vectors(number):
    """Of both looks, what they have in common tells the class; each also has something of its own, which is louder."""
    draw = np.random.default_rng(number)
    common = 3 * np.eye(CLASSES)[number % CLASSES] + 0.3 * draw.normal(size=CLASSES)
    return [np.concatenate([common, 3 * draw.normal(size=4)]).astype(np.float32) for _ in "pq"]


def test_cached_features_are_learned_from_without_an_encoder_of_raw_data(make_shards, protocol):
    def own(number):
        one, two = map(array_bytes, vectors(number))
        return {"p.npy": one, "q.npy": two, "json": json.dumps({"label": number % CLASSES}).encode()}

    readers = {name: Array(f"{name}.npy") for name in "pq"} | {"label": Label("json", "label")}
    where = ShardData(make_shards([COUNT], fields=own), readers, labelled=Labelled(protocol), val_train=True,
                      batch_size=40)  # fmt: skip
    model = task(protocol, encoder=Towers({name: Vectors(10) for name in "pq"}), features_first=0.7, lr=1e-2)
    fit(model, where, 120)
    reached = measured(model, where)["val/all"]

    keys, true = [f"{n:06d}" for n in range(COUNT)], np.arange(COUNT) % CLASSES
    labels = np.array([model.places.get(key, -1) for key in keys])
    rows = np.concatenate([vectors(n) for n in range(COUNT)]).reshape(COUNT, -1)
    found = KMeans(CLASSES).fit(rows, labels).labels
    alone = agreement(found[labels < 0], true[labels < 0])["all"]
    assert alone < 0.5
    assert reached > 0.9


@pytest.mark.parametrize("fusion", [MeanFusion, lambda: LearnedFusion(2)], ids=["mean", "learned"])
def test_labels_that_the_protocol_does_not_give_change_nothing(make_shards, protocol, fusion):
    def trained(folder, relabel):
        own = make_shards([COUNT // 2, COUNT // 2], folder, lambda n: fields(n, relabel))
        model = task(protocol, features_first=0.5, fusion=fusion())
        fit(model, data(own, protocol), 6, val_check_interval=2, check_val_every_n_epoch=None)
        return model.state_dict()

    one = trained("as they are", lambda label: label)
    for folder, relabel in UNHEARD.items():
        other = trained(folder, relabel)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_nor_do_they_with_the_settings_for_products(make_shards, protocol, tmp_path):
    """The configuration as it is shipped, with fewer and smaller steps."""
    (tmp_path / "words.json").write_text(json.dumps(VOCABULARY))
    sizes = {"max_steps": 6, "val_check_interval": 3, "log_every_n_steps": 6, "default_root_dir": tmp_path / "runs"}
    settings = {"model.protocol": protocol, "data.labelled.protocol": protocol, "data.batch_size": 40}
    settings |= {f"trainer.{name}": value for name, value in sizes.items()} | {"model.classes": CLASSES}
    settings |= {"model.encoder.backbone.dim": 32, "model.width": 16, "model.projector_hidden": 32}
    settings["model.encoder.modalities.title.vocabulary"] = tmp_path / "words.json"

    def trained(folder, relabel):
        def product(number):
            photo = io.BytesIO()
            colours = np.random.default_rng(number % CLASSES).integers(255, size=(6, 4, 3), dtype=np.uint8)
            Image.fromarray(colours).resize((40, 60)).save(photo, "JPEG")
            own = fields(number, relabel)
            return {"jpg": photo.getvalue(), "txt": own["p.txt"], "json": own["json"]}

        own = make_shards([COUNT], folder, product)
        given = settings | {"data.train": own, "data.val": own}
        options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        assert main(["fit", "--config", "discovery/fashion_products.yaml", *options]) == 0
        (last,) = (max((tmp_path / "runs").glob("run-*")) / "checkpoints").glob("last*")
        return torch.load(last, weights_only=True)["state_dict"]

    one = trained("as they are", lambda label: label)
    assert one["fusion.log_weights"].any()  # prototypes have begun
    for folder, relabel in UNHEARD.items():
        other = trained(folder, relabel)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_labels_that_it_gives_do(shards, protocol, tmp_path):
    given = Protocol.read(protocol)
    swapped = {key: {0: 2, 2: 0}.get(label, label) for key, label in given.labelled.items()}
    Protocol(given.old, given.new, swapped, given.keys).write(tmp_path / "swapped.json")
    weights = []
    for path in (protocol, tmp_path / "swapped.json"):
        model = task(path)
        fit(model, data(shards, protocol), 2)
        weights.append(model.head.prototypes.weight)
    assert not torch.equal(*weights)


def test_only_unlabelled_training_samples_are_judged(shards, protocol):
    model, where = task(protocol), data(shards, protocol)
    labelled = Protocol.read(protocol).labelled
    judged = []
    model.judged[0].update = lambda fused, logits, there, labels, counted: judged.append(counted)
    Trainer(limit_val_batches=3, **QUIET).validate(model, where, verbose=False)
    assert [not flag for flag in torch.cat(judged).tolist()] == [f"{n:06d}" in labelled for n in range(COUNT)]


@pytest.mark.parametrize(
    ("names", "objective", "settings"),
    [
        ("p", SimGCD(), {}),
        ("pq", SimGCD(), {"looks": {"both": ["p", "q"]}}),
        ("pq", GET(), {"fusion": ConfidenceFusion()}),
        ("pq", MMGCD(False, False), {}),
    ],
)
def test_objectives_and_looks_are_chosen(shards, protocol, names, objective, settings):
    model = task(protocol, names, objective, features_first=0.4, **settings)
    fit(model, where := data(shards, protocol), 40)
    after = measured(model, where)
    assert after["val/all"] > 0.75
    assert ("val/p/all" in after) == (names == "pq" and "looks" not in settings)


def test_only_the_last_blocks_learn_if_so_asked(shards, protocol):
    model = task(protocol, depth=3, train_blocks=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, data(shards, protocol), 2)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[4] for name in moved if name.startswith("encoder.backbone.encoder.blocks")} == {"2"}
    assert not [name for name in moved if name.startswith("encoder.backbone.embedding")]
    assert {"adapters.p.mean", "head.prototypes.weight"} <= moved


def test_products_learn_also_after_a_validation_and_are_judged_after(shards, protocol):
    model, where = task(protocol, low_rank=2), data(shards, protocol)
    measured(model, where)
    fit(model, where, 2, callbacks=[Randomness(), Parallel(), EMA(0.9)])
    products = {name: weight for name, weight in model.named_parameters() if name.endswith("0.up")}
    assert products
    assert all(weight.requires_grad and weight.any() for weight in products.values())
    assert measured(model, where).keys() >= {"val/all"}


def test_prototypes_begin_as_clusters_with_the_old_classes_in_their_places(shards, protocol):
    model, where = task(protocol, features_first=0.5, lr=1e-6), data(shards, protocol)
    start = model.head.prototypes.weight.clone()
    fit(model, where, 2)
    assert not torch.allclose(model.head.prototypes.weight, start, atol=1e-3)
    (batch, *_) = where.val_dataloader()
    with torch.no_grad():
        logits, there = model.eval().model(batch)
        found = model.fusion(logits, there)
    given = model._given(batch["key"])
    own = found[given >= 0].argmax(-1)
    assert (own == given[given >= 0]).float().mean() > 0.9


def test_averages_of_prototypes_begin_where_prototypes_do(shards, protocol):
    ema, model = EMA(0.9), task(protocol, features_first=0.5, lr=1e-6)
    start = model.head.prototypes.weight.detach().clone()
    fit(model, data(shards, protocol), 2, callbacks=[ema])
    averaged = ema.average["head.prototypes.weight"]
    torch.testing.assert_close(averaged, model.head.prototypes.weight.detach(), atol=1e-4, rtol=0)
    assert (averaged - start).abs().max() > 1e-2


@pytest.mark.parametrize(("share", "steps"), [(0.9, 4), (0.999, 3), (0.5, 1)])
def test_prototypes_begin_however_few_steps_are_left_for_them(shards, protocol, share, steps):
    model, where = task(protocol, features_first=share, fusion=LearnedFusion(2)), data(shards, protocol)
    begun = []
    begin, model.begin_prototypes = model.begin_prototypes, lambda: (begun.append(model.global_step), begin())
    fit(model, where, steps)
    assert begun == [steps - 1]
    assert model.fusion.log_weights.any()


@pytest.mark.parametrize(("planned", "again"), [(3, False), (10, True)])
def test_a_run_that_goes_on_with_another_number_of_steps_begins_prototypes_once(shards, protocol, planned, again):
    def saved(trainer, *others):
        if trainer.global_step == 3:
            trainer.save_checkpoint("three.ckpt")

    where = data(shards, protocol)
    fit(task(protocol, features_first=0.6), where, planned, callbacks=[LambdaCallback(on_train_batch_end=saved)])
    model, begun = task(protocol, features_first=0.6), []
    model.begin_prototypes = lambda: begun.append(model.global_step)
    Trainer(max_steps=4, **QUIET).fit(model, where, ckpt_path="three.ckpt", weights_only=True)
    assert bool(begun) == again


@pytest.mark.parametrize("callbacks", [[], [EMA(0.5)]], ids=["", "averaged"])
def test_features_alone_are_judged_by_their_clusters_with_labelled_samples_pinned(shards, protocol, callbacks):
    model, where, begun = task(protocol, "p", SimGCD(), features_first=1), data(shards, protocol), []
    start, begin = model.head.prototypes.weight.clone(), model.begin_prototypes
    model.begin_prototypes = lambda: (begun.append(model.global_step), begin())
    options = {"val_check_interval": 30, "check_val_every_n_epoch": None, "callbacks": [Randomness(), *callbacks]}
    runner = fit(model, where, 40, **options)
    assert begun == [30, 40]
    assert runner.callback_metrics["val/all"] > 0.75
    assert not torch.equal(model.head.prototypes.weight, start)
    assert "train/distillation" not in runner.callback_metrics
    rows, found, labels = [], [], []
    with torch.no_grad():
        for batch in where.val_dataloader():
            rows.append(model.eval().model.directions(batch)[0])
            found.append(model.predict_step(batch)["category"])
            labels.append(model._given(batch["key"]))
    rows, found, labels = (torch.cat(part).numpy() for part in (rows, found, labels))
    clusters = KMeans(CLASSES, spherical=True).fit(rows, labels).labels
    assert (found == clusters)[labels < 0].mean() > 0.99


def test_ranks_judge_as_one_and_train_as_one(shards, protocol, tmp_path):
    def run(rank=0, world=1):
        model = task(protocol, features_first=0.5, fusion=LearnedFusion(2))
        options = {"devices": world, "strategy": "ddp" if world > 1 else "auto"}
        runner = fit(model, data(shards, protocol), 4, limit_val_batches=2, **options)
        found = {name: float(value) for name, value in runner.callback_metrics.items() if name.startswith("val/")}
        torch.save((found, model.state_dict()), tmp_path / f"{world}-{rank}.pt")

    together(2, run, 2)
    (one, weights), (other, same) = (torch.load(tmp_path / f"2-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one == other
    assert all(torch.equal(weights[name], same[name]) for name in weights)  # the running means too


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 2}, "the protocol knows 3 old ones"),
        ({"names": "p"}, "MMGCD ties two or more looks together, here is one .p."),
        ({"looks": {"one": ["p"], "other": ["qq"]}}, "there is no modality 'qq' here.*Did you mean 'q'"),
        ({"looks": {"one": ["p"], "other": []}}, "other looks at nothing"),
        ({"fusion": LearnedFusion(2)}, "LearnedFusion has a weight for each look"),
        ({"fusion": LearnedFusion(3), "features_first": 0.5}, "modalities to 2"),
        ({"features_first": 1.1}, "features_first is a share"),
        ({"train_blocks": 2}, "train_blocks is 2; there are 1 blocks"),
        ({"train_blocks": 1, "low_rank": 2}, "train_blocks or low_rank, not both"),
    ],
)
def test_settings_that_cannot_be_are_told(protocol, settings, message):
    with pytest.raises(UserError, match=message):
        task(protocol, **settings)


def test_data_that_cannot_be_are_told(shards, protocol, make_shards):
    readers = {name: Text(f"{name}.txt") for name in "pq"} | {"label": Label("json", "label")}
    wrong = make_shards([4], "wrong", fields=lambda n: fields(n) | {"p.txt": b" ", "q.txt": b" "})
    with pytest.raises(UserError, match="empty text"):
        next(iter(ShardData(wrong, readers).train_dataloader()))
    empty = {name: Text(f"{name}.txt", allow_empty=True) for name in "pq"} | {"label": Label("json", "label")}
    with pytest.raises(UserError, match="sample '000000' has none of p, q"):
        measured(task(protocol), ShardData(shards, empty, val=wrong))
    with pytest.raises(UserError, match="the batch has no 'q' for modality q"):
        measured(task(protocol), ShardData(shards, {name: readers[name] for name in ("p", "label")}, val=shards))
    model = task(protocol)
    model.places = {"others": 0}
    with pytest.raises(UserError, match="set data.val_train: true"):
        measured(model, ShardData(shards, readers, val=shards))
    with pytest.raises(UserError, match="set data.val_train: true"):
        fit(task(protocol, features_first=0.5), ShardData(shards, readers | {"p": Text("p.txt", drop=0.1)}, views=2), 2)


def test_what_is_absent_is_never_seen(protocol):
    model = task(protocol).eval()
    batch = {name: [texts(n)["pq".index(name)] for n in range(6)] for name in "pq"}
    batch["present"] = {"p": torch.ones(6, dtype=torch.bool), "q": torch.arange(6) > 2}
    other = batch | {"q": ["", "qau", "qbu qbv", *batch["q"][3:]]}
    with torch.no_grad():
        (logits, there), (same, _) = model.model(batch), model.model(other)
        assert there.tolist() == [[True] * 6, [False] * 3 + [True] * 3]
        torch.testing.assert_close(model.model.fusion(logits, there), model.model.fusion(same, there))
        torch.testing.assert_close(model.model.joined(batch), model.model.joined(other))
        torch.testing.assert_close(model.model.fusion(logits, there)[:3], logits[0, :3])


def run_of(tmp_path, shards, protocol, encoder, **settings):
    """The folder of a run of the command line."""
    made = {
        "encoder": encoder,
        "objective": {"class_path": "mmmask.discovery.MMGCD", "init_args": {"evenness": 4.0}},
        "protocol": str(protocol),
        "classes": CLASSES,
        "width": 16,
        "projector_width": 16,
        "projector_hidden": 32,
        "lr": 3e-3,
    }
    readers = {n: {"class_path": "Text", "init_args": {"field": f"{n}.txt", "drop": 0.3}} for n in "pq"}
    readers["label"] = {"class_path": "Label", "init_args": {"field": "json", "part": "label"}}
    own = {"train": shards, "views": 2, "val_train": True, "batch_size": 40, "labelled": {"protocol": str(protocol)}}
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 60,
            "val_check_interval": 30,
            "check_val_every_n_epoch": None,
            "default_root_dir": str(tmp_path / "runs"),
        },
        "model": {"class_path": "CategoryDiscovery", "init_args": {**made, **settings}},
        "data": {"class_path": "ShardData", "init_args": {**own, "modalities": readers}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["fit", "--config", str(tmp_path / "config.json")]) == 0
    return tmp_path / "runs" / "run-1"


def words_and_backbone(tmp_path):
    """What a BackboneEncoder is made of in a configuration."""
    (tmp_path / "words.json").write_text(json.dumps(VOCABULARY))
    words = {"class_path": "Words", "init_args": {"vocabulary": str(tmp_path / "words.json"), "length": WORDS}}
    sizes = {"dim": 16, "encoder_depth": 1, "decoder_depth": 0, "heads": 2, "word_std": 0.7}
    backbone = {"class_path": "mmmask.transformer.FourM", "init_args": sizes}
    return {"modalities": {name: words for name in "pq"}, "backbone": backbone}


def same_when_exported(run, tmp_path):
    """The model of a run, which is that of its export."""
    batch = {name: [texts(n)["pq".index(name)] for n in range(6)] for name in "pq"}
    trained = model_of(run).parts["discoverer"]
    assert main(["export", str(run), str(tmp_path / "exported")]) == 0
    again = model_of(tmp_path / "exported").parts["discoverer"]
    for one, other in zip(trained(batch), again(batch), strict=True):
        torch.testing.assert_close(one, other)
    return trained


def test_a_run_is_exported_begins_others_and_lends_its_features_to_discover(shards, protocol, tmp_path, capsys):
    encoder = {"class_path": "mmmask.discovery.BackboneEncoder", "init_args": words_and_backbone(tmp_path)}
    fusion = {"class_path": "mmmask.discovery.LearnedFusion", "init_args": {"modalities": 2}}
    run = run_of(tmp_path, shards, protocol, encoder, features_first=0.5, fusion=fusion)
    trained = same_when_exported(run, tmp_path)
    (last,) = (run / "checkpoints").glob("last*")
    weights = torch.load(last, weights_only=True)["state_dict"]["fusion.log_weights"]
    assert weights.any()  # they are found, where they began at 0
    torch.testing.assert_close(trained.fusion.log_weights, weights)

    begun = task(protocol, init_from=tmp_path / "exported")
    fit(begun, data(shards, protocol), 1, default_root_dir=tmp_path / "begun")
    assert (tmp_path / "begun" / "init_from.txt").read_text().count("\nloaded ") > 10

    labels = "".join(f"{key},{name}\n" for key, name in Protocol.read(protocol).labelled.items())
    (tmp_path / "labels.csv").write_text(f"key,category\n{labels}")
    settings = ["--labels", str(tmp_path / "labels.csv"), "--text", "p.txt", "--pictures", "none", "--classes", "6"]
    out = tmp_path / "found"
    capsys.readouterr()
    assert main(["discover", "--data", shards, *settings, "--model", str(run), "--out", str(out)]) == 0, (
        capsys.readouterr()
    )
    held = json.loads((out / "discovery.json").read_text())["calibration"]
    assert held["learned"] == held["held_out"] > 0
    assert f"features had learned {held['learned']} of these labels" in capsys.readouterr().out
    rows = [line.split(",") for line in (out / "assignments.csv").read_text().splitlines()[1:]]
    assert len(rows) == COUNT
    alike = [[a[1] == b[1] for b in rows] for a in rows]
    true = [[int(a[0]) % CLASSES == int(b[0]) % CLASSES for b in rows] for a in rows]
    assert np.mean(np.array(alike) == np.array(true)) > 0.95


def test_a_run_leaves_a_table_of_classes_and_gives_samples_their_categories(shards, protocol, tmp_path, capsys):
    encoder = {"class_path": "mmmask.discovery.BackboneEncoder", "init_args": words_and_backbone(tmp_path)}
    run = run_of(tmp_path, shards, protocol, encoder, features_first=0.5)
    given = Protocol.read(protocol)
    table = {row["class"]: row for row in rows_of(run / "classes.csv")}
    assert list(table) == [str(n) for n in range(CLASSES)]
    assert [row["kind"] for row in table.values()] == ["old", "new"] * 3
    assert [int(row["samples"]) for row in table.values()] == [10, 20] * 3  # those that are not labelled
    assert sum(int(row["found"]) for row in table.values()) > 0.8 * 90
    assert [table[str(label)]["category"] for label in given.old] == ["0", "1", "2"]
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.glob("*inductive*"))

    predict = ["predict", "--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "out")]
    last = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main([*predict, *last, "--data.predict", shards, "--data.batch_size", "33"]) == 0
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert [row["key"] for row in rows] == [f"{n:06d}" for n in range(COUNT)]
    assert all(row["class"] == (str(2 * int(row["category"])) if int(row["category"]) < 3 else "") for row in rows)
    hits = [row["category"] == table[str(int(row["key"]) % CLASSES)]["category"] for row in rows
            if row["key"] not in given.labelled]  # fmt: skip
    assert sum(hits) == sum(int(row["found"]) for row in table.values())
    sure = [float(row["confidence"]) for row in rows]
    assert 1 / CLASSES < min(sure) <= max(sure) <= 1
    capsys.readouterr()
    assert main([*predict, "--data.predict", shards]) == 2  # untrained
    assert "there are no categories yet" in capsys.readouterr().err


def test_ranks_predict_in_the_order_of_the_data(shards, protocol, tmp_path):
    def run(rank=0, world=1):
        model = task(protocol)
        options = {
            "devices": world,
            "strategy": "ddp" if world > 1 else "auto",
            "default_root_dir": tmp_path / str(world),
        }
        Trainer(**{**QUIET, **options}).predict(model, data(shards, protocol, predict=shards))

    run()
    together(2, run, 2)
    alone, both = ((tmp_path / world / "predictions.csv").read_text() for world in "12")
    assert both == alone


def test_an_encoder_of_a_class_of_ones_own_comes_back_with_its_settings_and_weights(shards, protocol, tmp_path):
    given = words_and_backbone(tmp_path) | {"times": 2.0}
    run = run_of(tmp_path, shards, protocol, {"class_path": "small_discovery.TurnedEncoder", "init_args": given})
    encoder = model_of(run).parts["discoverer"].encoder
    (last,) = (run / "checkpoints").glob("last*")
    weights = torch.load(last, weights_only=True)["state_dict"]
    assert isinstance(encoder, TurnedEncoder)
    assert encoder.times == 2.0
    torch.testing.assert_close(encoder.turn.weight, weights["encoder.turn.weight"])
    torch.testing.assert_close(encoder.backbone.norm.weight, weights["encoder.backbone.norm.weight"])


def test_an_encoder_whose_parameters_have_no_types_is_told_by_its_name(shards, protocol, tmp_path, capsys):
    encoder = {"class_path": "small_discovery.UntypedEncoder", "init_args": words_and_backbone(tmp_path)}
    with pytest.raises(AssertionError):
        run_of(tmp_path, shards, protocol, encoder)
    told = capsys.readouterr().err  # in words that depend on the version of the parser
    assert "UntypedEncoder" in told
    assert "there is no class" not in told


def test_towers_learn_by_products_and_are_exported_without_their_files(shards, protocol, tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=200, **sizes), False).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").write_text(json.dumps(VOCABULARY))
    tower = {"class_path": "mmmask.discovery.PretrainedTexts", "init_args": {"folder": str(tmp_path / "bert")}}
    encoder = {"class_path": "mmmask.discovery.Towers", "init_args": {"looks": {name: tower for name in "pq"}}}
    run = run_of(tmp_path, shards, protocol, encoder, low_rank=2)
    trained = same_when_exported(run, tmp_path)
    before = BertModel.from_pretrained(tmp_path / "bert", add_pooling_layer=False).state_dict()
    after = trained.encoder.looks["p"].net.state_dict()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved
    assert all(name.startswith("encoder.layer.") and name.endswith("weight") for name in moved)
    (tmp_path / "bert").rename(tmp_path / "gone")
    assert model_of(tmp_path / "exported").parts["discoverer"].encoder.widths == {"p": 16, "q": 16}
    with pytest.raises(UserError, match="init_from fills a backbone; Towers bring weights of their own"):
        fit(task(protocol, encoder=Towers({"p": Vectors(3), "q": Vectors(3)}), init_from=tmp_path / "exported"), None)
