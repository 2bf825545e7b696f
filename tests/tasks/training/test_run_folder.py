"""The run folder: made once, held by one process, telling the truth about its run."""

import csv
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "end_to_end"))
from stoppable_run import Masked, SignalAt, train

from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.files import only_writer
from tasks.training import finding, run_folder
from tasks.training.run_folder import Metrics, RunRecord


@pytest.fixture
def shards(make_shards):
    return make_shards([11, 9, 10])


def run(shards, folder, *callbacks, **options):
    folder.mkdir(parents=True, exist_ok=True)
    return train(shards, folder, *callbacks, RunRecord(folder), **options)


def test_many_processes_never_get_the_same_folder(tmp_path):
    got = []
    threads = [threading.Thread(target=lambda: got.append(run_folder.begin(tmp_path))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in got) == sorted(f"run-{n}" for n in range(1, 21))


def test_a_link_that_leads_nowhere_is_no_folder_for_runs(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted/disk")
    with pytest.raises(OSError, match="File exists"):
        run_folder.begin(tmp_path / "runs")


@pytest.mark.parametrize("content", ["[]", "{", '{"metrics": [1], "state": 5}', '{"metrics": {"a": null}}'])
def test_a_broken_record_does_not_hide_the_other_runs(shards, tmp_path, capsys, content):
    run(shards, tmp_path / "run-1", max_steps=1)
    (tmp_path / "run-2").mkdir()
    (tmp_path / "run-2/run.json").write_text(content)
    assert main(["runs", str(tmp_path)]) == 0
    assert "finished" in capsys.readouterr().out


def test_a_finished_a_stopped_and_a_failed_run_say_so(shards, tmp_path):
    run(shards, tmp_path / "run-1")
    run(shards, tmp_path / "run-2", SignalAt(5))
    with pytest.raises(ZeroDivisionError):
        run(shards, tmp_path / "run-3", model=Failing())
    states = [run_folder.state_of(tmp_path / f"run-{n}") for n in (1, 2, 3)]
    assert states == ["finished", "stopped by SIGTERM", "failed: division by zero"]
    record = run_folder.read(tmp_path / "run-1")
    assert (record["step"], record["epoch"]) == ("24", "3")
    assert record["metrics"]["val/loss"] > 0


class Failing(Masked):
    def training_step(self, batch, batch_idx):
        return 1 / 0 if self.global_step == 3 else super().training_step(batch, batch_idx)


def test_a_run_that_nobody_holds_any_more_was_killed(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"state": "running"}))
    with only_writer(tmp_path):
        assert run_folder.state_of(tmp_path) == "running"
    assert run_folder.state_of(tmp_path) == "killed"


def test_a_second_process_cannot_go_on_with_a_run_under_way(shards, tmp_path):
    with only_writer(tmp_path), pytest.raises(UserError, match="another process is writing into"):
        run(shards, tmp_path)


def test_runs_lists_them_with_state_and_metrics(shards, tmp_path, capsys):
    run(shards, tmp_path / "a/run-1")
    run(shards, tmp_path / "a/run-2", SignalAt(5))
    assert main(["runs", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "finished 24" in shown
    assert "stopped by SIGTERM" in shown
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "there are no runs in" in capsys.readouterr().err


def test_resume_refuses_what_is_no_run(tmp_path, capsys):
    assert main(["resume", str(tmp_path)]) == 2
    assert f"there is no {tmp_path}/config.yaml" in capsys.readouterr().err


def test_metrics_after_the_checkpoint_are_taken_out_when_it_goes_on(tmp_path):
    first = Metrics(tmp_path, 0)
    for step in range(6):
        first.log_metrics({"loss": step}, step)
    first.log_metrics({"val": 1.0}, 3)
    again = Metrics(tmp_path, 4)
    again.log_metrics({"loss": 40, "new": 1}, 4)
    with open(tmp_path / "metrics.csv", newline="") as stream:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(stream)]
    expected = [{"loss": str(step), "step": str(step)} for step in range(4)]
    assert rows == [*expected, {"val": "1.0", "step": "3"}, {"loss": "40", "new": "1", "step": "4"}]


def test_the_environment_tells_versions_and_commit_and_no_secrets(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a secret")
    run(shards, tmp_path, max_steps=1)
    text = (tmp_path / "environment.json").read_text()
    assert json.loads(text)["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "a secret" not in text


def test_the_commit_is_that_of_the_source_and_says_if_files_were_changed(tmp_path):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert run_folder.commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "one")
    assert run_folder.commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert run_folder.commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_last_and_best_are_those_of_the_newest_run(tmp_path):
    for number in (2, 9, 10):
        folder = tmp_path / f"run-{number}/checkpoints"
        folder.mkdir(parents=True)
        if number < 10:
            (folder / "last.ckpt").write_bytes(b"")
    assert finding.named("last", tmp_path) == tmp_path / "run-9/checkpoints/last.ckpt"
    assert finding.named("best", tmp_path) is None
    assert finding.named("a/b.ckpt", tmp_path) == Path("a/b.ckpt")


def test_a_folder_of_runs_stands_for_its_newest_with_a_checkpoint_and_not_for_what_is_deeper(tmp_path):
    for name in (
        "run-9/checkpoints/best",
        "run-10/checkpoints/last",
        "run-11/config",
        "policy/run-12/checkpoints/best",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / f"{name}.ckpt").write_bytes(b"")
    assert finding.newest(tmp_path) == tmp_path / "run-10/checkpoints/last.ckpt"
    (tmp_path / "run-10/checkpoints/best.ckpt").write_bytes(b"")
    assert finding.newest(tmp_path) == tmp_path / "run-10/checkpoints/best.ckpt"
    assert finding.newest(tmp_path / "run-9") == tmp_path / "run-9/checkpoints/best.ckpt"
    with pytest.raises(UserError, match="holds no checkpoint"):
        finding.newest(tmp_path / "run-11")


def test_a_checkpoint_belongs_to_a_run_only_in_the_folder_of_runs_it_is_from(tmp_path):
    run = tmp_path / "runs/run-1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    checkpoint, older = run / "checkpoints/last.ckpt", run / "checkpoints/step-00000001.ckpt"
    (run / "checkpoints/step-00000002.ckpt").touch()
    older.touch()
    checkpoint.symlink_to("step-00000002.ckpt")
    assert finding.of_checkpoint(checkpoint.resolve(), tmp_path / "runs") == run
    assert finding.of_checkpoint(older, tmp_path / "runs") is None  # what came after it is not to be lost
    assert finding.of_checkpoint(checkpoint, tmp_path / "runs") == run
    assert finding.of_checkpoint(checkpoint, tmp_path / "other") is None
    assert finding.of_checkpoint(tmp_path / "runs/last.ckpt", tmp_path / "runs") is None
