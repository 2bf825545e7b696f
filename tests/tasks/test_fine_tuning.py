"""Fine-tuning reads classes and maps off what an encoder makes of any modalities, trained or not, absent or not."""

import shutil

import pytest
import torch
import yaml
from conftest import sample_fields
from lightning.pytorch import Trainer, seed_everything
from processes import sharding, together
from quiet import QUIET
from small_any_to_any import NAMES, codecs, write_small_any_to_any
from torch.utils.data import DataLoader

from mmmask import shipped
from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.heads import ClassHead, DepthHead, SegmentationHead
from mmmask.pretrained.model_files import read
from mmmask.synthesis.recognition import in_order
from mmmask.transformer import FourM
from tasks.fine_tuning import FineTuning
from tasks.finished import model_of
from tasks.training.parallel import FullySharded, Parallel
from tasks.training.randomness import Randomness

CAPTIONS = ["a red circle", "a blue square", "two green rings"]


def samples(count=48, absent=0):
    """A caption tells the class; a picture is bright above a line, and says which side is which."""
    draw, found = torch.Generator().manual_seed(0), []
    for n in range(count):
        line = int(torch.randint(1, 8, (), generator=draw))
        above = (torch.arange(8) < line)[:, None].expand(8, 8)
        there = not absent or n % absent > 0
        found.append(
            {
                "key": str(n),
                "image": torch.where(above, 250, 5).to(torch.uint8)[None],
                "caption": CAPTIONS[n % 3] if there else "",
                "kind": -1,
                "label": n % 3,
                "segments": above.to(torch.uint8)[None],
                "depth": torch.where(above, 0.75, 0.25)[None],
                "present": {"image": True, "caption": there, "kind": False, "label": n % 7 > 0},
            }
        )
    return found


def task(head=lambda dim: ClassHead(dim, 3), decoder_depth=0, **settings):
    seed_everything(0, verbose=False)
    return FineTuning(
        codecs(),
        lambda modalities: FourM(modalities, 16, 2, decoder_depth, 2, word_std=0.7),
        head,
        **{"lr": 1e-2, "warmup_steps": 2, **settings},
    )


def fit(model, steps=60, rank=0, world=1, folder=None, strategy="ddp_find_unused_parameters_true", **data):
    runner = Trainer(
        max_steps=steps,
        devices=world,
        strategy=strategy if world > 1 else "auto",
        callbacks=[Randomness(), Parallel()],
        **QUIET,
    )
    runner.fit(model, DataLoader(samples(**data)[rank::world], 12 // world))
    if folder:
        runner.save_checkpoint(folder / f"{world}.ckpt")
    return runner


def measured(model, **data):
    return Trainer(**QUIET).validate(model, DataLoader(samples(**data), 7), verbose=False)[0]


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_a_class_is_learned_from_what_tells_it(pool):
    model = task(lambda dim: ClassHead(dim, 3, pool=pool, heads=2))
    before = measured(model)
    fit(model)
    after = measured(model)
    assert before["val/accuracy"] < 0.6
    assert after["val/accuracy"] == 1
    assert after["val/loss"] < before["val/loss"] / 4


def test_maps_are_learned_from_pixels():
    segments = task(lambda dim: SegmentationHead(dim, 2, "pixels", 8, width=16, depth=1), target="segments")
    depth = task(lambda dim: DepthHead(dim, "pixels", 8, width=16, depth=1), target="depth")
    before = measured(segments)["val/miou"], measured(depth)["val/l1"]
    for model in (segments, depth):
        fit(model)
    assert before[0] < 0.6
    assert measured(segments)["val/miou"] > 0.9
    assert measured(depth)["val/l1"] < min(before[1] / 3, 0.05)


def test_what_is_absent_is_not_known_and_counts_nowhere():
    model, data = task(), samples(12)
    for n, sample in enumerate(data):
        sample["present"] = {**sample["present"], "caption": False, "label": n > 5}
    batch, hidden = (next(iter(DataLoader(d, 12))) for d in (data, [{**s, "caption": "", "label": 0} for s in data]))
    hidden["label"][6:] = batch["label"][6:]
    one, other = (model.eval()._answered(some) for some in (batch, hidden))
    assert torch.equal(one[0], other[0])
    assert one[1].tolist() == [-1] * 6 + [n % 3 for n in range(6, 12)]
    assert one[1].tolist() == other[1].tolist()


def test_tokens_are_in_their_places_whatever_is_padded():
    model = task(lambda dim: DepthHead(dim, "ink", 8, width=8, depth=0), target="depth").model.eval()
    many, few = (next(iter(DataLoader(samples(count), count))) for count in (6, 1))
    torch.testing.assert_close(model.predict(many)[:1], model.predict(few))
    tokens = model.tokens(many)
    mine = (tokens.modality == model.looks_at) & tokens.is_valid()
    found, there = in_order(tokens.position[..., None].float(), tokens, mine, 16)
    assert found[..., 0].tolist() == [list(range(16))] * 6
    assert there.all()
    gone = {**many, "present": {"image": torch.zeros(6, dtype=torch.bool)}}
    assert not torch.allclose(model.predict(gone), model.predict(many))


def test_the_head_alone_can_be_trained():
    model = task(train="head")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, 3)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"head"}


