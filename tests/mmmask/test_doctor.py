"""`mmmask doctor`: each thing that can be wrong is a row with advice, and the exit code follows."""

import json
import sys
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest

from mmmask import cli, doctor

Usage = namedtuple("Usage", "total used free")


def rows(check):
    return {finding.what: finding for finding in check}


def test_this_machine_can_train_and_every_warning_has_advice(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"python", "torch", "lightning", "faiss search", "a training step"} <= {row["what"] for row in found}
    assert all(row["advice"] for row in found if row["state"] != "ok")


def test_a_failure_makes_the_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "training_step", lambda: [doctor.Finding("a training step", "no", "fail", "buy one")])
    assert cli.main(["doctor"]) == 1
    assert "training cannot run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("installed", "state", "words"),
    [
        ({"lightning": "2.6.3"}, "fail", "steals credentials"),
        ({"lightning": "2.5.0"}, "fail", "pip install 'lightning<2.7,>=2.6.6'"),
        ({"lightning": None}, "fail", "pip install 'lightning<2.7,>=2.6.6'"),
        ({"lightning": "2.6.7"}, "ok", ""),
        ({"pyarrow": None}, "warn", "mmmask[parquet]"),
    ],
)
def test_versions_are_compared_with_what_mmmask_requires(monkeypatch, installed, state, words):
    real = doctor.version

    def version(name):
        if name in installed and installed[name] is None:
            raise doctor.PackageNotFoundError(name)
        return installed.get(name) or real(name)

    monkeypatch.setattr(doctor, "version", version)
    finding = rows(doctor.versions())[next(iter(installed))]
    assert finding.state == state
    assert words in finding.advice


def test_development_packages_are_not_asked_for():
    assert not {"pytest", "ruff", "mypy"} & set(rows(doctor.versions()))


def test_no_accelerator_is_a_warning(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert rows(doctor.devices())["cuda"].state == "warn"


def broken_faiss(answers):
    class Index:
        def __init__(self, dim):
            pass

        def add(self, vectors):
            pass

        def search(self, vectors, k):
            return None, np.array(answers)

    return SimpleNamespace(IndexFlatL2=Index, get_num_gpus=lambda: 2)


@pytest.mark.parametrize(
    ("module", "state", "found"),
    [
        (None, "fail", "does not work"),
        (broken_faiss([0, 0, 0, 0]), "fail", "wrong answers"),
        (broken_faiss([0, 1, 2, 3]), "ok", "on 2 GPUs"),
    ],
)
def test_faiss_is_tried_not_only_imported(monkeypatch, module, state, found):
    monkeypatch.setitem(sys.modules, "faiss", module)
    (finding,) = doctor.faiss()
    assert finding.state == state
    assert found in finding.found


def test_little_room_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(100, 99, 1))
    monkeypatch.setattr(doctor, "_free_memory", lambda: 1)
    found = rows([*doctor.memory(), *doctor.disk(tmp_path)])
    low = [what for what, finding in found.items() if finding.state == "warn"]
    assert "memory" in low
    assert any(what.startswith("disk at") for what in low)
    assert "--shm-size" in found["/dev/shm"].advice if "/dev/shm" in found else True


def test_a_folder_without_write_permission_fails(monkeypatch, tmp_path):
    def refused(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert rows(doctor.disk(tmp_path))["writing there"].state == "fail"


def test_temporary_files_on_another_file_system_are_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/proc")
    finding = rows(doctor.disk(tmp_path))["TMPDIR"]
    assert finding.state == "warn"
    assert "set TMPDIR" in finding.advice


def test_few_open_files_are_a_warning(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda which: (256, 4096))
    assert rows(doctor.open_files())["open files"].state == "warn"


def test_a_training_step_that_fails_says_so(monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr("mmmask.tokenizers.ViTTokenizer.forward", fails)
    (finding,) = doctor.training_step()
    assert finding.state == "fail"
    assert "no kernel image" in finding.found
