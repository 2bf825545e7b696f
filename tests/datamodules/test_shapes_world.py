"""ShapesWorld: the same scene however it is asked for, and modalities that say the same thing."""

import io
import re
import tarfile
import time

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from datamodules.pack import pack
from datamodules.shapes_world import CLASS_NAMES, COLORS, FAMILIES, PLACES, SHAPES, ShapesWorld
from mmmask.errors import UserError

ARRAYS = ("rgb", "segmentation", "instance", "depth", "edges", "boxes", "color", "label")
PHRASE = re.compile(r"a (small|large) (\w+) (\w+)")


@pytest.fixture(scope="module", params=[8, 32, 64])
def scenes(request):
    return ShapesWorld(request.param, seed=5).scenes(np.arange(400))


def assert_same(some, others):
    assert some.caption == others.caption
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(some, name), getattr(others, name), err_msg=name)
        assert getattr(some, name).dtype == getattr(others, name).dtype


def neighbours(image, fill):
    """The values above, below, left and right of every pixel: (4, N, H, W)."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), constant_values=fill)
    return np.stack([padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]])


def objects(scenes):
    """(scene, row, segmentation class, box, mask of the visible pixels) of every object."""
    for n, boxes in enumerate(scenes.boxes):
        for k, (kind, *box) in enumerate(boxes):
            if kind > 0:
                yield n, k, kind, box, scenes.instance[n] == k + 1


def test_the_first_scenes_stay_what_they_are():
    assert ShapesWorld().scenes(np.arange(3)).caption == [
        "a small blue cross, top",
        "a large blue ring in front of a small purple ring, top right",
        "a large green triangle in front of a small orange square, centre",
    ]


def test_a_scene_does_not_depend_on_the_scenes_made_with_it():
    world = ShapesWorld(size=32, seed=3)
    together = world.scenes(np.arange(1100))  # more than two chunks
    order = np.random.default_rng(0).permutation(1100)[:700]
    shuffled = world.scenes(order)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(together, name)[order], getattr(shuffled, name), err_msg=name)
    for i in (0, 511, 512, 1099):
        alone = world.scenes(np.array([i]))
        assert alone.caption == [together.caption[i]]
        np.testing.assert_array_equal(alone.rgb[0], together.rgb[i])


def test_asking_for_more_samples_does_not_change_the_first():
    few, many = (list(ShapesWorld().samples(count)) for count in (5, 600))
    assert few == many[:5]
    assert len({sample["__key__"] for sample in many}) == 600


def test_the_same_world_twice_is_the_same():
    assert_same(ShapesWorld(24, 9).scenes(np.arange(50)), ShapesWorld(24, 9).scenes(np.arange(50)))


@pytest.mark.parametrize("other", [ShapesWorld(seed=1), ShapesWorld(seed=-1), ShapesWorld(split="val")])
def test_other_seeds_and_splits_share_no_picture(other):
    first, second = ({rgb.tobytes() for rgb in w.scenes(np.arange(500)).rgb} for w in (ShapesWorld(), other))
    assert len(first) == len(second) == 500
    assert not first & second


def test_another_size_shows_the_same_scenes():
    small, large = (ShapesWorld(size).scenes(np.arange(300)) for size in (32, 64))
    np.testing.assert_array_equal(small.label, large.label)
    shrunk = large.rgb.reshape(300, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small.rgb).mean() < 3


def test_boxes_are_the_bounds_of_the_visible_pixels(scenes):
    for *_, box, mask in objects(scenes):
        rows, columns = np.nonzero(mask)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_rows_without_an_object_come_last_and_hold_minus_one(scenes):
    count = scenes.instance.max(axis=(1, 2))
    for boxes, color, k in zip(scenes.boxes, scenes.color, count, strict=True):
        assert k >= 1
        assert (boxes[k:] == -1).all()
        assert (color[k:] == -1).all()
        assert (boxes[:k] >= 0).all()


def test_segmentation_is_the_class_of_the_object_at_each_pixel(scenes):
    rebuilt = np.zeros_like(scenes.segmentation)
    for n, _, kind, _, mask in objects(scenes):
        rebuilt[n][mask] = kind
    np.testing.assert_array_equal(scenes.segmentation, rebuilt)
    assert set(np.unique(rebuilt)) == set(range(len(SHAPES) + 1))


def test_depth_is_one_value_per_object_falling_from_row_to_row_to_the_wall(scenes):
    last = {}
    for n, _, _, _, mask in objects(scenes):
        (nearness,) = np.unique(scenes.depth[n][mask])
        assert 96 <= nearness < last.get(n, 256)
        last[n] = nearness
    wall = scenes.depth[scenes.instance == 0]
    assert wall.min() >= 16
    assert wall.max() <= 64


def test_edges_are_where_depth_falls_from_one_object_to_the_next_thing(scenes):
    instance, depth = scenes.instance, scenes.depth
    other = neighbours(instance, 255)
    farther = (other != instance) & (other != 255) & (neighbours(depth, 255) < depth)
    np.testing.assert_array_equal(scenes.edges, farther.any(axis=0) & (instance > 0))


def test_the_picture_shows_each_object_in_its_color():
    scenes = ShapesWorld(64).scenes(np.arange(300))
    inside = (neighbours(scenes.instance, 255) == scenes.instance).all(axis=0)
    palette = np.array(list(COLORS.values()), dtype=float)
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)  # shadows darken, but keep the direction
    for n, k, _, _, mask in objects(scenes):
        pixels = scenes.rgb[n][mask & inside[n]].astype(float)
        if len(pixels) > 10:
            assert (pixels @ palette.T).mean(axis=0).argmax() == scenes.color[n, k]


def test_the_wall_is_lighter_where_it_is_nearer():
    scenes = ShapesWorld(64).scenes(np.arange(100))
    for rgb, depth, instance in zip(scenes.rgb, scenes.depth, scenes.instance, strict=True):
        lit = distance_transform_edt(instance == 0) > 10  # out of the shadows
        assert np.corrcoef(rgb[lit].mean(axis=1), depth[lit])[0, 1] > 0.98


def test_captions_name_the_objects_of_the_boxes_in_their_order(scenes):
    names = list(COLORS)
    for caption, boxes, color in zip(scenes.caption, scenes.boxes, scenes.color, strict=True):
        named = [(c, s) for _, c, s in PHRASE.findall(caption)]
        assert named == [(names[c], SHAPES[b[0] - 1]) for b, c in zip(boxes, color, strict=True) if c >= 0]
        assert (" in front of " in caption) == (len(named) > 1)


def test_captions_place_the_front_object_where_its_box_is():
    scenes = ShapesWorld(64).scenes(np.arange(1000))
    boxes = scenes.boxes[:, 0]
    middle = (boxes[:, 1:3] + boxes[:, 3:5]) / 128
    places = set()
    for caption, kind, (x, y) in zip(scenes.caption, boxes[:, 0], middle, strict=True):
        if SHAPES[kind - 1] != "triangle":  # all others are as wide on both sides of their centre
            place = caption.rpartition(", ")[2]
            places.add(place)
            for low, high, position in (("left", "right", x), ("top", "bottom", y)):
                assert position < 0.44 if low in place else position > 0.4
                assert position > 0.56 if high in place else position < 0.6
    assert places == set(PLACES)


def test_captions_call_the_larger_objects_large():
    scenes = ShapesWorld(64).scenes(np.arange(1000))
    width = {"small": [], "large": []}
    for caption, box in zip(scenes.caption, scenes.boxes[:, 0], strict=True):
        if box[0] == SHAPES.index("circle") + 1:
            width[PHRASE.match(caption)[1]].append(box[3] - box[1])
    assert len(width["small"]) > 20
    assert max(width["small"]) <= min(width["large"]) + 1  # a pixel more or less by where the centre is


def test_the_label_is_shape_and_color_family_of_the_front_object(scenes):
    for label, box, color in zip(scenes.label, scenes.boxes[:, 0], scenes.color[:, 0], strict=True):
        assert CLASS_NAMES[label] == f"{FAMILIES[color // 3]} {SHAPES[box[0] - 1]}"
    assert ShapesWorld.class_names is CLASS_NAMES


def test_classes_counts_and_colors_are_balanced():
    scenes = ShapesWorld(size=8).scenes(np.arange(5000))
    for values, options in (
        (scenes.label, len(CLASS_NAMES)),
        ((scenes.boxes[:, :, 0] > 0).sum(axis=1) - 1, 3),
        (scenes.color[scenes.color >= 0], len(COLORS)),
    ):
        share = np.bincount(values, minlength=options) / len(values) * options
        assert len(share) == options
        assert share.min() > 0.8
        assert share.max() < 1.2


def test_objects_overlap_often_and_are_rarely_left_out():
    scenes = ShapesWorld(64).scenes(np.arange(1000))
    between = (neighbours(scenes.instance, 0) > 0) & (scenes.instance > 0)
    touching = (between & (neighbours(scenes.instance, 0) != scenes.instance)).any(axis=(0, 2, 3))
    several = (scenes.boxes[:, 1, 0] > 0).sum()
    assert 0.3 * several < touching.sum() < 0.9 * several
    assert 1.9 < (scenes.boxes[:, :, 0] > 0).sum(axis=1).mean() < 2.1


def test_samples_hold_the_scenes_bit_for_bit_and_pack_into_shards(tmp_path):
    world = ShapesWorld(split="val")
    scenes = world.scenes(np.arange(20))
    assert pack(world.samples(20), tmp_path, split="val").samples == 20
    with tarfile.open(tmp_path / "val-00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    for i in range(20):
        key = f"val-{i:06d}"
        for name in ("rgb", "segmentation", "depth", "edges"):
            with Image.open(io.BytesIO(members[f"{key}.{name}.png"])) as image:
                np.testing.assert_array_equal(np.asarray(image), getattr(scenes, name)[i])
        boxes = np.load(io.BytesIO(members[f"{key}.boxes.npy"]), allow_pickle=False)
        np.testing.assert_array_equal(boxes, scenes.boxes[i])
        assert members[f"{key}.txt"].decode() == scenes.caption[i]
        assert int(members[f"{key}.cls"]) == scenes.label[i]


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: ShapesWorld(size=7), "size must be 8 to 1024 pixels"),
        (lambda: ShapesWorld(size=32.0), "size must be 8 to 1024 pixels"),
        (lambda: ShapesWorld(seed="one"), "seed must be a whole number"),
        (lambda: ShapesWorld(split="train.v2"), "split must be letters"),
        (lambda: ShapesWorld(split="../train"), "split must be letters"),
        (lambda: ShapesWorld().samples(0), "count must be a whole number of at least 1"),
        (lambda: ShapesWorld().scenes(np.array([3, -1])), "none below 0"),
        (lambda: ShapesWorld().scenes(np.array([0.5])), "whole number"),
        (lambda: ShapesWorld().scenes(np.array([])), "at least one"),
    ],
)
def test_a_wrong_argument_is_named_at_once(ask, sentence):
    with pytest.raises(UserError, match=sentence):
        ask()


@pytest.mark.slow
def test_ten_thousand_samples_of_32_pixels_take_under_twenty_seconds():
    start = time.process_time()
    assert sum(1 for _ in ShapesWorld(size=32).samples(10_000)) == 10_000
    assert time.process_time() - start < 20
