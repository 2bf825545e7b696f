"""discover, assign and corrections at the command line: what a person with shards and few labels gets."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from small_discovery import KINDS, rows_of, write_labels, write_small_shards

from mmmask import cli
from mmmask.metrics import agreement


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Shards, labels, the truth, and a discovery of 6 categories in `run`."""
    folder = tmp_path_factory.mktemp("small")
    truth = write_small_shards(folder / "shards")
    write_labels(folder / "labels.csv", truth)
    assert discover(folder, "--out", folder / "run", "--classes", 6) == 0
    return folder, truth


def discover(folder, *more):
    words = ["discover", "--data", folder / "shards", "--labels", folder / "labels.csv", *more]
    return cli.main([str(word) for word in words])


@pytest.fixture
def refused(capsys):
    """The one sentence with which a command ends."""

    def run(*arguments):
        capsys.readouterr()
        assert cli.main([str(word) for word in arguments]) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        return errors

    return run


def test_known_and_new_categories_are_found_and_named(small):
    folder, truth = small
    rows = {row["key"]: row for row in rows_of(folder / "run" / "assignments.csv")}
    assert list(rows) == list(truth)
    assert agreement([int(rows[key]["id"]) for key in truth], [KINDS.index(truth[key]) for key in truth])["all"] > 0.97
    assert all(row["category"] == truth[key] for key, row in rows.items() if row["kind"] == "known")
    categories = rows_of(folder / "run" / "categories.csv")
    assert [c["kind"] for c in categories] == ["known"] * 3 + ["new"] * 3
    for category in categories[3:]:
        kind = truth[category["examples"].split()[0]]
        assert kind in category["suggested"].split(", ")
        assert int(category["size"]) == 20
    assert rows["k0000"]["confidence"] > "0.5"
    assert rows["k0000"]["second"] != rows["k0000"]["category"]


