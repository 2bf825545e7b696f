"""Overview: `mmmask shards show` and `stats`; what is broken is marked, never a reason to stop."""

import io

import numpy as np
import pytest
from conftest import jpeg, sample_fields, write_tar
from PIL import Image

from datamodules.overview import HEADER, contact_sheet, first, shown, statistics
from datamodules.shards import ShardSet
from mmmask.errors import UserError


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def one_picture(make_shards, content, field="png"):
    return ShardSet(make_shards([1], fields=lambda n: {field: content}))


def cell_of(shards, cell=64):
    """The pixels of the only picture of a contact sheet, without the frame."""
    return np.asarray(contact_sheet(shards, cell=cell))[HEADER + 6 :][: cell - 4, 6 : cell + 2]


def colours(pixels):
    return {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}


def test_statistics_count_samples_and_bytes_per_field(make_shards):
    def fields(n):
        return {"txt": b"x" * (n + 1)} if n == 3 else {"txt": b"x" * (n + 1), "cls": b"1"}

    rows = {row.field: row for row in statistics(ShardSet(make_shards([2, 3], fields=fields)))}
    assert (rows["txt"].samples, rows["txt"].total_bytes) == (5, 15)
    assert (rows["txt"].smallest, rows["txt"].median, rows["txt"].largest) == (1, 3, 5)
    assert (rows["cls"].samples, rows["cls"].total_bytes) == (4, 4)


def test_the_first_samples_go_over_the_ends_of_shards(make_shards):
    shards = ShardSet(make_shards([2, 1, 4]))
    assert [shard.key(row) for shard, row in first(shards, 4)] == ["000000", "000001", "000002", "000003"]
    assert len(first(shards, 100)) == 7


@pytest.mark.parametrize(
    ("field", "words"),
    [("jpg", "32x32 RGB"), ("npy", "4 uint16"), ("txt", "sample number 1"), ("cls", "1")],
)
def test_a_cell_says_what_a_field_holds(make_shards, field, words):
    assert shown(ShardSet(make_shards([2])).shards[0], 1, field) == words


def test_lines_of_a_text_are_joined_and_other_bytes_are_counted(make_shards):
    shard = ShardSet(make_shards([1], fields=lambda n: {"txt": b"a\n  b\t c ", "bin": b"x" * 1234})).shards[0]
    assert shown(shard, 0, "txt") == "a b c"
    assert shown(shard, 0, "bin") == "1,234 B"
    assert shown(shard, 0, "jpg") == "-"


@pytest.mark.parametrize(("field", "content"), [("jpg", b"no picture"), ("npy", b"no array"), ("txt", b"\xff")])
def test_a_broken_field_is_marked(make_shards, field, content):
    shards = one_picture(make_shards, content, field)
    assert shown(shards.shards[0], 0, field) == "BROKEN"


def test_a_broken_picture_is_crossed_out_in_the_contact_sheet(make_shards):
    good, broken = jpeg(1), jpeg(1)[:200]
    assert (255, 0, 0) in colours(cell_of(one_picture(make_shards, broken, "jpg")))
    assert (255, 0, 0) not in colours(cell_of(one_picture(make_shards, good, "jpg")))


def test_a_bomb_is_crossed_out_without_being_decoded(make_shards):
    bomb = png(np.zeros((9000, 9000), dtype=np.uint8))
    assert (255, 0, 0) in colours(cell_of(one_picture(make_shards, bomb)))


def test_segment_ids_get_colours_that_can_be_told_apart(make_shards):
    ids = np.repeat(np.arange(4, dtype=np.uint8), 4)[None].repeat(16, 0)
    seen = colours(cell_of(one_picture(make_shards, png(ids))))
    assert len(seen) == 4
    assert {(0, 0, 0), (255, 255, 255)} < seen


def test_grey_pictures_stay_grey(make_shards):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = cell_of(one_picture(make_shards, png(ramp)))
    assert (pixels == pixels[..., :1]).all()
    assert pixels.min() == 0
    assert pixels.max() == 255


def test_deep_grey_pictures_use_their_whole_range(make_shards):
    depth = np.linspace(0, 60_000, 256).astype(np.uint16).reshape(16, 16)
    pixels = cell_of(one_picture(make_shards, png(depth)))
    assert len(colours(pixels)) > 100


def test_transparency_is_shown_on_white(make_shards):
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    assert colours(cell_of(one_picture(make_shards, png(clear)))) == {(255, 255, 255)}


def test_small_pictures_are_enlarged_with_hard_edges(make_shards):
    checks = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    assert colours(cell_of(one_picture(make_shards, png(checks)))) == {(0, 0, 0), (255, 255, 255)}


def test_the_sheet_has_a_place_for_each_sample_and_picture(make_shards):
    small = contact_sheet(ShardSet(make_shards([3])), cell=64)
    assert small.width == 3 * (64 + 8)
    two = ShardSet(make_shards([3], "two", lambda n: {**sample_fields(n), "depth.png": png(np.eye(8, dtype=np.uint8))}))
    assert contact_sheet(two, cell=64).width == 3 * (2 * 64 + 8)


def test_the_fields_are_named_at_the_top_and_only_there(make_shards):
    sheet = np.asarray(contact_sheet(ShardSet(make_shards([16])), cell=64)) < 200
    assert all(sheet[:HEADER, column * 72 : column * 72 + 30].any() for column in range(8))
    assert not sheet[HEADER + 102 : HEADER + 106].any()


def test_a_long_caption_ends_in_dots_within_its_place(make_shards):
    def fields(n):
        return {"jpg": jpeg(n), "txt": ("W" * (200 if n == 0 else 3)).encode()}

    sheet = np.asarray(contact_sheet(ShardSet(make_shards([2], fields=fields)), cell=128))
    caption = sheet[HEADER + 4 + 128 + 12 :] < 200
    assert not caption[:, 4 + 128 + 1 : 136 + 4].any()
    assert caption[:, 90:132].any()


def test_without_pictures_there_is_no_sheet(make_shards):
    shards = ShardSet(make_shards([1], fields=lambda n: {"txt": b"a"}))
    with pytest.raises(UserError, match="no field of .* holds pictures; fields: txt"):
        contact_sheet(shards)


def test_aligned_folders_are_shown_together(make_shards, tmp_path):
    pictures = make_shards([2], "rgb", lambda n: {"jpg": jpeg(n)})
    write_tar(tmp_path / "caption" / "train-00000.tar", {f"{n:06d}": {"txt": b"words"} for n in range(2)})
    shards = ShardSet({"rgb": pictures, "caption": str(tmp_path / "caption")})
    assert shown(shards.shards[0], 1, "caption.txt") == "words"
    assert contact_sheet(shards, cell=64).width == 2 * (64 + 8)
