"""Vectors of an aligned any-to-any model, of shards in which samples may lack a modality."""

import io
from types import SimpleNamespace

import numpy as np
from PIL import Image as Pillow
from small_any_to_any import TEXTS, pictures, small_any_to_any

from datamodules import Image, Text
from datamodules.pack import pack
from mmmask.cli.given_vectors import vectors_of_file, vectors_of_run
from mmmask.heads.alignment import Alignment
from mmmask.pretrained.model_files import Model


def png(pixels):
    stream = io.BytesIO()
    Pillow.fromarray((pixels[0].numpy() * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_vectors_come_in_the_order_of_the_shards_and_are_zero_where_nothing_is(tmp_path, monkeypatch):
    model = small_any_to_any(alignment=Alignment(["pixels", "caption"], 16, 8)).eval()
    readers = {"image": Image("png", 8, 1), "caption": Text("txt")}
    monkeypatch.setattr("tasks.finished.model_of", lambda run: Model({"any_to_any": model}, {}))
    monkeypatch.setattr("tasks.command_line.load_run", lambda run: (None, SimpleNamespace(modalities=readers)))
    drawn = pictures(3)
    records = [{"__key__": f"s{n}", "png": png(drawn[n]), "txt": TEXTS[n].encode()} for n in (2, 0, 1)]
    del records[1]["txt"]
    pack(records, tmp_path / "shards")
    found, learned = vectors_of_run(tmp_path, str(tmp_path / "shards"))
    assert not learned  # it knows no labels
    assert found["pixels"].shape == found["caption"].shape == (3, 8)
    assert not found["caption"][1].any()
    np.testing.assert_allclose(np.linalg.norm(found["pixels"], axis=1), 1, rtol=1e-4)
    alone = model.vectors(model.known({"caption": [TEXTS[1]]}))["caption"]
    np.testing.assert_allclose(found["caption"][2], alone[0].detach().numpy(), atol=1e-5)


def test_vectors_of_a_file_stay_there_where_all_are_wanted_in_their_order(tmp_path):
    rows = np.arange(12, dtype=np.float16).reshape(4, 3)
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "keys.txt").write_text("a\nb\nc\nd\n")
    same = vectors_of_file(tmp_path / "rows.npy", tmp_path / "keys.txt", ["a", "b", "c", "d"])
    assert isinstance(same, np.memmap)
    assert np.array_equal(same, rows)
    other = vectors_of_file(tmp_path / "rows.npy", tmp_path / "keys.txt", ["d", "b"])
    assert np.array_equal(other, rows[[3, 1]])