def test_a_seed_repeats_and_k_is_estimated_where_it_is_not_told(small, tmp_path, capsys):
    folder, _ = small
    assert discover(folder, "--out", tmp_path / "again", "--classes", 6) == 0
    for name in ("assignments.csv", "categories.csv", "curves.json", "discovery.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "run" / name).read_bytes()
    assert "the number was given" in capsys.readouterr().out
    assert discover(folder, "--out", tmp_path / "estimated", "--classes", "4-9") == 0
    told = capsys.readouterr().out
    curve = json.loads((tmp_path / "estimated" / "curves.json").read_text())["classes"]
    best = curve["best"]
    assert [k for k, *_ in curve["merged"]] == [4, 5, 6, 7, 8]
    assert curve["peaks"].keys() == {"accuracy", "silhouette", "stability", "merged"}
    for criterion in ("accuracy", "silhouette", "stability"):
        means = {point["k"]: point[criterion][0] for point in curve["points"]}
        assert means[curve["peaks"][criterion]] == max(means.values())
    assert f"the number is an estimate: best {best}" in told
    assert len(rows_of(tmp_path / "estimated" / "categories.csv")) == best


def test_a_protocol_labels_as_its_table_does(small, tmp_path, refused):
    folder, _ = small
    shards, protocol = folder / "shards", tmp_path / "protocol.json"
    given = ["protocol", f"{shards}/*.tar", protocol, "--labels", folder / "labels.csv"]
    assert cli.main([str(word) for word in given]) == 0
    assert discover(folder, "--labels", protocol, "--out", tmp_path / "run", "--classes", 6) == 0
    for name in ("assignments.csv", "categories.csv", "discovery.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes()
    write_small_shards(tmp_path / "others", 12, start=500)
    others = ["discover", "--data", tmp_path / "others", "--labels", protocol, "--out", tmp_path / "no"]
    assert "samples that are not there" in refused(*others)


def test_the_page_shows_all_samples_that_it_names_and_tells_where_each_category_lies(small, tmp_path, refused):
    pytest.importorskip("sklearn")
    folder, truth = small
    assert cli.main(["report", str(folder / "run"), "--out", str(tmp_path / "page.html")]) == 0
    data = json.loads(re.search(r'id="data">(.*?)</script>', (tmp_path / "page.html").read_text(), re.S)[1])
    assert [category["size"] for category in data["categories"]] == [20] * 6
    for category in data["categories"]:
        for key in category["examples"]:
            assert truth[key] in data["texts"][key]
            assert data["pictures"][key].startswith("data:image/jpeg;base64,")
    points = data["map"]["points"]
    assert {key for *_, key in points} == set(truth)
    places = np.array([point[:2] for point in points])
    kinds = np.array([KINDS.index(truth[key]) for *_, key in points])
    inside = np.mean([places[kinds == kind].std(0).mean() for kind in range(6)])
    assert inside < 0.5 * places.std(0).mean()
    assert "no folder that mmmask discover wrote" in refused("report", tmp_path)


def test_new_samples_are_assigned_and_strange_ones_are_far(small, tmp_path, capsys):
    folder, _ = small
    truth = write_small_shards(tmp_path / "more", 60, seed=5, start=1000)
    report = tmp_path / "drift.json"
    words = ["assign", folder / "run", "--data", tmp_path / "more", "--out", tmp_path / "more.csv", "--report", report]
    assert cli.main([str(word) for word in words]) == 0
    rows = rows_of(tmp_path / "more.csv")
    assert all(row["category"] == truth[row["key"]] for row in rows if row["kind"] == "known")
    assert Counter(row["kind"] for row in rows)["new"] > 20
    assert json.loads(report.read_text())["kinds"]["far"] < 0.2
    assert "abstain" in capsys.readouterr().out
    write_small_shards(tmp_path / "strange", 30, kinds=["alpha beta"], text=lambda n, words: "" if n % 2 else "qqq zzz")
    words = [
        "assign",
        folder / "run",
        "--data",
        tmp_path / "strange",
        "--out",
        tmp_path / "strange.csv",
        "--report",
        report,
    ]
    assert cli.main([str(word) for word in words]) == 0
    drift = json.loads(report.read_text())
    assert (
        drift["kinds"]["far"] + drift["kinds"]["unsure"] > 0.9
        or drift["mean_distance"] > 1.2 * drift["mean_distance_before"]
    )


def test_discovery_of_more_samples_keeps_the_old_ids(small, tmp_path):
    folder, truth = small
    more = truth | write_small_shards(tmp_path / "shards", 140, kinds=[*KINDS, "grey scarf"])
    write_labels(tmp_path / "labels.csv", more, known=4)  # a kind that was new is labelled now
    assert discover(tmp_path, "--out", tmp_path / "run", "--classes", 7, "--continue", folder / "run") == 0
    before = {row["id"]: row for row in rows_of(folder / "run" / "categories.csv")}
    after = {row["id"]: row for row in rows_of(tmp_path / "run" / "categories.csv")}
    old = {truth[row["examples"].split()[0]]: number for number, row in before.items()}
    new = {more[row["examples"].split()[0]]: number for number, row in after.items()}
    assert {kind: new[kind] for kind in KINDS[:3]} == {kind: old[kind] for kind in KINDS[:3]}
    kept = [kind for kind in KINDS[4:] if new[kind] == old[kind]]
    assert kept == KINDS[4:]
    assert int(new["grey scarf"]) >= 6


def test_corrections_merge_and_rename_exactly_and_split_one_category(small, tmp_path):
    folder, truth = small
    before = rows_of(folder / "run" / "assignments.csv")
    names = {truth[c["examples"].split()[0]]: c["name"] for c in rows_of(folder / "run" / "categories.csv")}
    a, b, c = (names[kind] for kind in KINDS[3:])
    (tmp_path / "c.yaml").write_text(f"rename: {{{a}: belts}}\nmerge: [[{a}, {b}]]\nsplit: {{{c}: 2}}\n")
    changes = ["--continue", folder / "run", "--corrections", tmp_path / "c.yaml"]
    assert discover(folder, "--out", tmp_path / "run", *changes) == 0
    after = rows_of(tmp_path / "run" / "assignments.csv")
    parts = set()
    for was, now in zip(before, after, strict=True):
        if was["category"] in (a, b):
            assert (now["category"], now["kind"]) == ("belts", "known")
        elif was["category"] == c:
            parts.add(now["category"])
        else:
            assert (now["category"], now["id"]) == (was["category"], was["id"])
    assert len(parts) == 2
    assert c in parts
    words = ["assign", tmp_path / "run", "--data", folder / "shards", "--out", tmp_path / "all.csv"]
    assert cli.main([str(word) for word in words]) == 0
    sure = [(one["category"], now["category"]) for one, now in zip(rows_of(tmp_path / "all.csv"), after, strict=True)
            if one["category"]]  # fmt: skip
    assert np.mean([one == now for one, now in sure]) > 0.98
    # the merge survives another discovery
    assert discover(folder, "--out", tmp_path / "third", "--classes", 6, "--continue", tmp_path / "run") == 0
    third = {row["key"]: row["category"] for row in rows_of(tmp_path / "third" / "assignments.csv")}
    assert {third[row["key"]] for row in before if row["category"] in (a, b)} == {"belts"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rename: {nothing: x}", "there is no category 'nothing'"),
        ("merge: [[new-03]]", "expected `rename:"),
        ("merge: [[new-03, new-04], [new-04, new-05]]", "'new-04' is merged or split twice"),
        ("split: {new-03: 1}", "into a number of 2 or more"),
        ("split: {new-03: 500}", "cannot be split into 500"),
        ("rename: {new-03: new-04}", "two categories would be called 'new-04'"),
        ("renames: {}", "Did you mean 'rename'"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_corrections_are_refused(small, tmp_path, refused, text, sentence):
    folder, _ = small
    (tmp_path / "c.yaml").write_text(text)
    words = ["--continue", folder / "run", "--corrections", tmp_path / "c.yaml", "--out", tmp_path / "out"]
    data = ["--data", folder / "shards", "--labels", folder / "labels.csv"]
    assert sentence in refused("discover", *data, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "more", "sentence"),
    [
        ("key,category\nk0000,shoe\nnowhere,shoe\n", [], "1 keys are not in the data, the first is 'nowhere'"),
        ("key,category\nk0000,shoe\nk0000,hat\n", [], "line 3: 'k0000' has a line already, 2"),
        ("key,class\nk0000,shoe\n", [], "has no column 'category'; its first line says: key, class"),
        ("", [], "has no column 'key'"),
        ("key,category\nk0000\n", [], "there are fewer columns"),
        ("key,category\nk0000,\n", [], "no sample is labelled"),
        ("key,category\nk0000,a\nk0001,b\nk0002,c\n", ["--classes", 2], "is 2, but 3 categories are labelled"),
        ("key,category\nk0000,a\n", ["--classes", 500], "1 labelled categories and 119 unlabelled samples"),
        ("key,category\nk0000,a\n", ["--classes", "many"], "give a number as 40, or a range as 30-60"),
        ("key,category\nk0000,a\n", ["--classes", "9-3"], "give a number as 40, or a range as 30-60"),
        ("key,category\nk0000,a\n", ["--accuracy", 2], "a share between 0 and 1"),
        ("key,category\nk0000,a\n", ["--text", "text"], "has the field 'text'"),
        ("key,category\nk0000,a\n", ["--features", "x.npy"], "--features and --keys belong together"),
    ],
)  # fmt: skip
def test_bad_labels_and_settings_are_one_sentence(small, tmp_path, refused, table, more, sentence):
    folder, _ = small
    (tmp_path / "labels.csv").write_text(table)
    data = ["--data", folder / "shards", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out"]
    assert sentence in refused("discover", *data, *more)
    assert not (tmp_path / "out").exists()


def test_all_samples_labelled_leaves_nothing_to_discover(small, tmp_path, refused):
    folder, truth = small
    write_labels(tmp_path / "labels.csv", truth, known=6, each=100)
    data = ["--data", folder / "shards", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out"]
    assert "all samples are labelled: nothing is left to discover" in refused("discover", *data)


def test_a_key_that_two_shards_have_is_one_sentence(tmp_path, refused):
    for name in ("first", "second"):
        truth = write_small_shards(tmp_path / name, 12, start=6 if name == "second" else 0)
    write_labels(tmp_path / "labels.csv", truth)
    words = ["--data", tmp_path / "*" / "train-*.tar", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out"]
    assert "two samples have the key 'k0006': pack the data again, each key once" in refused("discover", *words)


def test_an_earlier_run_is_taken_up_by_an_option_without_an_underscore(small, tmp_path, refused, capsys):
    with pytest.raises(SystemExit):
        cli.main(["discover", "--help"])
    assert re.search(r"--continue CONTINUE\s+run folder", capsys.readouterr().out)
    folder, _ = small
    words = ["--data", folder / "shards", "--labels", folder / "labels.csv", "--out", tmp_path / "out"]
    assert f"{tmp_path} is no folder that mmmask discover wrote" in refused(
        "discover", *words, f"--continue={tmp_path}"
    )
    assert "no option 'continues'. Did you mean 'continue'?" in refused("discover", *words, "--continues", tmp_path)


def test_a_folder_with_another_run_is_not_written_into(small, refused):
    folder, _ = small
    data = ["--data", folder / "shards", "--labels", folder / "labels.csv"]
    assert "holds another discovery" in refused("discover", *data, "--out", folder / "run")
    assert "holds other things" in refused("discover", *data, "--out", folder / "shards")


@pytest.mark.parametrize("name", ["discovery.safetensors", "discovery.json"])
def test_a_damaged_model_is_one_sentence(small, tmp_path, refused, name):
    folder, _ = small
    for file in (folder / "run").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-50])
    words = "assign", tmp_path, "--data", folder / "shards", "--out", tmp_path / "out.csv"
    assert "is damaged" in refused(*words)
    (tmp_path / "discovery.json").unlink()
    assert "is no folder that mmmask discover wrote" in refused(*words)


def test_one_label_a_class_texts_in_other_scripts_and_empty_ones_work(tmp_path, capsys):
    kinds = ["红色运动鞋", "синяя шляпа", "हरा प्याला"]
    truth = write_small_shards(tmp_path / "shards", 60, kinds=kinds, text=lambda n, words: "" if n > 56 else words)
    write_labels(tmp_path / "labels.csv", truth, known=2, each=1)
    assert discover(tmp_path, "--out", tmp_path / "run", "--classes", 3) == 0
    assert "each category has one labelled sample" in capsys.readouterr().out
    rows = rows_of(tmp_path / "run" / "assignments.csv")
    right = agreement([int(row["id"]) for row in rows], [kinds.index(truth[row["key"]]) for row in rows])
    assert right["all"] > 0.95
    suggested = rows_of(tmp_path / "run" / "categories.csv")[2]["suggested"]
    assert "हरा प्याला" in suggested


def test_vectors_that_were_computed_elsewhere(small, tmp_path, refused):
    folder, truth = small
    keys = sorted(truth, reverse=True)  # in an order of their own
    rng = np.random.default_rng(0)
    rows = np.eye(6, dtype=np.float32)[[KINDS.index(truth[key]) for key in keys]] + 0.05 * rng.normal(size=(120, 6))
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    (tmp_path / "keys.txt").write_text("\n".join(keys) + "\n")
    given = ["--features", tmp_path / "rows.npy", "--keys", tmp_path / "keys.txt"]
    assert discover(folder, "--out", tmp_path / "run", "--classes", 6, *given) == 0
    found = rows_of(tmp_path / "run" / "assignments.csv")
    assert agreement([int(r["id"]) for r in found], [KINDS.index(truth[r["key"]]) for r in found])["all"] == 1
    words = ["assign", tmp_path / "run", "--data", folder / "shards", "--out", tmp_path / "out.csv"]
    assert "was found by vectors" in refused(*words)
    assert cli.main([str(word) for word in [*words, *given]]) == 0
    data = ["discover", "--data", folder / "shards", "--labels", folder / "labels.csv", "--out", tmp_path / "no"]
    rows[7, 2] = np.nan
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    assert f"NaN or infinite, the first of them of '{keys[7]}'" in refused(*data, *given)
    (tmp_path / "keys.txt").write_text("\n".join([*keys[:-1], keys[0]]))
    assert "occurs twice" in refused(*data, *given)
    (tmp_path / "keys.txt").write_text("\n".join(keys[:-1]))
    assert "119 keys" in refused(*data, *given)
