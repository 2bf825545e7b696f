"""Converters of published data sets, on real small trees of their layouts and on records of their documented form."""

import json
import tarfile

import numpy as np
import pytest
from conftest import jpeg

from datamodules import Image, Label, ShardData, ShardSet, Text, convert
from datamodules.convert.upmc_food101 import clean_title
from mmmask.errors import UserError


@pytest.fixture
def unpacked(real_data, tmp_path):
    def unpack(name):
        with tarfile.open(real_data("food101-raw") / f"{name}-layout.tar") as tar:
            tar.extractall(tmp_path, filter="data")
        return tmp_path / name

    return unpack


def read_all(pattern, text=False):
    """key -> (label, text) of every sample, read as a training would."""
    modalities = {"image": Image(size=64), "label": Label(num_classes=10)} | ({"text": Text()} if text else {})
    found = {}
    for batch in ShardData(pattern, modalities, batch_size=7).train_dataloader():
        assert batch["image"].float().std() > 20
        texts = batch.get("text", [None] * len(batch["key"]))
        found |= dict(zip(batch["key"], zip(batch["label"].tolist(), texts, strict=True), strict=True))
    return found


def counted(reports):
    """split -> (written, skipped)."""
    return {split: (report.samples, report.skipped.total()) for split, report in reports.items()}


@pytest.mark.real_data
def test_food101_keeps_classes_splits_and_bytes(unpacked, tmp_path):
    source = unpacked("food-101")
    reports = convert.pack_all(convert.food101(source), tmp_path / "out")
    assert {split: (r.samples, dict(r.skipped)) for split, r in reports.items()} == {
        "train": (100, {}),
        "test": (40, {}),
    }
    classes = json.loads((tmp_path / "out/classes.json").read_text())["classes"]
    for split in ("train", "test"):
        found = read_all(str(tmp_path / f"out/{split}-*.tar"))
        assert set(found) == set((source / f"meta/{split}.txt").read_text().split())
        assert all(classes[label] == key.partition("/")[0] for key, (label, _) in found.items())
    shard = ShardSet(str(tmp_path / "out/test-*.tar")).shards[0]
    assert shard.read(0, "jpg") == (source / "images" / f"{shard.key(0)}.jpg").read_bytes()


@pytest.mark.real_data
def test_food101_names_broken_and_missing_pictures_and_goes_on(unpacked, tmp_path):
    source = unpacked("food-101")
    train = (source / "meta/train.txt").read_text().split()
    broken, html, gone = (source / "images" / f"{name}.jpg" for name in train[:3])
    broken.write_bytes(broken.read_bytes()[:2000])
    html.write_bytes(b"<html>404</html>")
    gone.unlink()
    report = convert.pack_all(convert.food101(source), tmp_path / "out")["train"]
    assert report.samples == 97
    assert dict(report.skipped) == {
        "picture is not readable: image file is truncated": 1,
        "picture is not readable: not an image": 1,
        "picture is missing": 1,
    }
    assert report.examples["picture is missing"] == train[2]
    assert any(line.startswith("skipped 1: picture is missing (first: ") for line in report.lines())


@pytest.mark.real_data
def test_upmc_food101_pairs_pictures_with_their_cleaned_titles(unpacked, tmp_path):
    source = unpacked("upmc-food101")
    reports = convert.pack_all(convert.upmc_food101(source), tmp_path / "out")
    assert [(split, r.samples, r.skipped.total()) for split, r in reports.items()] == [
        ("train", 100, 0),
        ("test", 40, 0),
    ]
    found = read_all(str(tmp_path / "out/train-*.tar"), text=True)
    assert found["apple_pie/apple_pie_71"] == (0, "International Recipe Syndicate: Torta de Maça Recipe (Apple Pie)")
    assert found["baby_back_ribs/baby_back_ribs_107"] == (1, 'HowStuffWorks "Seasoned Baby Back Ribs"')
    assert not any("&quot;" in text or "\\x" in text for _, text in found.values())


@pytest.mark.real_data
def test_upmc_food101_lists_what_does_not_fit_together(unpacked, tmp_path):
    source = unpacked("upmc-food101")
    titles = source / "texts/train_titles.csv"
    rows = titles.read_text().splitlines()
    unlisted = rows[0].partition(",")[0]
    titles.write_text(
        "\n".join(["filename,title,class", "lonely.jpg", f"{rows[1].partition(',')[0]},  ,apple_pie", *rows[2:]])
    )
    report = convert.pack_all(convert.upmc_food101(source), tmp_path / "out")["train"]
    assert report.samples == 98
    assert dict(report.skipped) == {"row of 1 columns, expected 3": 1, "empty title": 1, "picture without a title": 1}
    assert report.examples["picture without a title"] == unlisted


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (r"Ma\xc3\xa7a &amp; Cream", "Maça & Cream"),
        (r"caf\xe9", "café"),
        ("Mom&amp;rsquo;s", "Mom’s"),
        ('[["Coleen\'s Recipes: BEST !!!"]]', "Coleen's Recipes: BEST !!!"),
        ("Let\\'s  cook |\\t\\tAL.com\\r ", "Let's cook | AL.com"),
        ("&nbsp;", ""),
    ],
)
def test_titles_are_cleaned_of_the_noise_of_the_crawl(raw, clean):
    assert clean_title(raw) == clean


@pytest.mark.real_data
def test_all_22716_real_titles_come_out_readable(real_data):
    import csv
    import gzip

    with gzip.open(real_data("food101-raw") / "upmc_test_titles.csv.gz", "rt", newline="") as file:
        titles = [clean_title(row[1]) for row in csv.reader(file)]
    assert len(titles) == 22716
    assert all(titles)
    noisy = [title for title in titles if any(mark in title for mark in (r"\x", "&quot;", "&amp;", "&#", '[["', "�"))]
    assert len(noisy) <= 5, noisy[:10]


