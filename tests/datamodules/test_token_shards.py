"""write_token_shards: the tokens of every sample, in shards aligned with their source."""

import io
import json
import os

import numpy as np
import pytest
import torch
from conftest import sample_fields, write_tar
from PIL import Image as PIL

from datamodules import Array, Image, Label, ShardData, ShardSet
from datamodules.token_shards import write_token_shards
from datamodules.verify import problems
from datamodules.windows import Window, Windows
from mmmask.errors import UserError

PIXELS = {"image": Image(size=32, crop="none")}


def brightness(batch):
    """Token ids that can be checked: the mean of each quarter of the image."""
    quarters = torch.nn.functional.avg_pool2d(batch["image"].float().mean(1), 16)
    return {"image": quarters.long()}


def tokenized(make_shards, tmp_path, tokens=brightness, keep=("cls", "txt"), out="tokens", counts=(5, 3)):
    shards = make_shards(list(counts))
    report = write_token_shards(shards, PIXELS, tokens, tmp_path / out, list(keep), batch_size=2)
    return shards, tmp_path / out, report


def test_token_shards_have_the_names_keys_and_order_of_their_source(make_shards, tmp_path):
    shards, out, report = tokenized(make_shards, tmp_path)
    assert sorted(path.name for path in out.glob("*.tar")) == ["train-00000.tar", "train-00001.tar"]
    for made, source in zip(ShardSet(str(out)).shards, ShardSet(shards).shards, strict=True):
        assert [made.key(i) for i in range(len(made))] == [source.key(i) for i in range(len(source))]
    assert report == [f"wrote the tokens of 8 samples in 2 shards to {out}"]


def test_each_sample_gets_its_own_tokens_and_the_fields_to_keep(make_shards, tmp_path):
    shards, out, _ = tokenized(make_shards, tmp_path)
    pixels = ShardData(shards, PIXELS, val=shards, batch_size=8).val_dataloader()
    ids = ShardData(str(out), {"ids": Array("image.npy"), "label": Label()}, val=str(out), batch_size=8)
    (batch,), (tokens,) = list(pixels), list(ids.val_dataloader())
    assert tokens["ids"].shape == (8, 2, 2)
    assert (tokens["ids"] == brightness(batch)["image"]).all()
    assert tokens["label"].tolist() == [n % 3 for n in range(8)]
    assert ShardSet(str(out)).fields == ["cls", "image.npy", "txt"]
    assert ShardSet(str(out)).shards[1].read(0, "txt") == b"sample number 5"


def test_the_augmentation_of_training_is_left_out(make_shards, tmp_path):
    _, plain, _ = tokenized(make_shards, tmp_path)
    augmented = {"image": Image(size=32, crop="none", flip=True)}
    write_token_shards(make_shards([5, 3]), augmented, brightness, tmp_path / "again", ["cls", "txt"], batch_size=2)
    for name in ("train-00000.tar", "train-00001.tar"):
        assert (tmp_path / "again" / name).read_bytes() == (plain / name).read_bytes()


def test_token_shards_join_their_source_as_an_aligned_folder(make_shards, tmp_path):
    shards, out, _ = tokenized(make_shards, tmp_path, keep=())
    both = ShardSet({"raw": shards, "tokens": str(out)})
    assert len(both) == 8
    assert both.missing("tokens.image.npy") == (0, None)


