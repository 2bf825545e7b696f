"""ShardData: shard sets as a data module; which shards serve which stage, and mixtures of sets."""

import io
from collections import Counter

import numpy as np
import pytest
from conftest import sample_fields
from PIL import Image as Pillow

from datamodules import Drawing, Image, ShardData, Text
from datamodules.shard_data import Source
from mmmask.errors import UserError

CAPTION = {"caption": Text()}


def keys(loader):
    return [key for batch in loader for key in batch["key"]]


def captions(loader):
    return [caption for batch in loader for caption in batch["caption"]]


def named(name):
    """Fields whose text says which set and sample they are from."""
    return lambda n: {**sample_fields(n), "txt": f"{name} {n}".encode()}


@pytest.fixture
def two_sets(make_shards):
    return make_shards([40, 40], "many", named("many")), make_shards([10], "few", named("few"))


def mixed(two_sets, weight, **options):
    many, few = two_sets
    return ShardData(many, CAPTION, mixture=[Source(few, weight)], batch_size=10, **options)


@pytest.mark.parametrize("other", [{}, {"crop": "random", "flip": True, "scale": (0.5, 1.0)}])
def test_images_that_are_cropped_unlike_each_other_are_told_of(make_shards, caplog, other):
    shards = make_shards([2])
    drawn = {"crop": "random", "flip": True}
    ShardData(shards, {"a": Image(size=8, **drawn), "b": Image(size=16, **drawn)}).train_dataloader()
    assert not caplog.records
    ShardData(shards, {"a": Image(size=8, **drawn), "b": Image(size=16, **other)}).train_dataloader()
    assert "a and b of a sample are cropped or flipped in different ways" in caplog.text


def test_a_drawing_that_is_not_cropped_as_its_image_is_told_of(make_shards, caplog):
    readers = {"image": Image(size=8, crop="random"), "strokes": Drawing(105, "cls", crop="random")}
    ShardData(make_shards([2]), readers).train_dataloader()
    assert not caplog.records
    readers["strokes"] = Drawing(105, "cls")
    ShardData(make_shards([2]), readers).train_dataloader()
    assert "image and strokes of a sample are cropped or flipped in different ways" in caplog.text


def test_a_mixture_draws_by_weight(two_sets):
    loader = mixed(two_sets, weight=3.0, samples_per_epoch=1024).train_dataloader()
    counts = Counter(caption.split()[0] for caption in captions(loader))
    assert counts == {"many": 256, "few": 768}


def test_all_images_of_a_sample_are_cropped_and_flipped_alike(make_shards):
    def picture(size, seed):
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Pillow.fromarray(coarse).resize((size, size), Pillow.Resampling.NEAREST).save(stream, "PNG")
        return stream.getvalue()

    shards = make_shards([16], "pairs", lambda n: {"large.png": picture(64, n), "small.png": picture(32, n)})
    cropped = {"crop": "random", "scale": (0.3, 0.9), "flip": True}
    readers = {name: Image(f"{name}.png", 32, **cropped) for name in ("large", "small")}
    (batch,) = ShardData(shards, readers, batch_size=16).train_dataloader()
    apart = (batch["large"].float() - batch["small"].float()).abs().mean((1, 2, 3))
    others = (batch["large"].float() - batch["small"].float().roll(1, 0)).abs().mean((1, 2, 3))
    assert apart.max() < 15
    assert others.min() > 30


def test_each_set_of_a_mixture_goes_through_its_own_epochs(two_sets):
    seen = Counter(captions(mixed(two_sets, weight=1.0, samples_per_epoch=320).train_dataloader()))
    few = [count for caption, count in seen.items() if caption.startswith("few")]
    many = [count for caption, count in seen.items() if caption.startswith("many")]
    assert len(few) == 10
    assert max(few) - min(few) <= 1
    assert len(many) == 80
    assert max(many) - min(many) <= 1


def test_a_mixture_without_a_length_is_as_long_as_its_sets_together(two_sets):
    assert len(captions(mixed(two_sets, weight=1.0).train_dataloader())) == 90


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_resumes_exactly(two_sets, workers):
    options = {"weight": 0.5, "samples_per_epoch": 200, "num_workers": workers}
    whole = captions(mixed(two_sets, **options).train_dataloader())
    first = mixed(two_sets, **options).train_dataloader()
    iterator = iter(first)
    begun = [caption for _ in range(7) for caption in next(iterator)["caption"]]
    second = mixed(two_sets, **options).train_dataloader()
    second.load_state_dict(first.state_dict())
    assert begun + captions(second) == whole


