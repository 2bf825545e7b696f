"""What all converters share: records that name a picture, and the way from there into shards."""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from datamodules.pack import PackReport, Sample, Skipped, pack, shards_of
from datamodules.pictures import on_white, see_through, with_8_bits
from mmmask.errors import UserError
from mmmask.files import written_whole

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = {"jpg": "JPEG", "png": "PNG"}
MAX_PIXELS = 178_956_970  # above it Pillow itself speaks of a decompression bomb
WINDOW = 64  # pictures in work at once: few, so that Ctrl-C ends soon


@dataclass(frozen=True)
class Record:
    """One sample of a raw data set: its key, where its picture lies, and its other fields."""

    key: str
    picture: Path | None
    fields: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """Splits of records, and the names of the classes behind their labels."""

    splits: dict[str, list[Record | Skipped]]
    classes: list[str] = field(default_factory=list)


def key_of(path: str) -> str:
    """A relative path without its extension as a key: only the last dot of a file name may begin the fields."""
    folder, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0] or name
    return f"{folder}/{stem.replace('.', '_')}" if folder else stem.replace(".", "_")


def label_of(number: int) -> bytes:
    """A class index as the field `cls`."""
    return str(number).encode()


def need(path: Path, what: str) -> Path:
    """The path, if it exists."""
    if not path.exists():
        raise UserError(f"{path} is missing: {what}.")
    return path


def pack_all(
    data: DataSet,
    out: Path,
    field: str | None = None,
    resize: int | None = None,
    shuffle: bool = True,
    samples_per_shard: int = 10_000,
    overwrite: bool = False,
) -> dict[str, PackReport]:
    """Write every split of a data set into `out`, and `classes.json` beside them.

    Args:
        data: what a converter found.
        out: folder to write shards into.
        field: jpg or png. Pictures of this format keep their bytes, others are encoded anew (default: what the
            first picture is).
        resize: scale pictures down until the shorter side has this many pixels (default: as they are).
        shuffle: mix the samples, the same way each time.
        samples_per_shard: samples a shard holds at most.
        overwrite: replace shards of the same split.
    """
    if field not in (None, *FORMATS):
        raise UserError(f"field is '{field}'; pictures can be stored as jpg or png.")
    if resize is not None and resize < 1:
        raise UserError(f"resize is {resize}; give a number of pixels of 1 or more.")
    for split, records in data.splits.items():
        if not records:
            raise UserError(f"the split '{split}' is empty. Check the source folder.")
        if shards_of(split, Path(out)) and not overwrite:
            raise UserError(f"{out} already holds shards of '{split}'. Choose another folder or --overwrite.")
    _keep_classes(data, Path(out), overwrite)
    reports = {}
    for split, records in data.splits.items():
        if shuffle:
            records = random.Random(0).sample(records, len(records))
        samples = track(
            read_pictures(records, field or _usual(records), resize),
            description=split,
            total=len(records),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        reports[split] = pack(samples, out, split, samples_per_shard, overwrite=overwrite)
    if data.classes:
        with written_whole(Path(out) / "classes.json") as stream:
            stream.write(json.dumps({"classes": data.classes}, indent=1, ensure_ascii=False).encode())
    return reports


def _keep_classes(data: DataSet, out: Path, overwrite: bool) -> None:
    """Refuse to give the labels of shards that are there already another meaning."""
    path = out / "classes.json"
    if not data.classes or not path.is_file() or overwrite:
        return
    try:
        same = json.loads(path.read_text())["classes"] == data.classes
    except (ValueError, TypeError, KeyError):  # somebody else's file
        same = False
    if not same:
        raise UserError(f"{path} lists other classes: the same labels would mean two things. Choose another folder.")


def _usual(records: Iterable[Record | Skipped]) -> str:
    """`png` if the first picture is one (or anything else that is not lossy), else `jpg`."""
    pictures = (r.picture for r in records if isinstance(r, Record) and r.picture)
    first = next(pictures, None)
    return "jpg" if first is None or first.suffix.lower() in (".jpg", ".jpeg", ".webp") else "png"


def read_pictures(
    records: Iterable[Record | Skipped], field: str, resize: int | None = None
) -> Iterator[Sample | Skipped]:
    """Read and check the pictures, in threads, in order; a record whose picture is unusable becomes `Skipped`."""

    def read(record: Record | Skipped) -> Sample | Skipped:
        if isinstance(record, Skipped):
            return record
        sample: Sample = {"__key__": record.key, **record.fields}
        if record.picture is not None:
            try:
                sample[field] = picture_bytes(record.picture.read_bytes(), FORMATS[field], resize)
            except FileNotFoundError:
                return Skipped(record.key, "picture is missing")
            except OSError as error:
                return Skipped(record.key, f"picture is not readable: {error.strerror or _kind_of(error)}")
            except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
                return Skipped(record.key, str(error) if isinstance(error, ValueError) else _kind_of(error))
        return sample

    records = iter(records)
    with ThreadPoolExecutor() as pool:
        while window := list(islice(records, WINDOW)):
            yield from pool.map(read, window)


def _kind_of(error: Exception) -> str:
    """The reason without the details of one file, so that equal reasons can be counted."""
    text = str(error)
    return "not an image" if "cannot identify" in text else text.split("(")[0].strip() or type(error).__name__


def picture_bytes(content: bytes, format: str, resize: int | None) -> bytes:
    """The picture in `format`: the very bytes where they can stay, decoded once to see that they are whole.

    It is encoded anew when it has another format, lies on its side (EXIF), or is larger than `resize`
    pixels on its shorter side.
    """
    image: Image.Image = Image.open(io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError("picture of too many pixels (a decompression bomb)")
    image.load()
    upright = image.getexif().get(0x0112, 1) == 1
    small = resize is None or min(image.size) <= resize
    if image.format == format and upright and small:
        return content
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if resize is not None and min(image.size) > resize:
        scale = resize / min(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = _colour(image, format).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    stream = io.BytesIO()
    _colour(image, format).save(stream, format, quality=95)
    return stream.getvalue()


def _colour(image: Image.Image, format: str) -> Image.Image:
    """A mode that can be scaled and stored: grey, RGB and, in a PNG, transparency."""
    if image.mode in ("L", "RGB") or (image.mode == "RGBA" and format == "PNG"):
        return image
    if see_through(image):
        return image.convert("RGBA") if format == "PNG" else on_white(image)
    image = with_8_bits(image)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
