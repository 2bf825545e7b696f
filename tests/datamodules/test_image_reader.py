"""Images: decoded, cropped, scaled, and in training changed by chance."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from datamodules import Image
from datamodules.order import sample_generator
from datamodules.shards import BadSample
from datamodules.windows import Window
from mmmask.errors import UserError


def encoded(pixels, format="PNG", **options):
    stream = io.BytesIO()
    picture = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(np.asarray(pixels))
    picture.save(stream, format, **options)
    return stream.getvalue()


def ramp(height, width):
    """Red grows from left to right, green from top to bottom."""
    y, x = np.indices((height, width))
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 128)], -1).astype(np.uint8)


def read(reader, content, draw=0):
    return reader.read(content, sample_generator(0, 0, draw))


def test_pixels_come_unchanged_when_nothing_is_to_be_done():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (read(Image("png", 16, crop="none"), encoded(pixels)) == pixels.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [8, 40, 64])
def test_the_centre_crop_is_the_largest_square_in_the_middle(format, size):
    pixels = read(Image(size=size), encoded(ramp(64, 192), format)).astype(int)
    assert pixels.shape == (3, size, size)
    assert pixels[0].mean() == pytest.approx(127, abs=3)
    assert pixels[0, :, 0].mean() == pytest.approx(255 * 64 / 192, abs=8)
    assert pixels[0, :, -1].mean() == pytest.approx(255 * 128 / 192, abs=8)
    assert pixels[1, 0].mean() < 30 < 225 < pixels[1, -1].mean()


def test_scaling_agrees_with_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    ours = read(Image("png", 32, resample="bicubic"), encoded(pixels)).transpose(1, 2, 0).astype(int)
    theirs = np.asarray(Pillow.fromarray(pixels).resize((32, 32), Pillow.Resampling.BICUBIC)).astype(int)
    assert abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_any_mode_has_the_pixels_that_pillow_decodes(mode):
    content = encoded(Pillow.fromarray(ramp(48, 48)).convert(mode), "JPEG", quality=80)
    theirs = np.asarray(Pillow.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
    assert (read(Image(size=48, crop="none"), content) == theirs).all()


def test_colours_change_by_chance_in_training_alone():
    content = encoded(np.full((16, 16, 3), (200, 90, 40), dtype=np.uint8))
    reader = Image("png", 16, jitter=0.4, grey=0.5)
    seen = np.stack([read(reader, content, draw)[:, 0, 0] for draw in range(40)]).astype(int)
    greys = (seen.max(1) - seen.min(1)) < 3
    assert 10 < greys.sum() < 30
    assert seen[~greys].std(0).min() > 15
    assert (read(reader, content, 3) == read(reader, content, 3)).all()
    assert (read(reader.steady(), content, 3)[:, 0, 0] == (200, 90, 40)).all()
    with pytest.raises(UserError, match="of 3 channels"):
        Image(channels=1, grey=0.5)


def test_random_crops_keep_the_share_of_the_area_asked_for():
    content, reader = encoded(ramp(60, 60)), Image("png", 60, crop="random", scale=(0.25, 0.25), resample="nearest")
    for draw in range(20):
        red, green, _ = read(reader, content, draw)
        assert (len(np.unique(red)), len(np.unique(green))) == (30, 30)


def test_random_crops_reach_every_place_and_depend_on_the_generator_alone():
    content, reader = encoded(ramp(60, 60)), Image("png", 16, crop="random", scale=(0.1, 0.2))
    crops = [read(reader, content, draw) for draw in range(40)]
    means = np.array([crop[:2].mean((1, 2)) for crop in crops])
    assert means.min() < 70
    assert means.max() > 185
    assert all((read(reader, content, draw) == crop).all() for draw, crop in enumerate(crops))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_crop_larger_than_the_image_has_all_of_it_with_white_around(format):
    reader = Image("png", 40, crop="random", scale=(4.0, 4.0), resample="nearest")
    content, corners = encoded(np.zeros((80, 80, 3), dtype=np.uint8), format), set()
    for draw in range(20):
        black = read(reader, content, draw)[0] < 50
        assert black.sum() == 20 * 20
        corners.add(tuple(np.argwhere(black)[0]))
        assert read(reader, content, draw)[0][~black].min() == 255
    assert len(corners) > 15


def test_random_crops_reach_the_last_pixels_at_all_sides():
    content, reader = encoded(ramp(18, 18)), Image("png", 16, crop="random", scale=(0.79, 0.79), resample="nearest")
    crops = np.stack([read(reader, content, draw) for draw in range(40)])
    whole = ramp(18, 18).transpose(2, 0, 1)
    for channel in (0, 1):
        assert crops[:, channel].min() == whole[channel].min()
        assert crops[:, channel].max() == whole[channel].max()


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_crop_beyond_the_right_and_the_bottom_alone_is_white_there(format):
    content = encoded(np.zeros((400, 400, 3), dtype=np.uint8), format)
    seen = read(Image("png", 40).through(Window(1.5, 0, 0)), content)[0]
    assert seen[0, 0] < 50
    assert seen[-1, -1] == 255
    assert (seen < 50).sum() == pytest.approx(1600 / 2.25, rel=0.08)
    assert (read(Image("png", 40).through(Window(1.5, 1, 1)), content)[0][::-1, ::-1] == seen).all()


@pytest.mark.parametrize(("width", "height"), [(20, 80), (80, 20)])
def test_a_padded_image_is_seen_whole_in_the_middle_of_white(width, height):
    content = encoded(np.zeros((height, width, 3), dtype=np.uint8))
    seen = read(Image("png", 40, pad=True, resample="nearest"), content)[0]
    rows, columns = np.argwhere(seen < 50).min(0), np.argwhere(seen < 50).max(0)
    assert (columns - rows + 1).tolist() == [height // 2, width // 2]
    assert (rows + columns).tolist() == [39, 39]
    assert (seen < 50).sum() == width * height // 4
    reader, ink = Image("png", 20, crop="random", scale=(0.05, 0.05), pad=True), set()
    for draw in range(40):  # small parts may be all ink, part of it, or all white
        ink.add(int((read(reader, content, draw)[0] < 128).sum()))
    assert min(ink) == 0
    assert max(ink) > 300


@pytest.mark.parametrize("crop", ["random", "none"])
def test_a_small_image_of_a_sample_is_cropped_and_flipped_as_a_large_one(crop):
    large, small = Image("png", 96, crop=crop, flip=True), Image("png", 48, crop=crop, flip=True)
    for draw in range(20):
        fine = read(large, encoded(ramp(96, 96)), draw).astype(float)
        coarse = read(small, encoded(ramp(48, 48)), draw).astype(float)
        assert np.allclose(fine.mean((1, 2)), coarse.mean((1, 2)), atol=8)
        assert np.sign(fine[0, 0, -1] - fine[0, 0, 0]) == np.sign(coarse[0, 0, -1] - coarse[0, 0, 0])


def test_half_of_the_images_are_flipped_and_only_in_width():
    content, reader = encoded(ramp(16, 16)), Image("png", 16, crop="none", flip=True)
    images = [read(reader, content, draw).astype(int) for draw in range(200)]
    flipped = [image[0, 0, 0] > image[0, 0, -1] for image in images]
    assert 70 < sum(flipped) < 130
    assert all(image[1, 0, 0] < image[1, -1, 0] for image in images)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_any_mode_get_the_channels_asked_for(mode, channels):
    picture = Pillow.new("RGB", (8, 8), (200, 30, 30)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Pillow.fromarray(np.full((8, 8), 80, dtype=np.uint16))
    content = encoded(picture, "TIFF" if mode == "CMYK" else "PNG")
    assert read(Image("png", 8, channels, crop="none"), content).shape == (channels, 8, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    clear = Pillow.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    assert (read(Image("png", 4, 3), encoded(clear)) == 255).all()
    assert (read(Image("png", 4, 4), encoded(clear))[3] == 0).all()


def test_a_large_jpeg_is_decoded_at_the_smallest_sufficient_scale(monkeypatch):
    content = encoded(ramp(512, 512), "JPEG")
    loaded = []
    kind = type(Pillow.open(io.BytesIO(content)))
    load = kind.load
    monkeypatch.setattr(kind, "load", lambda self: (load(self), loaded.append(self.size))[0])
    read(Image(size=128), content)
    assert set(loaded) == {(128, 128)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable image"),
        (b"no image at all", "not a readable image"),
        (encoded(ramp(64, 64), "JPEG")[:300], "not a readable image"),
        (encoded(ramp(64, 64), "JPEG")[:-20], "not a readable image"),
        (encoded(ramp(64, 64))[:100], "not a readable image"),
    ],
)
def test_what_is_not_an_image_is_a_bad_sample(content, words):
    with pytest.raises(BadSample, match=words):
        read(Image(size=16), content)


def test_without_a_crop_another_size_is_a_bad_sample():
    with pytest.raises(BadSample, match=r"image of 20x10 pixels where 16x16 was asked \(crop: none\)"):
        read(Image("png", 16, crop="none"), encoded(ramp(10, 20)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 0}, "Image: size"),
        ({"scale": (0.0, 1.0)}, "scale of crops"),
        ({"scale": (0.9, 0.5)}, "scale of crops"),
    ],
)
def test_impossible_crops_are_refused_at_once(options, named):
    with pytest.raises(UserError, match=named):
        Image(**options)


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_grey_keeps_its_range(channels):
    deep = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    pixels = read(Image("png", 16, channels, crop="none"), encoded(deep))
    assert abs(pixels[0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1