def test_a_mixture_goes_on_in_the_next_epoch_where_it_was(two_sets):
    loader = mixed(two_sets, weight=1.0, samples_per_epoch=40).train_dataloader()
    seen = Counter(caption for _ in range(4) for caption in captions(loader))
    few = [count for caption, count in seen.items() if caption.startswith("few")]
    assert sum(seen.values()) == 160
    assert (len(few), max(few) - min(few)) == (10, 1) or max(few) == min(few)
    assert max(count for caption, count in seen.items() if caption.startswith("many")) == 1


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_weight_must_be_positive(two_sets, weight):
    with pytest.raises(UserError, match="positive weights"):
        mixed(two_sets, weight=weight).train_dataloader()


def test_a_checkpoint_of_another_mixture_is_refused(two_sets):
    many, _ = two_sets
    state = mixed(two_sets, weight=1.0).train_dataloader().state_dict()
    with pytest.raises(UserError, match="trained on other data"):
        ShardData(many, CAPTION, batch_size=10).train_dataloader().load_state_dict(state)


def test_evaluation_comes_in_the_order_of_the_shards_every_time(make_shards):
    shards = make_shards([5, 4])
    data = ShardData(shards, CAPTION, val=shards, batch_size=4, seed=3)
    for _ in range(2):
        assert keys(data.val_dataloader()) == [f"{n:06d}" for n in range(9)]
    assert keys(data.train_dataloader()) != [f"{n:06d}" for n in range(9)]


def test_only_training_is_augmented(make_shards):
    shards = make_shards([8])
    augmented = {"image": Image(size=16, crop="random", flip=True)}
    plain = {"image": Image(size=16, crop="centre")}

    def images(modalities, stage):
        loader = getattr(ShardData(shards, modalities, val=shards, batch_size=8), f"{stage}_dataloader")()
        batch = next(iter(loader))
        return batch["image"][sorted(range(8), key=batch["key"].__getitem__)]

    for stage in ("val", "test", "predict"):
        assert (images(augmented, stage) == images(plain, stage)).all()
    assert not (images(augmented, "train") == images(plain, "train")).flatten(1).all(1).any()


def test_stages_without_shards_of_their_own_take_those_of_the_stage_before(make_shards):
    train, val, test = make_shards([6], "train"), make_shards([3], "val"), make_shards([2], "test")
    data = ShardData(train, CAPTION, val=val)
    assert (len(keys(data.test_dataloader())), len(keys(data.predict_dataloader()))) == (3, 3)
    data = ShardData(train, CAPTION, val=val, test=test)
    assert (len(keys(data.val_dataloader())), len(keys(data.predict_dataloader()))) == (3, 2)


def test_without_validation_shards_there_is_no_validation_and_a_test_says_what_is_missing(make_shards):
    data = ShardData(make_shards([3]), CAPTION)
    assert data.val_dataloader() == []
    with pytest.raises(UserError, match="data.test is not set"):
        data.test_dataloader()


def test_a_training_epoch_can_leave_out_its_last_small_batch(make_shards):
    shards = make_shards([10])
    sizes = [len(batch["key"]) for batch in ShardData(shards, CAPTION, batch_size=4, drop_last=True).train_dataloader()]
    assert sizes == [4, 4]
    assert [len(b["key"]) for b in ShardData(shards, CAPTION, batch_size=4).train_dataloader()] == [4, 4, 2]


def test_no_modalities_or_nonsense_options_are_refused_at_once(make_shards):
    shards = make_shards([3])
    with pytest.raises(UserError, match="modalities is empty"):
        ShardData(shards, {})
    with pytest.raises(UserError, match="on_error is 'raise' or 'skip'"):
        ShardData(shards, CAPTION, on_error="ignore")
    with pytest.raises(UserError, match="batch_size"):
        ShardData(shards, CAPTION, batch_size=0).train_dataloader()


def some_without_a_caption(n):
    fields = sample_fields(n)
    return {name: value for name, value in fields.items() if name != "txt" or n % 3}


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_lack_a_modality_are_left_out_where_that_is_asked(make_shards, workers):
    shards = make_shards([7, 5], "gaps", some_without_a_caption)
    data = ShardData(shards, {"caption": Text()}, val=shards, missing="leave out", batch_size=4, num_workers=workers)
    with_caption = [n for n in range(12) if n % 3]
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert len(keys(loader)) == len(set(captions(loader))) == len(with_caption)
    whole = ShardData(shards, {"image": Image(size=8)}, val=shards, missing="leave out").val_dataloader()
    assert len(keys(whole)) == 12
    with pytest.raises(UserError, match=r"samples have no 'txt'.*missing: mask \(or leave out\)"):
        ShardData(shards, {"caption": Text()}).train_dataloader()


def test_where_no_sample_is_left_it_is_told(make_shards):
    shards = make_shards([3], "none", lambda n: {"txt" if n else "jpg": b"a"})
    with pytest.raises(UserError, match="no sample of .* has all of: jpg, txt"):
        ShardData(shards, {"image": Image(), "caption": Text()}, missing="leave out").train_dataloader()
