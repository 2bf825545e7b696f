"""Any-to-any training learns what its modalities tell of each other, whatever is absent and however many ranks."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import sample_fields
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image
from processes import sharding, together
from quiet import QUIET
from small_any_to_any import NAMES, codecs, small_training, write_small_any_to_any
from torch.utils.data import DataLoader

from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.heads import Alignment
from mmmask.heads.answers import Errors
from mmmask.masking import Component, DirichletMask
from mmmask.metrics import Recall
from mmmask.pretrained.model_files import read, write
from mmmask.synthesis import ROAR, Autoregressive, FourMSchedule, log_likelihoods
from mmmask.transformer import FourM
from tasks.cross_modal import CrossModal, Example
from tasks.finished import model_of
from tasks.retrieving import Retrieval
from tasks.training.randomness import Randomness

SHAPES = {"circle": "a red circle", "square": "a blue square", "ring": "two green rings"}


def samples(count=96, absent=0):
    """Each kind has a picture, with some noise, and a text; every `absent`-th lacks its text."""
    draw, found = torch.Generator().manual_seed(0), []
    for n in range(count):
        kind = n % 3
        picture = torch.rand(1, 8, 8, generator=draw) * 0.3 + 0.7
        picture[:, 2 * kind : 2 * kind + 3, 1:7] = 0.0
        there = not absent or n % absent > 0
        found.append(
            {
                "key": str(n),
                "image": (picture * 255).to(torch.uint8),
                "caption": SHAPES[NAMES[kind]] if there else "",
                "kind": kind,
                "present": {"image": True, "caption": there, "kind": True},
            }
        )
    return found


def loader(rank=0, world=1, batch=24, **settings):
    return DataLoader(samples(**settings)[rank::world], batch // world)


def task(**settings):
    seed_everything(0, verbose=False)
    made = codecs()
    masks = [Component(known=0.3, asked=1.0)]
    return CrossModal(
        made,
        lambda modalities: FourM(modalities, 32, 2, 2, 2, word_std=0.7),
        lambda modalities: DirichletMask(modalities, masks, known=(4, 24), asked=(8, 24)),
        **{"decoders": {"caption": Autoregressive(0.0)}, "lr": 5e-3, "weight_decay": 0.01, **settings},
    )


def aligned():
    return Alignment(["pixels", "caption"], 32, 8)


def fit(steps, rank=0, world=1, folder=None, absent=0, **settings):
    runner = Trainer(
        max_steps=steps,
        devices=world,
        strategy="ddp_find_unused_parameters_true" if world > 1 else "auto",
        callbacks=[Randomness()],
        **QUIET,
    )
    trained = task(**settings)
    runner.fit(trained, loader(rank, world, absent=absent))
    if folder:
        runner.save_checkpoint(folder / f"{world}-{steps}.ckpt")
    return trained


@pytest.fixture(scope="module")
def trained():
    return fit(400, absent=5).model.eval()


def test_each_modality_is_predicted_from_each_other(trained):
    data = samples(12)
    batch = {name: [sample[name] for sample in data] for name in ("image", "caption", "kind")}
    pictures, kinds = torch.stack(batch["image"]), [NAMES[kind] for kind in batch["kind"]]
    given = {"pixels": pictures, "ink": pictures, "caption": batch["caption"], "kind": kinds}
    ink = trained.codecs["ink"].bits(pictures)[:, None]
    for source, raw in given.items():
        others = [name for name in ("ink", "caption", "kind") if name != source]
        found = {name: trained.predict({source: raw}, [name])[name] for name in others}
        if source != "kind":
            assert found["kind"] == kinds, source
        if source != "caption":
            assert found["caption"] == batch["caption"], source
        if source not in ("ink", "pixels"):
            assert ((found["ink"] < 0.5) == ink).float().mean() > 0.95, source


def test_vectors_of_what_belongs_together_are_close_also_where_samples_lack_some():
    model = fit(100, absent=5, alignment=aligned()).model.eval()
    pictures = torch.stack([sample["image"] for sample in samples(3)])
    with torch.no_grad():
        vectors = model.vectors(model.known({"pixels": pictures, "caption": [SHAPES[name] for name in NAMES]}))
    assert (vectors["pixels"] @ vectors["caption"].T).argmax(1).tolist() == [0, 1, 2]


def test_vectors_of_a_modality_that_was_not_aligned_are_refused(trained):
    with pytest.raises(UserError, match="was trained without alignment"):
        trained.vectors(trained.known({"kind": NAMES}))
    model = task(alignment=aligned()).model
    with pytest.raises(UserError, match="kind was not aligned with other modalities in training, only pixels, caption"):
        model.vectors(model.known({"kind": NAMES}))


def test_losses_fall_to_what_cannot_be_known(tmp_path):
    model = task()
    runner = Trainer(max_steps=150, default_root_dir=tmp_path, callbacks=[Randomness()], **QUIET)
    before = runner.validate(model, loader(), verbose=False)[0]
    runner.fit(model, loader(), loader())
    after = runner.validate(model, loader(), verbose=False)[0]
    assert before.keys() == after.keys() == {"val/loss", "val/ink", "val/caption", "val/kind"}
    for name in before:
        assert after[name] < before[name] / 2, name
    assert after["val/loss"] == pytest.approx(sum(after[f"val/{n}"] for n in ("ink", "caption", "kind")) / 3, rel=1e-5)


def test_a_model_learns_a_modality_more_from_where_it_is(run, tmp_path, capsys):
    config = yaml.safe_load((run / "config.yaml").read_text())
    settings = config["model"]["init_args"]
    settings["modalities"]["tint"] = {"class_path": "Choice", "init_args": {"names": NAMES, "source": "kind"}}
    settings["init_from"] = str(run)
    config["trainer"]["max_steps"], config["trainer"]["logger"], config["trainer"]["callbacks"] = 1, None, None
    settings["lr"] = 1e-9
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({name: config[name] for name in ("trainer", "model", "data")}))
    capsys.readouterr()
    assert main(["fit", "--config", str(tmp_path / "more.yaml")]) == 0
    assert "fresh" in capsys.readouterr().out
    grown = run.parent / "run-2"
    assert "tint" in (grown / "init_from.txt").read_text()
    before, after = (model_of(folder).parts["any_to_any"] for folder in (run, grown))
    given = {"kind": NAMES}
    assert torch.equal(before.predict(given, ["ink"])["ink"], after.predict(given, ["ink"])["ink"])
    assert set(after.predict(given, ["tint"])["tint"]) <= set(NAMES)


def test_the_page_tells_how_a_modality_is_added(run, capsys):
    """Its command, on other data: the new modality is learned, the old ones are still there."""
    page = (Path(__file__).parents[2] / "docs" / "cross_modal.md").read_text().replace("\\\n", " ")
    (command,) = [line for line in page.splitlines() if "--model.modalities.silhouette" in line]
    words = {"cross_modal/emoji.yaml": str(run / "config.yaml"), "RUN": str(run)}
    given = [words.get(word, word.replace("openmoji", "picture")) for word in shlex.split(command)[1:]]
    assert main([*given, "--trainer.max_steps", "8", "--model.lr", "0.01"]) == 0
    told = (run.parent / "run-2" / "init_from.txt").read_text()
    assert "loaded   embedding.caption.words" in told
    assert "fresh    embedding.silhouette.words: the other has none" in told
    model = model_of(run.parent / "run-2").parts["any_to_any"]
    assert set(model.catalogue.names) == {"pixels", "tokens", "ink", "caption", "kind", "silhouette"}
    assert model.predict({"kind": ["ring"]}, ["silhouette"])["silhouette"].shape == (1, 1, 24, 24)
    rows = csv.DictReader((run.parent / "run-2" / "metrics.csv").open())
    losses = [float(row["val/silhouette"]) for row in rows if row["val/silhouette"]]
    assert losses[-1] < losses[0]


def test_what_is_absent_is_neither_known_nor_asked():
    model = task()
    data = samples(24)
    for sample in data:
        sample["present"]["caption"] = False
        sample["caption"] = "this must not be seen"
    runner = Trainer(callbacks=[Randomness()], **QUIET)
    found, without = (
        runner.validate(model, DataLoader(batch, 24), verbose=False)[0]
        for batch in (data, [{**sample, "caption": ""} for sample in data])
    )
    assert found == without
    assert found.keys() == {"val/loss", "val/ink", "val/kind"}


def test_sets_of_a_mixture_are_drawn_by_their_weights_and_may_lack_modalities(make_shards, tmp_path, monkeypatch):
    whole = make_shards([8])
    wordless = make_shards([6], "pictures", lambda n: {k: v for k, v in sample_fields(n).items() if k != "txt"})
    config, step, told = small_training(tmp_path, whole), CrossModal.training_step, []
    config["data"]["init_args"] |= {
        "mixture": [{"shards": wordless, "weight": 3.0}],
        "samples_per_epoch": 1024,
        "batch_size": 64,
    }
    config["trainer"] |= {"max_steps": 16, "val_check_interval": 16}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def watched(self, batch, batch_idx):
        told.extend(batch["present"]["caption"].tolist())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(CrossModal, "training_step", watched)
    assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    assert (sum(told), len(told)) == (256, 1024)
    (row, *_) = [row for row in csv.DictReader((tmp_path / "runs/run-1/metrics.csv").open()) if row["val/loss"]]
    assert {"val/ink", "val/caption", "val/kind"} <= {name for name, value in row.items() if value}


@pytest.mark.parametrize("loss", ["mod", "token"])
def test_ranks_change_nothing(tmp_path, loss):
    together(2, lambda rank: fit(3, rank, 2, tmp_path, absent=5, loss=loss))
    fit(3, folder=tmp_path, absent=5, loss=loss)
    one, two = (torch.load(tmp_path / f"{n}-3.ckpt", weights_only=True)["state_dict"] for n in (1, 2))
    start = task().state_dict()
    apart = sum((two[name] - one[name]).square().sum() for name in start).sqrt()
    moved = sum((one[name] - start[name]).square().sum() for name in start).sqrt()
    assert apart < 1e-3 * moved  # Adam makes much of the last digits of small gradients


def test_the_loss_weighs_modalities_and_tokens_as_it_is_told():
    found = {"ink": Errors(torch.tensor(8.0), 4), "caption": Errors(torch.tensor(5.0), 1)}
    found["kind"] = Errors(torch.tensor(0.0), 0)

    def value(loss):
        return task(loss=loss)._over_ranks(found).item()

    assert value("mod") == value({}) == pytest.approx((2 + 5 + 0) / 3)
    assert value("token") == pytest.approx(13 / 5)
    assert value({"ink": 3, "kind": 0}) == pytest.approx((3 * 2 + 5) / 4)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({"pixels": 1.0}, "loss weighs pixels, of which nothing can be asked; .* are ink, caption, kind"),
        ({"ink": -1.0}, "weights in loss are 0 or more"),
        ({"ink": 0.0, "caption": 0.0, "kind": 0.0}, "not all 0"),
    ],
)
def test_a_loss_that_weighs_nothing_is_refused(loss, told):
    with pytest.raises(UserError, match=told):
        task(loss=loss)


FINDS = [Retrieval(["pixels"], "ink"), Retrieval(["caption", "kind"], "ink"), Retrieval(["ink"], "caption")]


def different(count=30):
    """Samples of which no two look alike; every fifth lacks its text."""
    draw = torch.Generator().manual_seed(1)
    return [{**s, "image": torch.randint(0, 256, (1, 8, 8), generator=draw).byte()} for s in samples(count, absent=5)]


def found(rank=0, world=1, finds=FINDS, **settings):
    """What a validation finds again among the first 24, and with which model."""
    model = task(retrieval=finds, retrieval_samples=24, **settings)
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    runner = Trainer(devices=world, strategy="ddp" if world > 1 else "auto", callbacks=[Randomness()], **QUIET)
    (scores,) = runner.validate(model, DataLoader(different()[rank::world], 8 // world), verbose=False)
    return {name.removeprefix("val/"): share for name, share in scores.items() if "R@" in name}, model.model.eval()


def test_validations_say_what_is_found_again():
    scores, model = found()
    whole = [sample for n, sample in enumerate(different()[:24]) if n % 5]  # who lacks the text is not looked for by it
    given = {"caption": [s["caption"] for s in whole], "kind": [NAMES[s["kind"]] for s in whole]}
    chances = log_likelihoods(model, given, "ink", torch.stack([s["image"] for s in whole]))
    for top in (1, 5):
        recall = Recall(top)
        recall.update(chances)
        assert scores[f"caption-kind-to-ink/R@{top}"] == pytest.approx(recall.compute().item())
    assert len(scores) == 6
    assert 0 < scores["pixels-to-ink/R@5"] < 1


def test_what_is_aligned_is_found_by_its_vectors():
    scores, model = found(finds=[Retrieval(["caption"], "pixels")], alignment=aligned())
    whole = [sample for n, sample in enumerate(different()[:24]) if n % 5]
    raw = {"caption": [s["caption"] for s in whole], "pixels": torch.stack([s["image"] for s in whole])}
    with torch.no_grad():
        vectors, recall = model.vectors(model.known(raw)), Recall(5)
    recall.update(vectors["caption"] @ vectors["pixels"].T)
    assert scores["caption-to-pixels/R@5"] == pytest.approx(recall.compute().item())


def test_ranks_find_the_same(tmp_path):
    together(2, lambda rank: (tmp_path / str(rank)).write_text(json.dumps(found(rank, 2)[0])))
    assert [json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1)] == [pytest.approx(found()[0])] * 2


@pytest.mark.parametrize(
    ("given", "find", "count", "words"),
    [
        (["pixels"], "inc", 9, "there is no modality 'inc' here.*Did you mean 'ink'"),
        (["ink"], "pixels", 9, "retrieval of pixels given ink: give other modalities .* can be asked"),
        (["ink"], "ink", 9, "give other modalities than the one to find"),
        ([], "ink", 9, "given nothing"),
        (["pixels"], "ink", 1, "retrieval_samples must be 2 or more; it is 1"),
    ],
)
def test_what_cannot_be_found_is_told(given, find, count, words):
    with pytest.raises(UserError, match=words):
        task(retrieval=[Retrieval(given, find)], retrieval_samples=count)


def budgeted(batch, rank=0, world=1, stop=400, folder=None, resume=None, **settings):
    """Train for 400 samples of 48 tokens; the learning rate by samples seen, and how many there were at the end."""
    rates = {}

    class Watch(Callback):
        def on_train_batch_start(self, trainer, model, batch, batch_idx):
            rates[model.budget.spent // 48] = trainer.optimizers[0].param_groups[0]["lr"]
            trainer.should_stop = model.budget.spent >= 48 * stop

    trainer = Trainer(
        max_epochs=-1,
        devices=world,
        strategy="ddp_find_unused_parameters_true" if world > 1 else "auto",
        callbacks=[Watch(), Randomness()],
        **QUIET,
        **settings,
    )
    model = task(total_tokens=48 * 400, warmup_tokens=48 * 80)
    trainer.fit(model, loader(rank, world, batch, count=40), ckpt_path=resume, weights_only=resume and True)
    if folder:
        trainer.save_checkpoint(folder / f"{world}.ckpt")
    return rates, model.budget.spent / 48


def test_a_budget_of_tokens_is_spent_alike_in_any_batches(tmp_path):
    """40 samples in batches of 24 are one of 24 and one of 16."""
    large, end = budgeted(24)
    assert end == 400
    assert max(large.values()) == large[80] > 10 * min(large.values())
    assert large[384] < 0.01 * large[80]
    for other, more in (budgeted(8), budgeted(12, accumulate_grad_batches=2)):
        assert more == 400
        shared = [n for n in large.keys() & other.keys() if n > 80]
        assert len(shared) > 10
        for n in shared:
            assert other[n] == pytest.approx(large[n], rel=1e-6)


def test_a_budget_is_that_of_all_ranks_and_goes_on_in_other_batches(tmp_path):
    def half(rank):
        rates, end = budgeted(24, rank, 2, 184, tmp_path)
        assert max(rates) == 184
        assert end == 200  # with the epoch

    together(2, half)
    rest, end = budgeted(8, resume=tmp_path / "2.ckpt")
    assert min(rest) == 200
    assert end == 400
    whole = budgeted(8)[0]
    assert {n: rate for n, rate in whole.items() if n > 200} == pytest.approx(
        {n: r for n, r in rest.items() if n > 200}
    )


@pytest.mark.parametrize(
    ("ends", "total", "words"),
    [
        ({}, None, "nothing says when the training ends; set model.total_tokens, or trainer.max_steps"),
        ({"max_steps": 5}, 1e6, "total_tokens is 1e\\+06 and trainer.max_steps is 5: one of them must end"),
        ({"max_epochs": 5}, 1e6, "trainer.max_epochs is 5"),
        ({}, 0, "total_tokens must be above 0"),
    ],
)
def test_one_thing_ends_a_training(ends, total, words):
    with pytest.raises(UserError, match=words):
        Trainer(**ends, **QUIET).fit(task(total_tokens=total), loader())


@pytest.fixture
def run(make_shards, tmp_path):
    """The run folder that the command line leaves."""
    config = small_training(tmp_path, make_shards([8]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", "--config", str(tmp_path / "config.yaml")]) == 0
    assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    return tmp_path / "runs" / "run-1"


@torch.no_grad()
def caption_vectors(model, given):
    return model.vectors(model.known({"caption": given["caption"]}))["caption"]


def test_a_run_predicts_and_so_does_its_export_on_its_own(run, tmp_path):
    assert list((run / "samples").glob("caption-to-ink-kind-step-*.png"))
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
    given = {"caption": ["sample number 3"], "kind": ["ring"]}
    trained = model_of(run).parts["any_to_any"]
    mine, vectors = trained.predict(given, ["ink", "tokens"]), caption_vectors(trained, given)
    (tmp_path / "words.json").unlink()
    shutil.rmtree(tmp_path / "tokenizer")
    exported = read(tmp_path / "model").parts["any_to_any"]
    theirs = exported.predict(given, ["ink", "tokens"])
    assert torch.equal(caption_vectors(exported, given), vectors)
    assert torch.equal(mine["ink"], theirs["ink"])
    assert torch.equal(mine["tokens"], theirs["tokens"])
    with pytest.raises(UserError, match="tokenizer is neither a run folder|cannot read the vocabulary"):
        model_of(run)


def by_two_processes(run, trainer):
    """The run once more, with a trainer that comes with mmmask: the same losses, pictures and weights."""

    def fit(rank):
        where = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--data.batch_size", "2"]
        assert main(["fit", "--config", str(run / "config.yaml"), "--config", f"trainer/{trainer}.yaml", *where]) == 0

    together(2, fit)
    other = run.parent / "run-2"
    one, two = (list(csv.DictReader((folder / "metrics.csv").open())) for folder in (run, other))
    losses = [[float(row["val/loss"]) for row in rows if row["val/loss"]] for rows in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(losses[0]) == 2
    assert [row["val/pixels-to-caption/R@1"] for row in one] == [row["val/pixels-to-caption/R@1"] for row in two]
    assert [path.name for path in (other / "samples").iterdir()] == [path.name for path in (run / "samples").iterdir()]
    mine, theirs = (model_of(folder).parts["any_to_any"].backbone.state_dict() for folder in (run, other))
    apart = sum((mine[name] - theirs[name]).square().sum() for name in mine).sqrt()
    assert apart < 1e-3 * sum(mine[name].square().sum() for name in mine).sqrt()
    return other


@pytest.mark.slow
def test_data_parallel_processes_are_the_same_run(run):
    by_two_processes(run, "ddp")


@sharding
def test_sharded_weights_are_the_same_run_and_the_same_model(run, tmp_path, capsys):
    other = by_two_processes(run, "fsdp2")
    assert (other / "checkpoints" / "last.ckpt" / "meta.pt").exists()
    assert predict(other, tmp_path / "out", "--given", "kind=ring", "--want", "ink,caption") == 0


def test_a_run_whose_tokenizer_was_trained_again_is_refused(run, tmp_path):
    path = tmp_path / "tokenizer"
    other = read(path)
    torch.nn.init.normal_(other.parts["tokenizer"].to_code.weight)
    write(path, other, "")
    with pytest.raises(UserError, match="was trained with another tokenizer of tokens than the one that is found now"):
        model_of(run)


def predict(run, out, *options):
    return main(["predict-modality", "--checkpoint", str(run), "--out", str(out), *map(str, options)])


def test_the_command_predicts_pictures_and_texts_and_shows_all(run, tmp_path, capsys):
    picture, mask, out = tmp_path / "p.png", tmp_path / "m.png", tmp_path / "out"
    Image.fromarray(np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))).save(picture)
    Image.fromarray(np.repeat(np.array([0] * 8 + [255] * 8, dtype=np.uint8)[:, None], 16, 1)).save(mask)
    given = ["--given", f"ink={picture}", "--given", "kind=ring", "caption=a ___"]
    assert predict(run, out, *given, "--want", "ink,caption", "--mask", f"ink={mask}", "--n", 2, "--seed", 4) == 0
    told = capsys.readouterr().out
    assert told.count("caption: a") == 2
    assert (out / "caption.txt").read_text().startswith("a")
    drawn = [np.asarray(Image.open(out / f"ink-{seed}.png").convert("L")) for seed in (4, 5)]
    assert all((ink[:4, :4] == drawn[0][0, 0]).all() for ink in drawn)  # what is black in the mask stays
    assert all((ink[:4, 4:] == 255 - drawn[0][0, 0]).all() for ink in drawn)
    assert Image.open(out / "table.png").width > 600


def test_numbers_of_the_command_change_these_of_the_models_own_decoders(tmp_path, capsys):
    schedule = {"tokens": 16, "steps": 8, "temperature": 6.0, "decay": "steep", "guidance": 1.0}
    ink = {"schedule": {"class_path": "mmmask.synthesis.FourMSchedule", "init_args": schedule}, "top_p": 0.7}
    decoders = {"ink": {"class_path": "mmmask.synthesis.ROAR", "init_args": ink}}
    decoders["caption"] = {"class_path": "mmmask.synthesis.Autoregressive", "init_args": {"top_k": 5, "most": 4}}
    path = write_small_any_to_any(tmp_path / "model", decoders=decoders)
    options = ["--given", "kind=ring", "--want", "ink,caption,kind", "--seed", 3]
    assert predict(path, tmp_path, *options, "--steps", 4, "--temperature", 3) == 0
    drawn = torch.from_numpy(np.asarray(Image.open(tmp_path / "ink-3.png").convert("L")) // 255)
    told = (tmp_path / "caption.txt").read_text().strip()
    model = read(path).parts["any_to_any"]
    model.decoders["ink"] = ROAR(FourMSchedule(16, 4, "linear", 3.0, "steep", guidance=1.0), top_p=0.7)
    model.decoders["caption"] = Autoregressive(3.0, top_k=5, most=4)
    found = model.predict({"kind": ["ring"]}, ["ink", "caption"], seeds=[3])
    assert torch.equal(found["ink"][0, 0], drawn)
    assert found["caption"] == [told]
    assert predict(path, tmp_path, *options, "--guidance", 4, "--no_grow") == 0
    model.decoders["caption"] = Autoregressive(guidance=4.0, top_k=5, most=4)
    ink = FourMSchedule(16, 8, "linear", 6.0, "steep", guidance=4.0)
    model.decoders["ink"] = ROAR(ink, top_p=0.7)
    texts = [model.predict({"kind": ["ring"]}, ["ink", "caption"], [3], grow=grow)["caption"] for grow in (False, True)]
    assert texts[0] == [(tmp_path / "caption.txt").read_text().strip()] != texts[1]
    assert predict(path, tmp_path / "none", "--want", "caption,kind", "--steps", 4) == 2
    assert "--steps: of caption, kind, nothing is decoded in steps" in capsys.readouterr().err


def test_a_number_that_a_decoder_has_not_is_told(tmp_path, capsys):
    steps = [{"masked": 0.5}, {"masked": 0.0}]
    fixed = {"schedule": {"class_path": "mmmask.synthesis.Schedule", "init_args": {"steps": steps}}}
    decoders = {"ink": {"class_path": "mmmask.synthesis.Sampler", "init_args": fixed}}
    path = write_small_any_to_any(tmp_path / "model", decoders=decoders)
    assert predict(path, tmp_path / "out", "--want", "ink", "--guidance", 1) == 2
    assert "ink: Schedule has no such setting (guidance), it is what it is" in capsys.readouterr().err
    assert predict(path, tmp_path / "out", "--want", "ink") == 0


def test_weights_of_the_command_pull_and_push_as_in_python(exported, tmp_path):
    model = read(exported)
    for weight in model.parts["any_to_any"].parameters():
        torch.nn.init.normal_(weight, std=0.4)
    write(tmp_path / "model", model, "")
    mine, given = model.parts["any_to_any"], {"kind": ["ring"] * 2, "caption": ["a red circle"] * 2}
    drawn = []
    for weights in ({}, {"kind": 2.5, "caption": -0.5}, {"kind": -0.5, "caption": 2.5}):
        out = tmp_path / str(weights)
        options = ["--given", "kind=ring", "caption=a red circle", "--want", "ink", "--n", 2, "--seed", 4]
        pulls = [f"{name}={weight}" for name, weight in weights.items()]
        assert predict(tmp_path / "model", out, *options, *(["--weights", *pulls] if pulls else [])) == 0
        drawn.append([np.asarray(Image.open(out / f"ink-{seed}.png").convert("L")) // 255 for seed in (4, 5)])
        expected = mine.predict(given, ["ink"], seeds=[4, 5], weights=weights or None)["ink"]
        assert np.array_equal(drawn[-1], expected[:, 0])
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[1], drawn[2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--want", "depth"], "there is no modality 'depth' here, only pixels, ink, caption, kind"),
        (["--want", "ink", "--given", "captoin=a"], "there is no modality 'captoin'.*Did you mean 'caption'"),
        (["--want", "ink", "--given", "caption"], "--given caption: give NAME=VALUE"),
        (["--want", "ink", "--given", "pixels=none.png"], "none.png does not exist"),
        (["--want", "ink", "--given", "kind=oval"], "'oval' is none of circle, square, ring"),
        (["--want", "ink", "--given", "kind=ring", "--weights", "kind=much"], "the weight must be a number"),
        (["--want", "ink", "--n", "0"], "n must be 1 or more"),
    ],
)
def test_mistakes_of_the_command_are_a_sentence(exported, tmp_path, capsys, options, words):
    assert predict(exported, tmp_path / "out", *options) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write_small_any_to_any(tmp_path_factory.mktemp("exported") / "model")


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match="there is no modality 'colour'"):
        task(examples=[Example(["colour"], ["ink"])])
    batch = next(iter(loader()))
    del batch["caption"]
    with pytest.raises(UserError, match="the batch has no 'caption' for modality caption"):
        task().model.read(batch)