@pytest.mark.parametrize(("largest", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_ids_take_the_narrowest_type_that_holds_them(make_shards, tmp_path, largest, dtype):
    def tokens(batch):
        return {"image": torch.full((len(batch["key"]), 2), largest)}

    _, out, _ = tokenized(make_shards, tmp_path, tokens)
    content = ShardSet(str(out)).shards[0].read(0, "image.npy")
    assert np.frombuffer(content, dtype, offset=len(content) - 2 * np.dtype(dtype).itemsize).tolist() == [largest] * 2


def test_nothing_is_overwritten(make_shards, tmp_path):
    shards, out, _ = tokenized(make_shards, tmp_path)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match=r"train-00000.tar exists already. Choose another folder or --overwrite."):
        write_token_shards(shards, PIXELS, brightness, out, [], batch_size=2)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_tokens_never_take_the_place_of_what_they_are_made_from(make_shards, tmp_path):
    shards = make_shards([3])
    before = (tmp_path / "shards" / "train-00000.tar").read_bytes()
    with pytest.raises(UserError, match="cannot take its place"):
        write_token_shards(shards, PIXELS, brightness, tmp_path / "shards", [], batch_size=2, overwrite=True)
    assert (tmp_path / "shards" / "train-00000.tar").read_bytes() == before


def test_an_unknown_field_to_keep_is_named(make_shards, tmp_path):
    with pytest.raises(UserError, match="no sample has the field 'clss' to keep. Did you mean 'cls'?"):
        tokenized(make_shards, tmp_path, keep=["clss"])


def test_tokens_of_the_same_name_are_replaced_on_demand(make_shards, tmp_path):
    shards, out, _ = tokenized(make_shards, tmp_path, lambda batch: {"image": torch.zeros(len(batch["key"]), 1)})
    write_token_shards(shards, PIXELS, brightness, out, ["cls"], batch_size=2, overwrite=True)
    assert ShardSet(str(out)).fields == ["cls", "image.npy"]
    assert list(problems(str(out))) == []


def test_an_error_or_an_interrupt_leaves_no_half_shard(make_shards, tmp_path):
    calls = []

    def interrupted(batch):
        calls.append(1)
        if len(calls) == 5:  # within the second shard
            raise KeyboardInterrupt
        return brightness(batch)

    with pytest.raises(KeyboardInterrupt):
        tokenized(make_shards, tmp_path, interrupted)
    left = sorted(name for name in os.listdir(tmp_path / "tokens") if not name.startswith("."))
    assert left == ["train-00000.idx", "train-00000.tar"]
    assert len(ShardSet(str(tmp_path / "tokens"))) == 5


def test_shards_of_one_name_are_refused_before_anything_is_written(make_shards, tmp_path):
    twice = [make_shards([2], "a"), make_shards([2], "b")]
    with pytest.raises(UserError, match="same file name"):
        write_token_shards(twice, PIXELS, brightness, tmp_path / "tokens", [], batch_size=2)
    assert not (tmp_path / "tokens").exists()


def test_a_bad_sample_is_named(tmp_path):
    fields = {f"{n:03d}": sample_fields(n) for n in range(3)}
    fields["001"]["jpg"] = b"no jpeg"
    shards = write_tar(tmp_path / "raw" / "train-00000.tar", fields)
    with pytest.raises(UserError, match="'001'.*not a readable image"):
        write_token_shards(str(shards), PIXELS, brightness, tmp_path / "tokens", [], batch_size=2)
    assert not list((tmp_path / "tokens").glob("*.tar"))


def two_sizes(number):
    """A picture that gets brighter by 1 a row and 2 a column, at two sizes."""
    ramp = np.add.outer(np.arange(64), np.arange(64) * 2).astype(np.uint8)
    large, small = PIL.fromarray(ramp), PIL.fromarray(ramp[::2, ::2].copy())
    return {"large.png": png(large), "small.png": png(small), "cls": str(number).encode()}


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def as_they_are(batch):
    return {name: batch[name][:, 0].long() for name in ("large", "small")}


def cropped(make_shards, out, windows, counts=(3, 2)):
    shards = make_shards(list(counts), fields=two_sizes)
    readers = {name: Image(f"{name}.png", 16, 1, resample="nearest") for name in ("large", "small")}
    return write_token_shards(shards, readers, as_they_are, out, ["cls"], batch_size=2, windows=windows)


def test_all_modalities_of_a_crop_see_the_same_part_which_is_stored(make_shards, tmp_path):
    report = cropped(make_shards, tmp_path / "tokens", Windows(3, flip=True))
    assert report == [f"wrote the tokens of 3 crops of 5 samples in 2 shards to {tmp_path / 'tokens'}"]
    data = ShardSet(str(tmp_path / "tokens"))
    assert [len(shard) for shard in data.shards] == [9, 6]
    ids = {"large": Array("large.npy"), "small": Array("small.npy"), "label": Label()}
    (batch,) = ShardData(str(tmp_path / "tokens"), ids, val=str(tmp_path / "tokens"), batch_size=15).val_dataloader()
    assert (batch["large"] - batch["small"]).abs().max() <= 12  # boxes of the smaller one are rounded to 2 pixels
    assert sorted(set(batch["key"])) == sorted(f"{n:06d}-{copy}" for n in range(5) for copy in range(3))
    assert [int(key.split("-")[0]) for key in batch["key"]] == batch["label"].tolist()
    for shard in data.shards:
        for row in range(len(shard)):
            crop = json.loads(shard.read(row, "crop.json"))
            key, copy = shard.key(row).split("-")
            assert Window(**crop) == Windows(3, flip=True).of(key, int(copy))
            seen = batch["large"][batch["key"].index(shard.key(row))]
            left, top, right, bottom = Window(**crop).box(64, 64)
            corners = [top + 2 * left, bottom - 1 + 2 * (right - 1)]
            found = seen.flip(-1) if crop["flip"] else seen
            assert abs(int(found[0, 0]) - corners[0]) <= 9
            assert abs(int(found[-1, -1]) - corners[1]) <= 9


def test_crops_are_the_centre_and_random_ones_by_seed_and_key():
    windows = Windows(4, seed=1, flip=True)
    assert windows.of("a", 0) == Window(1.0, 0.5, 0.5, False)
    drawn = [windows.of(key, copy) for key in "abcdefgh" for copy in range(1, 4)]
    assert len(set(drawn)) == len(drawn)
    assert {window.flip for window in drawn} == {True, False}
    assert drawn[0] == Windows(2, seed=1, flip=True).of("a", 1) != Windows(2, seed=2, flip=True).of("a", 1)
    assert not any(Windows(4, seed=1).of(key, 1).flip for key in "abcdefgh")


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (7, 5)])
def test_a_window_lies_within_the_image_and_its_corners_are_reached(size):
    width, height = size
    side = min(size)
    assert Window().box(width, height) == (
        (width - side) // 2,
        (height - side) // 2,
        (width - side) // 2 + side,
        (height - side) // 2 + side,
    )
    assert Window(0.5, 0, 0).box(width, height)[:2] == (0, 0)
    assert Window(0.5, 1, 1).box(width, height)[2:] == size


def test_one_crop_is_written_as_ever(make_shards, tmp_path):
    cropped(make_shards, tmp_path / "tokens", Windows(1))
    shards = ShardSet(str(tmp_path / "tokens"))
    assert shards.fields == ["cls", "large.npy", "small.npy"]
    assert shards.shards[0].key(0) == "000000"


def test_a_missing_field_and_data_without_crops_are_named(make_shards, tmp_path):
    shards = make_shards([2])
    with pytest.raises(UserError, match="has the field 'depth.png'; there are: cls, jpg, npy, txt"):
        write_token_shards(shards, PIXELS | {"depth": Image("depth.png")}, brightness, tmp_path / "a", [], 2)
    with pytest.raises(UserError, match="'npy' is read by Array, which has no crops"):
        write_token_shards(shards, {"image": Array("npy")}, brightness, tmp_path / "b", [], 2, windows=Windows(2))
    with pytest.raises(UserError, match=r"crops \(0\) must be 1 or more"):
        Windows(0)
