"""Loading: ShardData(train=..., modalities={...}).train_dataloader() -> batches; exact, resumable, counted."""

import logging
import time

import numpy as np
import pytest
import torch
from conftest import sample_fields, write_tar

from datamodules import Array, Image, Label, ShardData, Text
from datamodules.index import ShardError
from datamodules.pack import array_bytes
from datamodules.shards import BadSample
from mmmask.errors import UserError

READERS = {"image": Image(size=16), "caption": Text(), "label": Label(), "tokens": Array(vocab_size=100)}


def loader(shards, rank=0, world=1, **options):
    data = ShardData(train=shards, modalities=options.pop("modalities", {"caption": Text()}), **options)
    made = data.train_dataloader()
    made.rank, made.world = rank, world
    return made


def keys(batches):
    return [batch["key"] for batch in batches]


def take(loader, count):
    iterator = iter(loader)
    return [next(iterator)["key"] for _ in range(count)]


def test_a_batch_holds_each_modality_by_name(make_shards):
    batch = next(iter(loader(make_shards([6]), modalities=READERS, batch_size=6)))
    number = [int(key) for key in batch["key"]]
    assert sorted(number) == list(range(6))
    assert batch["image"].shape == (6, 3, 16, 16)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous()
    assert batch["caption"] == [f"sample number {n}" for n in number]
    assert batch["label"].tolist() == [n % 3 for n in number]
    assert batch["tokens"].tolist() == [[n] * 4 for n in number]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("largest", [255, -1, 2**31 - 1, 2**31, -(2**40)])