def test_lower_blocks_learn_more_slowly_and_what_decodes_not_at_all():
    model = task(layer_decay=0.5, decoder_depth=1)
    optimizer = fit(model, 1).optimizers[0]
    named = {id(weight): name for name, weight in model.named_parameters()}
    rates = {named[id(w)]: group["initial_lr"] / model.lr for group in optimizer.param_groups for w in group["params"]}
    assert rates["head.out.weight"] == rates["backbone.handover.project.weight"] == 1
    assert rates["backbone.encoder.blocks.1.mlp.up.weight"] == 0.5
    assert rates["backbone.encoder.blocks.0.mlp.up.weight"] == 0.25
    assert rates["backbone.embedding.words.weight"] == rates["backbone.embedding.kinds"] == 0.125
    assert not [name for name in rates if "decoder" in name or "answers" in name or name == "backbone.norm.weight"]


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("shards", marks=sharding)])
def test_ranks_change_nothing(tmp_path, strategy):
    settings = {"shards": {"strategy": FullySharded(False)}}.get(strategy, {})
    together(2, lambda rank: fit(task(decoder_depth=1), 3, rank, 2, tmp_path, absent=5, **settings))
    fit(task(decoder_depth=1), 3, folder=tmp_path, absent=5)
    one, two = (torch.load(tmp_path / f"{n}.ckpt", weights_only=True)["state_dict"] for n in (1, 2))
    start = task(decoder_depth=1).state_dict()
    apart = sum((two[name] - one[name]).square().sum() for name in start).sqrt()
    assert apart < 1e-3 * sum((one[name] - start[name]).square().sum() for name in start).sqrt()


def test_a_run_begins_with_an_encoder_and_is_a_model_of_its_own(make_shards, tmp_path, capsys):
    """The shipped configuration, made small."""
    write_small_any_to_any(tmp_path / "any")
    config = yaml.safe_load(shipped.find("fine_tuning/fashion_products.yaml").read_text())
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    for names in (model["modalities"], data["modalities"]):
        del names["title"]
    model["modalities"]["pixels"]["init_args"].update(image_size=8, channels=1, patch=4)
    model["modalities"]["kind"] = {"class_path": "Choice", "init_args": {"names": NAMES}}
    model["backbone"]["init_args"].update(dim=16, encoder_depth=1, heads=2, stem="linear", places="index")
    model["head"]["init_args"]["classes"] = 3
    data["modalities"]["photo"]["init_args"].update(size=8, channels=1)
    data["modalities"]["label"]["init_args"] = {"field": "cls"}
    data["modalities"]["kind"] = {"class_path": "Text", "init_args": {"field": "kind"}}  # every other has it
    shards = make_shards([8], fields=lambda n: sample_fields(n) | ({"kind": b"ring"} if n % 2 else {}))
    data.update(train=shards, val=shards, batch_size=4)
    model["init_from"] = str(tmp_path / "any")
    config["trainer"].update(max_steps=2, val_check_interval=1, default_root_dir=str(tmp_path / "runs"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    assert "0 are fresh" in capsys.readouterr().out
    run = tmp_path / "runs" / "run-1"
    assert "loaded   embedding.pixels.weight" in (run / "init_from.txt").read_text()
    assert "val/accuracy" in (run / "metrics.csv").read_text()
    shutil.rmtree(tmp_path / "any")
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
    pictures = torch.rand(5, 1, 8, 8)
    mine, theirs = (
        found.part("recognition", "it").predict({"photo": pictures, "kind": ["", "ring", "", "", "circle"]})
        for found in (model_of(run), read(tmp_path / "model"))
    )
    assert mine.shape == (5, 3)
    assert torch.equal(mine, theirs)
    last = str(run / "checkpoints" / "last.ckpt")
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", last]) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer_decay": 0.0}, "layer_decay is a share above 0"),
        ({"target": "labels"}, "the batch has no 'labels'.*Did you mean 'label'"),
        ({"head": lambda dim: DepthHead(dim, "caption", 8)}, "caption is a sequence"),
        ({"head": lambda dim: DepthHead(dim, "depth", 8)}, "there is no modality 'depth' here"),
    ],
)
def test_what_does_not_fit_is_told(settings, words):
    with pytest.raises(UserError, match=words):
        task(**settings)._answered(next(iter(DataLoader(samples(4), 4))))
