"""Image synthesis learns, reuses as it will when decoding, and says what does not fit."""

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from mmmask.errors import UserError
from mmmask.masking import Cosine, Fixed, RatioMask
from mmmask.modalities import Modality
from mmmask.synthesis import CosineSchedule, ENATSchedule, Sampler
from mmmask.tokens import Split
from mmmask.transformer import ENAT, AutoNAT, FourM
from tasks.image_synthesis import ImageSynthesis, _in_two
from tasks.training.ema import EMA
from tasks.training.randomness import Randomness

WORDS, LENGTH, CLASSES = 8, 16, 3


def backbone(family="enat", **changes):
    if family == "enat":
        sizes = {"dim": 32, "encoder_depth": 2, "decoder_depth": 2, "heads": 2, "dropout": 0.0}
        return ENAT(WORDS, LENGTH, CLASSES, **{**sizes, **changes})
    if family == "fourm":
        sizes = {"dim": 32, "encoder_depth": 2, "decoder_depth": 2, "heads": 2, "word_std": 0.7, "answer_std": 0.1}
        return FourM([Modality("image", LENGTH, WORDS), Modality("class", 1, CLASSES, kind="set")], **sizes, **changes)
    return AutoNAT(WORDS, LENGTH, CLASSES, **{"dim": 32, "depth": 3, "heads": 2, "dropout": 0.0, **changes})


class Pictures(torch.utils.data.Dataset):
    """Grids in which the class and one visible token tell all: word = class + 2 * (column is odd) + a shift."""

    def __len__(self):
        return 256

    def __getitem__(self, n):
        label, shift = n % CLASSES, n // CLASSES % 2
        ids = (label + 3 * shift + torch.arange(LENGTH) % 2) % WORDS
        return {"key": str(n), "image": ids.view(4, 4), "label": label}


def loader(shuffle=True, batch_size=32):
    return torch.utils.data.DataLoader(Pictures(), batch_size, shuffle=shuffle)


def trainer(tmp_path, steps, *callbacks, **options):
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[Randomness(), *callbacks],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.parametrize("family", ["enat", "autonat", "fourm"])
def test_it_learns_what_there_is_to_learn(family, tmp_path):
    pl.seed_everything(0)
    masks = RatioMask(Cosine())  # all masked often enough, for a grid so small
    task = ImageSynthesis(
        backbone(family), None, masks=masks, lr=1e-2, warmup_steps=10, decay="cosine", label_smoothing=0
    )
    runner = trainer(tmp_path, 400, EMA(0.9))
    runner.fit(task, loader(), loader(shuffle=False))
    # Without any visible token the shift cannot be known: log 2 is left, and only then.
    assert runner.callback_metrics["val/loss"] < 0.4
    task.sampler = Sampler(
        CosineSchedule(12, guidance=2.0)
    )  # the first step reveals one token, which decides the shift
    given = torch.arange(CLASSES).repeat(20)
    ids = task.sampler.sample(task.generator, given, range(60))
    first = (ids[:, :1] - given[:, None]) % WORDS
    wanted = (given[:, None] + first + torch.arange(LENGTH) % 2) % WORDS
    assert (ids == wanted).float().mean() > 0.7  # by chance: 0.18
    share = ((first == 0) | (first == 3)).float().mean()
    assert share > 0.5  # by chance: 0.25
    assert 0.2 < (first == 0).float().mean() < 0.8


def test_a_backbone_of_mode_cross_gives_gradients_to_all_that_learns_and_takes_pictures_without_class(tmp_path):
    task = ImageSynthesis(backbone("fourm"), unconditional=0.5)
    batches = list(loader())
    for batch in batches:
        batch["label"][::2] = -1
    trainer(tmp_path, 1).fit(task, torch.utils.data.DataLoader(batches, batch_size=None))
    assert task.uses_all_weights  # so DDP waits for all
    assert not [name for name, weight in task.named_parameters() if weight.requires_grad and weight.grad is None]