def test_integers_of_any_size_arrive_whole(make_shards, workers, largest):
    ids = np.array([[0, 7, largest]])
    shards = make_shards([4], fields=lambda n: {"npy": array_bytes(ids + 0 * n)})
    (batch,) = loader(shards, modalities={"tokens": Array()}, batch_size=4, num_workers=workers)
    assert batch["tokens"].dtype == torch.int64
    assert batch["tokens"].tolist() == [ids.tolist()] * 4


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_check_26_each_sample_once_per_epoch_for_any_ranks_workers_and_shards(make_shards, workers, world):
    shards = make_shards([3, 8, 1, 5, 2, 7, 4])
    ranks = [keys(loader(shards, rank, world, batch_size=4, num_workers=workers)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(key for batches in ranks for batch in batches for key in batch) == [f"{n:06d}" for n in range(30)]


def test_check_27_more_workers_than_shards_read_everything_once(make_shards):
    seen = [key for batch in keys(loader(make_shards([9]), batch_size=2, num_workers=4)) for key in batch]
    assert sorted(seen) == [f"{n:06d}" for n in range(9)]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_time_its_consumer_waits_is_counted_and_its_own_is_not(make_shards, workers):
    made = loader(make_shards([8]), batch_size=2, num_workers=workers)
    began = time.perf_counter()
    for _ in range(2):
        for _ in made:
            time.sleep(0.05)
    assert 0 < made.waited < time.perf_counter() - began - 8 * 0.05


def test_too_few_samples_for_the_ranks_is_an_error(make_shards):
    from datamodules.loading import ShardLoader

    samples = loader(make_shards([2])).samples
    with pytest.raises(UserError, match="2 samples are too few for 3 ranks"):
        ShardLoader(samples, batch_size=1, world=3)


@pytest.mark.parametrize(("workers", "workers_after"), [(0, 0), (2, 2), (0, 3), (2, 0)])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resuming_gives_exactly_the_batches_of_the_uninterrupted_run(make_shards, workers, workers_after, stop):
    shards = make_shards([9, 11, 10])
    options = {"modalities": {"image": Image(size=16, crop="random", flip=True)}, "batch_size": 4}
    whole = [batch for _ in range(1) for batch in loader(shards, num_workers=workers, **options)]
    first = loader(shards, num_workers=workers, **options)
    iterator = iter(first)
    for _ in range(stop):
        next(iterator)
    second = loader(shards, num_workers=workers_after, **options)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert keys(rest) == keys(whole[stop:])
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(rest, whole[stop:], strict=True))


def test_resuming_twice_and_into_the_next_epoch_loses_nothing(make_shards):
    shards = make_shards([9, 11, 10])
    whole = loader(shards, batch_size=4)
    expected = [key for _ in range(3) for key in keys(whole)]
    state, got = None, []
    for count in (3, 2, 6, 5, 8):
        again = loader(shards, batch_size=4)
        if state:
            again.load_state_dict(state)
        while count:
            for batch in again:
                got.append(batch["key"])
                count -= 1
                state = again.state_dict()
                if not count:
                    break
    assert got == expected[: len(got)]


@pytest.mark.parametrize(("world", "world_after", "batch_after"), [(1, 2, 4), (3, 1, 4), (2, 3, 5)])
def test_resuming_in_another_world_repeats_and_loses_nothing(make_shards, world, world_after, batch_after):
    shards = make_shards([19, 21, 10])
    before = [loader(shards, rank, world, batch_size=4) for rank in range(world)]
    seen = [key for one in before for batch in take_and_keep(one, 3) for key in batch]
    states = [one.state_dict() for one in before]
    assert len({str(state) for state in states}) == 1, "every rank has the same state"
    for rank in range(world_after):
        after = loader(shards, rank, world_after, batch_size=batch_after)
        after.load_state_dict(states[0])
        batches = keys(after)
        seen += [key for batch in batches for key in batch]
    assert sorted(seen) == [f"{n:06d}" for n in range(50)]


def take_and_keep(one, count):
    one.kept = iter(one)  # a generator that is thrown away would not change the state, but must not finish either
    return [next(one.kept)["key"] for _ in range(count)]


def test_epochs_differ_and_repeat_by_their_number(make_shards):
    shards = make_shards([30])
    one = loader(shards, batch_size=30)
    first, second = keys(one), keys(one)
    assert first != second
    one.set_epoch(0)
    assert keys(one) == first


@pytest.mark.parametrize("changed", [{"seed": 1}, {"block": 2}, {"streams": 3}, {"samples_per_epoch": 8}])
def test_another_order_than_in_the_checkpoint_is_refused_within_an_epoch(make_shards, changed):
    shards = make_shards([5, 5])
    first = loader(shards, batch_size=2)
    take(first, 2)
    with pytest.raises(UserError, match="its place means nothing here"):
        loader(shards, batch_size=2, **changed).load_state_dict(first.state_dict())
    list(first)
    loader(shards, batch_size=2, **changed).load_state_dict(first.state_dict())  # between epochs it may change


def test_check_6_another_batch_size_or_number_of_ranks_is_told_with_both_numbers(make_shards, caplog):
    state = loader(make_shards([9]), batch_size=2).state_dict()
    loader(make_shards([9]), batch_size=2).load_state_dict(state)
    assert not caplog.records
    loader(make_shards([9]), batch_size=1, world=2).load_state_dict(state)
    assert (
        "goes on with 1 samples a step on each of 2 ranks; before it was 2 samples a step on each of 1" in caplog.text
    )


def test_samples_that_no_rank_can_have_after_a_resume_are_named(make_shards, caplog):
    shards = make_shards([7])
    first = loader(shards, batch_size=2)
    take(first, 3)
    second = loader(shards, batch_size=2, world=3)
    second.load_state_dict(first.state_dict())
    assert "1 samples are left of this epoch, fewer than 3 ranks: they are left out" in caplog.text


def test_other_data_than_in_the_checkpoint_is_refused(make_shards):
    state = loader(make_shards([9])).state_dict()
    with pytest.raises(UserError, match="other data"):
        loader(make_shards([10], folder="other")).load_state_dict(state)


def damaged(number):
    fields = sample_fields(number)
    if number == 7:
        fields["jpg"] = fields["jpg"][: len(fields["jpg"]) // 2]
    return fields


@pytest.mark.parametrize("workers", [0, 2])
def test_check_10_a_corrupt_jpeg_is_named_with_shard_and_key(make_shards, workers):
    shards = make_shards([4, 8], fields=damaged)
    with pytest.raises(BadSample, match=r"train-00001.tar: sample '000007': field 'jpg' is not a readable image"):
        list(loader(shards, modalities=READERS, batch_size=4, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_samples_are_counted_per_shard_and_reported(make_shards, workers, caplog):
    shards = make_shards([4, 8], fields=damaged)
    with caplog.at_level(logging.WARNING):
        batches = list(loader(shards, modalities=READERS, batch_size=4, num_workers=workers, on_error="skip"))
    seen = sorted(key for batch in keys(batches) for key in batch)
    assert seen == [f"{n:06d}" for n in range(12) if n != 7]
    assert "skipped 1 bad samples of 12 this epoch" in caplog.text
    assert "train-00001.tar: 1" in caplog.text


def test_too_many_skipped_samples_stop_the_run(make_shards):
    def mostly_bad(number):
        return {**sample_fields(number), "txt": b"" if number % 2 else b"good"}

    with pytest.raises(ShardError, match="above max_skipped=0.01"):
        list(loader(make_shards([40], fields=mostly_bad), batch_size=4, on_error="skip"))


@pytest.mark.parametrize(
    ("field", "content", "words"),
    [
        ("txt", b"  ", "empty text"),
        ("txt", b"\xff\xfe", "utf-8"),
        ("npy", b"\x93NUMPY garbage", "npy"),
        ("npy", sample_fields(100)["npy"], "token id 100 lies outside"),
        ("cls", b"three", "invalid literal"),
    ],
)
def test_check_13_bad_content_is_named(make_shards, field, content, words):
    shards = make_shards([3], fields=lambda n: {**sample_fields(n), field: content} if n == 1 else sample_fields(n))
    with pytest.raises(BadSample, match=f"'000001'.*{words}"):
        list(loader(shards, modalities=READERS, batch_size=3))


def test_check_10_a_flipped_bit_in_a_token_array_never_reaches_a_batch(make_shards, tmp_path):
    shards = make_shards([3])
    path = tmp_path / "shards" / "train-00000.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 125] ^= 4
    path.write_bytes(content)
    with pytest.raises(BadSample, match="field 'npy' does not match its checksum"):
        list(loader(shards, modalities={"tokens": Array()}, batch_size=3))


def lacking(number):
    fields = sample_fields(number)
    if number in (2, 5):
        del fields["txt"]
    return fields


def test_check_12_a_missing_modality_is_an_error_before_training_starts(make_shards):
    with pytest.raises(
        ShardError, match=r"2 samples have no 'txt' \(modality 'caption'\), the first is sample '000002'"
    ):
        loader(make_shards([6], fields=lacking))


def test_check_12_a_missing_modality_can_be_marked_absent(make_shards):
    made = loader(make_shards([6], fields=lacking), modalities=READERS, batch_size=6, missing="mask")
    batch = next(iter(made))
    absent = {key for key, has in zip(batch["key"], batch["present"]["caption"], strict=True) if not has}
    assert absent == {"000002", "000005"}
    assert batch["present"]["image"].all()


def test_absent_ids_and_numbers_cannot_be_mistaken_for_data():
    assert (Array().absent(np.zeros(3, np.uint16)) == -1).all()
    assert np.isnan(Array().absent(np.zeros(3, np.float32))).all()


def test_an_unknown_field_is_named_with_the_nearest(make_shards):
    with pytest.raises(UserError, match="has the field 'jpeg'.*Did you mean 'jpg'"):
        loader(make_shards([3]), modalities={"image": Image("jpeg")})


def test_check_14_a_field_with_a_pickle_is_refused_by_its_name():
    with pytest.raises(UserError, match="pickle"):
        Array("features.pyd")


def test_check_14_an_array_of_objects_is_never_unpickled(make_shards, tmp_path):
    import io
    import os

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    stream = io.BytesIO()
    np.save(stream, np.array([Attack()], dtype=object), allow_pickle=True)
    shards = make_shards([1], fields=lambda n: {"npy": stream.getvalue(), "x.pyd": stream.getvalue()})
    with pytest.raises(BadSample, match="never read"):
        list(loader(shards, modalities={"tokens": Array()}))
    assert not (tmp_path / "ran").exists()


def test_check_17_a_huge_image_is_refused_from_its_header(make_shards):
    import io

    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.new("1", (9000, 9000)).save(stream, "PNG")
    assert len(stream.getvalue()) < 100_000
    shards = make_shards([1], fields=lambda n: {"png": stream.getvalue()})
    with pytest.raises(BadSample, match="9000x9000 pixels, more than max_pixels"):
        list(loader(shards, modalities={"image": Image("png", size=16)}))


def test_check_18_pipes_are_refused_unless_allowed(make_shards):
    pattern = make_shards([3])
    tar = pattern.replace("train-*", "train-00000")
    with pytest.raises(UserError, match="allow: pipe"):
        loader(f"pipe:cat {tar}")
    assert len(keys(loader(f"pipe:cat {tar}", allow="pipe", batch_size=1))) == 3


def test_check_11_all_bad_shards_are_listed_at_once(make_shards, tmp_path):
    pattern = make_shards([3, 3, 3])
    for bad in (0, 2):
        (tmp_path / "shards" / f"train-{bad:05d}.tar").write_bytes(b"")
    with pytest.raises(ShardError) as error:
        loader(pattern)
    assert str(error.value).count("is empty") == 2


def test_no_match_says_so(tmp_path):
    with pytest.raises(UserError, match="no shards match"):
        loader(str(tmp_path / "*.tar"))


def test_a_shard_listed_twice_is_refused(make_shards, tmp_path):
    make_shards([3])
    tar = str(tmp_path / "shards" / "train-00000.tar")
    with pytest.raises(UserError, match="listed twice"):
        loader([tar, tar])


def test_brace_patterns_and_lists_name_shards(make_shards, tmp_path):
    make_shards([2, 2, 2])
    folder = tmp_path / "shards"
    both = loader([f"{folder}/train-{{00000..00001}}.tar", f"{folder}/train-00002.tar"])
    assert len(both.samples.order) == 6


def only(field):
    return lambda number: {field: sample_fields(number)[field]}


def test_aligned_folders_are_joined_by_key(make_shards):
    urls = {
        "rgb": make_shards([4, 3], "rgb", only("jpg")),
        "caption": make_shards([4, 3], "caption", only("txt")),
    }
    modalities = {"image": Image("rgb.jpg", 16), "caption": Text("caption.txt")}
    for batch in loader(urls, modalities=modalities, batch_size=3):
        assert batch["caption"] == [f"sample number {int(key)}" for key in batch["key"]]


def test_aligned_folders_never_shift_when_one_lacks_a_sample(tmp_path):
    from conftest import write_tar

    keys_of = {"rgb": [0, 1, 2, 3, 4], "caption": [0, 2, 3, 4, 5]}
    for folder, numbers in keys_of.items():
        field = {"rgb": "jpg", "caption": "txt"}[folder]
        samples = {f"{n:06d}": {field: sample_fields(n)[field]} for n in numbers}
        write_tar(tmp_path / folder / "train-00000.tar", samples)
    urls = {folder: str(tmp_path / folder / "*.tar") for folder in keys_of}
    modalities = {"image": Image("rgb.jpg", 16), "caption": Text("caption.txt")}
    with pytest.raises(ShardError, match="1 samples have no"):
        loader(urls, modalities=modalities)
    batch = next(iter(loader(urls, modalities=modalities, missing="mask", batch_size=10)))
    for key, caption, has in zip(batch["key"], batch["caption"], batch["present"]["caption"], strict=True):
        assert caption == (f"sample number {int(key)}" if has else "")
    assert sorted(batch["key"]) == [f"{n:06d}" for n in range(6)]


def test_aligned_folders_of_unequal_length_are_refused(make_shards):
    with pytest.raises(ShardError, match="same number of shards each, found rgb: 2, caption: 1"):
        loader({"rgb": make_shards([2, 2], "rgb"), "caption": make_shards([4], "caption")})


def folders(tmp_path, **shards):
    """{modality: folder} of tars with the given keys each."""
    for modality, tars in shards.items():
        for number, names in enumerate(tars):
            write_tar(tmp_path / modality / f"a-{number}.tar", {key: {"txt": key.encode()} for key in names})
    return {modality: str(tmp_path / modality) for modality in shards}


ONE = {"caption": Text("one.txt"), "other": Text("two.txt")}


@pytest.mark.parametrize("turned", [False, True])
def test_a_sparse_modality_is_aligned_in_whatever_order_the_folders_are_named(tmp_path, turned):
    sets = folders(tmp_path, one=["abcdefghij"], two=["bdf"])
    sets = dict(reversed(sets.items())) if turned else sets
    batches = list(loader(sets, modalities=ONE, missing="mask", batch_size=10))
    assert sorted(key for batch in batches for key in batch["key"]) == list("abcdefghij")
    assert sum(int(batch["present"]["other"].sum()) for batch in batches) == 3


def test_folders_without_common_keys_are_refused(tmp_path):
    with pytest.raises(ShardError, match="do not belong together"):
        loader(folders(tmp_path, one=["abcdef"], two=["ghijkl"]), modalities=ONE, missing="mask")


def test_folders_that_divide_their_samples_differently_are_refused(tmp_path):
    with pytest.raises(ShardError, match="sample 'd' is in the aligned shards of"):
        loader(folders(tmp_path, one=["abcd", "efgh"], two=["bcd", "def"]), modalities=ONE, missing="mask")


def test_an_unknown_field_is_named_also_where_absence_is_allowed(make_shards):
    with pytest.raises(UserError, match="the field 'tyt'.*Did you mean 'txt'"):
        loader(make_shards([3]), modalities={"caption": Text("tyt")}, missing="mask")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_in_which_nobody_has_an_array_is_marked_absent(make_shards, workers):
    shards = make_shards([9], fields=lambda n: sample_fields(n) if n == 4 else {"txt": b"a"})
    options = {"missing": "mask", "batch_size": 1, "num_workers": workers}
    batches = list(loader(shards, modalities={"tokens": Array()}, **options))
    assert [batch["tokens"].tolist() for batch in batches if not batch["present"]["tokens"].all()] == [[[-1] * 4]] * 8
    assert [batch["tokens"].tolist() for batch in batches if batch["present"]["tokens"].all()] == [[[4] * 4]]


def test_a_broken_array_does_not_stop_batches_in_which_nobody_has_one(make_shards):
    def fields(n):
        return {"txt": b"a", "npy": b"broken"} if n == 0 else sample_fields(n) if n == 5 else {"txt": b"a"}

    options = {"missing": "mask", "on_error": "skip", "batch_size": 2, "max_skipped": 0.5}
    batches = list(loader(make_shards([8], fields=fields), modalities={"tokens": Array()}, **options))
    assert sum(len(batch["key"]) for batch in batches) == 7


@pytest.mark.parametrize("content", [b"[1]", b"Infinity", b"1e400"])
def test_a_json_label_of_any_kind_is_skipped_when_bad(make_shards, content):
    def fields(n):
        return {"json": b'{"a": ' + (content if n == 2 else b"7") + b"}"}

    shards = make_shards([6], fields=fields)
    options = {"on_error": "skip", "max_skipped": 0.5, "batch_size": 3}
    batches = list(loader(shards, modalities={"label": Label("json", part="a")}, **options))
    assert sum(len(batch["key"]) for batch in batches) == 5


@pytest.mark.parametrize("shards", ["", [], {}, "a{0..tar"])
def test_shards_that_name_nothing_are_a_sentence(shards):
    with pytest.raises(UserError, match="no shards match|list of shards is empty|cannot be read"):
        loader(shards)


@pytest.mark.parametrize("option", [{"seed": -1}, {"timeout": -1}, {"samples_per_epoch": -5}])
def test_impossible_options_are_refused(make_shards, option):
    with pytest.raises(UserError, match="must be 0 or more"):
        loader(make_shards([3]), **option)