def news(folder, records, pictures):
    (folder / "news").mkdir(parents=True)
    (folder / "imgs").mkdir()
    for split in ("train", "dev", "test"):
        (folder / f"news/nytimes_{split}.json").write_text(json.dumps(records[split]))
    for name, content in pictures.items():
        (folder / f"imgs/{name}.jpg").write_bytes(content)
    return folder


def record(name, section="Health", **changes):
    """A record as N24News documents it."""
    texts = {"headline": f"Headline of {name}", "abstract": f"What {name} is about", "caption": f"Shows {name}"}
    urls = {"image_url": f"https://static.example/{name}.jpg", "article_url": f"https://news.example/{name}.html"}
    return {"section": section, **texts, **urls, "image_id": name, "body": "", "article_id": f"a-{name}"} | changes


NAMES = ["42d25485-0e48-50bf-8d16-948", "5c000000-aaaa-50bf-8d16-001", "5c000000-aaaa-50bf-8d16-002"]


def three_records():
    return {
        "train": [record(NAMES[0]), record(NAMES[1], "Books")],
        "dev": [record(NAMES[2], "Well")],
        "test": [record("t1"), record("t2", "Books")],
    }


def test_n24news_reads_the_three_splits_and_numbers_the_sorted_sections(tmp_path):
    pictures = {name: jpeg(n, 64) for n, name in enumerate([*NAMES, "t1", "t2"])}
    source = news(tmp_path / "n24", three_records(), pictures)
    reports = convert.pack_all(convert.n24news(source, text="caption"), tmp_path / "out")
    assert {split: r.samples for split, r in reports.items()} == {"train": 2, "dev": 1, "test": 2}
    assert json.loads((tmp_path / "out/classes.json").read_text())["classes"] == ["Books", "Health", "Well"]
    found = read_all(str(tmp_path / "out/train-*.tar"), text=True)
    assert found == {NAMES[0]: (1, f"Shows {NAMES[0]}"), NAMES[1]: (0, f"Shows {NAMES[1]}")}


def test_n24news_skips_error_pages_empty_bodies_and_records_without_section(tmp_path):
    records = three_records()
    records["train"] += [record("html"), record("paid", abstract=""), record("lost", section=None), record("..//x")]
    pictures = {name: jpeg(n, 64) for n, name in enumerate([*NAMES, "t1", "t2", "paid", "lost"])}
    source = news(tmp_path / "n24", records, pictures | {"html": b"<!DOCTYPE html><p>not found"})
    report = convert.pack_all(convert.n24news(source), tmp_path / "out")["train"]
    assert report.samples == 2
    assert dict(report.skipped) == {
        "picture is not readable: not an image": 1,
        "empty abstract": 1,
        "no section": 1,
        "no usable image_id": 1,
    }


def test_n24news_takes_the_built_form_too(tmp_path):
    (tmp_path / "n24/images").mkdir(parents=True)
    (tmp_path / "n24/images/one.jpg").write_bytes(jpeg(1, 64))
    (tmp_path / "n24/nytimes_dataset_full.json").write_text(json.dumps([record("one", body="All of it.")]))
    data = convert.n24news(tmp_path / "n24", text="body")
    assert list(data.splits) == ["train"]
    assert data.splits["train"][0].fields == {"txt": b"All of it.", "cls": b"0"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda n: (n / "news/nytimes_dev.json").unlink(), "holds no nytimes_train.json"),
        (lambda n: (n / "news/nytimes_dev.json").write_text("version https://git-lfs.github.com/spec/v1"), "git-LFS"),
        (lambda n: (n / "news/nytimes_dev.json").write_text("[{"), "not valid JSON"),
        (lambda n: (n / "news/nytimes_dev.json").write_text("{}"), "list of records"),
        (lambda n: [p.unlink() for p in (n / "imgs").iterdir()] and (n / "imgs").rmdir(), "neither imgs/ nor images/"),
    ],
)
def test_n24news_says_what_is_wrong_with_its_files(tmp_path, spoil, words):
    source = news(tmp_path / "n24", three_records(), {"t1": jpeg(1)})
    spoil(source)
    with pytest.raises(UserError, match=words):
        convert.n24news(source)


def test_sources_of_another_form_are_refused(tmp_path):
    for converter, words in [(convert.food101, "images/ and meta/"), (convert.upmc_food101, "no folder texts/")]:
        with pytest.raises(UserError, match=words):
            converter(tmp_path)


def test_the_order_in_the_shards_is_mixed_and_the_same_each_time(tmp_path):
    records = three_records()
    records["train"] = [record(f"n{i:03d}", "Books") for i in range(30)]
    pictures = {name: jpeg(0, 32) for name in [f"n{i:03d}" for i in range(30)] + ["t1", "t2", NAMES[2]]}
    source = news(tmp_path / "n24", records, pictures)
    orders = []
    for out, shuffle in (("a", True), ("b", True), ("c", False)):
        convert.pack_all(convert.n24news(source), tmp_path / out, shuffle=shuffle)
        orders.append(
            [key for s in ShardSet(str(tmp_path / out / "train-*.tar")).shards for key in map(s.key, range(30))]
        )
    assert orders[0] == orders[1] != orders[2] == sorted(orders[0])
    assert np.corrcoef(np.arange(30), [int(key[1:]) for key in orders[0]])[0, 1] < 0.6