def test_the_share_of_steps_that_was_asked_for_learns_to_reuse(tmp_path):
    seen = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, task, optimizer):
            weight = task.generator.backbone.reuse.mlp[0].weight
            seen.append(weight.grad is not None)

    torch.manual_seed(0)
    task = ImageSynthesis(backbone(), masks=RatioMask(Fixed(0.5), per="batch"), reuse=0.5, decay="constant")
    runner = trainer(tmp_path, 16, EMA(0.5), Watch())
    runner.fit(task, loader())
    assert 3 < sum(seen) < 13
    task = ImageSynthesis(backbone(), reuse=0.0)
    seen.clear()
    trainer(tmp_path, 4, Watch()).fit(task, loader())
    assert not any(seen)


def test_what_an_earlier_step_left_is_made_by_the_average_in_eval_mode_without_gradient():
    task = ImageSynthesis(backbone(dropout=0.5))
    average = {name: 2 * weight.detach() for name, weight in task.named_parameters()}
    keeper = EMA(0.9)
    keeper.average = average
    task._trainer = SimpleNamespace(callbacks=[keeper])
    ids = torch.randint(WORDS, (2, LENGTH))
    tokens, given = task.generator.tokens(ids), torch.tensor([0, 1])
    split = Split(torch.arange(6).expand(2, -1), torch.arange(6, LENGTH).expand(2, -1))
    found = task.train()._remembered(tokens, split, given)
    other = ImageSynthesis(backbone(dropout=0.5))
    other.load_state_dict({**other.state_dict(), **average})
    generator = other.generator.eval()
    expected = generator.remember(tokens, split, generator.context(given))
    assert torch.allclose(found.features, expected.features, atol=1e-6)
    assert not found.features.requires_grad
    assert task.generator.training
    assert task._remembered(tokens, Split(split.known[:, :0], split.asked), given) is None


class Seeded:
    """A draw of its own for each seed."""

    def __init__(self, seed):
        self.seed = seed

    def generator(self, use):
        return torch.Generator().manual_seed(self.seed)


def test_known_tokens_are_parted_into_earlier_and_new():
    torch.manual_seed(0)
    whole = Split(torch.arange(10).expand(2, -1), torch.arange(10, 16).expand(2, -1))
    counts = set()
    for seed in range(20):
        earlier, new = _in_two(whole, Seeded(seed))
        both = torch.cat([earlier.known, new.known], 1)
        assert both.sort(1).values.tolist() == whole.known.tolist()
        assert torch.equal(new.asked, whole.asked)
        counts.add(new.known.shape[1])
    assert min(counts) <= 1
    assert max(counts) >= 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": "picture"}, "the batch has no 'picture', only image, key, label"),
        ({"backbone": AutoNAT(WORDS, 25, CLASSES, dim=8, heads=2)}, "16 tokens, the model is made for 25"),
        ({"backbone": AutoNAT(4, LENGTH, CLASSES, dim=8, heads=2)}, "outside the vocabulary 0..3 of this model"),
        ({"backbone": AutoNAT(WORDS, LENGTH, 2, dim=8, heads=2)}, "class 2 in the data, but the backbone knows 0 to 1"),
        ({"unconditional": 1.0}, "unconditional is a share"),
        ({"lr": 0.0}, "lr must be above 0"),
    ],
)
def test_what_does_not_fit_is_told(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        trainer(tmp_path, 1).fit(ImageSynthesis(**{"backbone": backbone(), **change}), loader())


def test_the_cosine_needs_an_end(tmp_path):
    with pytest.raises(UserError, match="needs an end; set trainer.max_steps"):
        trainer(tmp_path, -1, max_epochs=-1).fit(ImageSynthesis(backbone(), decay="cosine"), loader())


def test_pictures_need_a_tokenizer(tmp_path):
    task = ImageSynthesis(backbone(), sampler=Sampler(ENATSchedule(2)))
    with pytest.raises(UserError, match="no tokenizer to make tokens of images"):
        task.generate(torch.tensor([0]), [0])
