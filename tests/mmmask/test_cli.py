"""What a person meets at the command line: help, sentences instead of tracebacks, exit codes, configurations."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from datamodules import ShardSet
from datamodules.shapes_world_data import ensure_shapes_world
from mmmask import cli, shipped
from mmmask.errors import UserError

DEMO = "configs/demo/tokenizer.yaml"
CONFIGS = Path(__file__).parents[2] / "configs"
COMPLETE = sorted(
    str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob("*.yaml") if p.parent.name not in ("trainer", "search")
)
SEARCHES = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob("search/*.yaml"))
PARTS = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob("trainer/*.yaml"))


@pytest.fixture
def mmmask(capsys, monkeypatch):
    """Run one command in the project's root; returns its exit code, output and errors."""
    monkeypatch.chdir(CONFIGS.parent)

    def run(*arguments):
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(mmmask):
    """Run a command that must fail as a user's mistake: exit code 2, one line; returns the line."""

    def run(*arguments):
        code, _, errors = mmmask(*arguments)
        lines = [line for line in errors.splitlines() if line.startswith("mmmask: ")]
        assert code == 2
        assert len(lines) == 1
        assert "Traceback" not in errors
        return lines[0]

    return run


def printed(mmmask, *arguments):
    """The configuration that `fit --print_config` prints."""
    with pytest.raises(SystemExit) as end:
        mmmask("fit", *arguments, "--print_config")
    assert not end.value.code


def test_help_answers_within_a_second_and_loads_no_torch():
    script = "import sys, mmmask.cli as c; c.main(['--help']); print('torch' in sys.modules, 'numpy' in sys.modules)"
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - start < 1
    assert all(f"\n  {verb} " in shown for verb in cli.VERBS)
    assert shown.splitlines()[-1] == "False False"


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v not in ("fit", "validate", "test", "predict")])
def test_every_verb_explains_itself(mmmask, capsys, verb):
    with pytest.raises(SystemExit) as end:
        mmmask(verb, "--help")
    assert not end.value.code
    assert f"usage: mmmask {verb}" in capsys.readouterr().out.replace("\n", " ").replace("usage: mmmask [", "usage: ")


def test_no_command_prints_the_help_with_exit_code_2(mmmask):
    code, out, _ = mmmask()
    assert (code, out.splitlines()[0]) == (2, "usage: mmmask COMMAND [OPTIONS]")


def test_an_unknown_command_names_the_nearest(refused):
    assert refused("tokenise") == (
        "mmmask: there is no command 'tokenise'. Did you mean 'tokenize'? `mmmask --help` lists all."
    )


def test_debug_shows_the_traceback():
    with pytest.raises(UserError):
        cli.main(["fit", "--config", "absent.yaml", "--debug"])


def test_ctrl_c_ends_with_exit_code_130(mmmask, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "doctor", (interrupted, ""))
    assert mmmask("doctor") == (130, "", "mmmask: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_ends_a_training_within_two_seconds(tmp_path, workers):
    arguments = [*small(tmp_path), "--trainer.max_steps=100000", f"--data.init_args.num_workers={workers}"]
    command = [sys.executable, "-m", "mmmask.cli", "fit", "--config", str(CONFIGS / "demo/tokenizer.yaml"), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("reconstruction-*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 2
    assert process.returncode == 130
    assert "mmmask: stopped by SIGINT; go on with: mmmask resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_a_full_disk_or_a_closed_door_is_a_sentence(refused, monkeypatch):
    def denied(arguments):
        raise PermissionError(13, "Permission denied", "/data/tokens")

    monkeypatch.setitem(cli.VERBS, "tokenize", (denied, ""))
    assert refused("tokenize") == "mmmask: Permission denied: /data/tokens."


BOMB = "a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"trainer: {max_steps: 3", "not valid YAML: line 1"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (BOMB.encode(), "aliases of aliases"),
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        (b"trainer: {max_step: 3}", "no option 'trainer.max_step'. Did you mean 'trainer.max_steps'?"),
        (b"trainr: {max_steps: 3}", "no option 'trainr.max_steps'. Did you mean 'trainer.max_steps'?"),
        (b"model: {init_args: {lerning_rate: 3}}", "no option 'lerning_rate'"),
        (b"model: {init_args: {lr: fast}}", "model: lr: expected float, got 'fast'"),
        (b"model: {class_path: TokenizerTrainer}", "no class 'TokenizerTrainer'. Did you mean 'TokenizerTraining'?"),
        (b"just words", "just words"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value and value[:24],
)
def test_check_19_a_bad_configuration_is_one_sentence(refused, tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    assert words in refused("fit", "--config", DEMO, "--config", path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "configs"], "configuration configs is a folder"),
        (["--config=absent.yaml"], "configuration absent.yaml does not exist"),
        (["-c", "absent.yaml"], "configuration absent.yaml does not exist"),
        (["--config", DEMO, "--trainer.max_steps", "many"], "trainer.max_steps: expected int, got 'many'"),
        (["--config", DEMO, "--model.init_args.lrr", "1"], "model: there is no option 'lrr'. Did you mean 'lr'?"),
        (["--config", DEMO, "--trainer.max_stepz", "1"], "'trainer.max_stepz'. Did you mean 'trainer.max_steps'?"),
        (
            ["--config", DEMO, "--model.init_args.tokenizer.class_path", "mmmask.tokenizers.ViTTokeniser"],
            "ViTTokenizer",
        ),
        (["--config", DEMO, "--model.init_args.tokenizer.init_args.patch", "5"], "patch is 5; choose a power"),
        (["--config", DEMO, "--ckpt_path", "absent.ckpt"], "checkpoint absent.ckpt does not exist"),
        ([], "missing: data, model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_check_19_a_wrong_argument_is_one_sentence(refused, arguments, words):
    assert words in refused("fit", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shards", "stast"], "'stast' is not one of pack, shapes, index, verify, show, stats. Did you mean 'stats'?"),
        (["shards", "show"], "missing: shards"),
        (["shards", "show", "absent/*.tar"], "absent/*.tar"),
        (["shards", "pack", "folder", "absent", "out"], "absent"),
        (["shards", "stats", "absent"], "absent"),
        (["shards", "index", "http://h/a.tar"], "http://h/a.tar is not on this machine: index a shard where it lies"),
        (["shards", "shapes", "--out", "here"], "'out' is told by its place, not by an option: leave out --out."),
        (["tokenize", "absent", "shards", "out"], "there is no run folder absent"),
        (["configs", "copy", "demo/tokeniser.yaml"], "Did you mean"),
        (["doctor", "--folder", "absent"], "there is no folder absent"),
        (["check", "--config", "absent.yaml"], "absent.yaml does not exist"),
        (["check"], "missing: data, model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_other_verbs_answer_a_mistake_with_one_sentence(refused, arguments, words):
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    "argument",
    [
        "--trainer.accelerator=foo",
        "--trainer.strategy=foo",
        "--trainer.devices=0",
        "--trainer.limit_train_batches=1.5",
        "--trainer.profiler=foo",
        "--trainer.num_nodes=0",
        "--seed_everything=-1",
    ],
)
def test_what_the_trainer_refuses_is_one_sentence(refused, argument):
    assert "the trainer refuses" in refused("check", "--config", DEMO, argument)


def test_a_checkpoint_that_nothing_tracks_or_of_another_model_is_refused(mmmask, refused, tmp_path):
    assert mmmask("fit", "--config", DEMO, *small(tmp_path))[0] == 0
    assert "has a checkpoint best.ckpt" in refused("test", "--config", DEMO, *small(tmp_path), "--ckpt_path=best")
    run = tmp_path / "run/run-1"
    checkpoint = run / "checkpoints/last.ckpt"
    before = {name: (run / name).read_bytes() for name in ("config.yaml", "run.json", "checkpoints/last.ckpt")}
    other = "--model.init_args.tokenizer.init_args.dim=64"
    for verb in ("fit", "test"):
        words = refused(verb, "--config", DEMO, *small(tmp_path), f"--ckpt_path={checkpoint}", other)
        assert "the checkpoint is not one of this model" in words
    vocabulary = "--model.init_args.tokenizer.init_args.quantizer.init_args.vocab_size=128"
    words = refused("fit", "--config", DEMO, *small(tmp_path), f"--ckpt_path={checkpoint}", vocabulary)
    assert "torch.Size([256, 16])" in words
    assert "torch.Size([128, 16])" in words
    assert {name: (run / name).read_bytes() for name in before} == before


def test_check_counts_the_steps_of_one_rank_and_what_is_left_out(mmmask, tmp_path):
    # 300 samples in batches of 32: 10 steps
    cases = {"limit_train_batches=4": 4, "limit_train_batches=0.5": 5, "devices=2": 5, "accumulate_grad_batches=3": 4}
    for argument, steps in cases.items():
        _, out, _ = mmmask("check", "--config", DEMO, *small(tmp_path), f"--trainer.{argument}")
        (line,) = (line for line in out.splitlines() if "steps per epoch" in line)
        assert line.split()[-1] == str(steps), argument


class Opened:
    """Unpickling this runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_check_15_a_checkpoint_with_objects_is_refused_and_runs_nothing(refused, tmp_path, verb):
    checkpoint, opened = tmp_path / "evil.ckpt", tmp_path / "opened"
    torch.save({"state_dict": {}, "loops": {}, "callbacks": Opened(opened)}, checkpoint)
    sentence = refused(verb, "--config", DEMO, "--ckpt_path", checkpoint)
    assert "holds Python objects, which can run code: it is not loaded" in sentence
    assert not opened.exists()


def test_check_15_an_instantiator_in_a_checkpoint_is_never_called(mmmask, tmp_path, monkeypatch):
    checkpoint, opened = tmp_path / "evil.ckpt", tmp_path / "opened"
    monkeypatch.setattr(os, "system", lambda command: opened.touch())
    parameters = {"_instantiator": "os.system", "_class_path": "os.system", "command": "anything"}
    torch.save({"state_dict": {}, "loops": {}, "global_step": 0, "hyper_parameters": parameters}, checkpoint)
    with pytest.raises((KeyError, RuntimeError)):  # it lacks all the rest of a checkpoint
        mmmask("validate", "--config", DEMO, "--ckpt_path", checkpoint, *small(tmp_path))
    assert not opened.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no checkpoint", "is damaged or no checkpoint at all"),
        (b"", "is damaged or no checkpoint at all"),
        ({"model": {}}, "was not written by a training of mmmask"),
        (["a", "list"], "was not written by a training of mmmask"),
    ],
    ids=["text", "empty", "foreign", "list"],
)
def test_a_foreign_or_damaged_checkpoint_is_named(refused, tmp_path, content, words):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert words in refused("fit", "--config", DEMO, "--ckpt_path", path)


def test_a_cut_checkpoint_is_named(refused, tmp_path):
    path = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(10_000)}, "loops": {}}, path)
    path.write_bytes(path.read_bytes()[:20_000])
    assert "cut.ckpt is damaged" in refused("fit", "--config", DEMO, "--ckpt_path", path)


@pytest.mark.parametrize("name", COMPLETE)
def test_every_shipped_configuration_is_valid(mmmask, capsys, name):
    printed(mmmask, "--config", f"configs/{name}")
    shown = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load((CONFIGS / name).read_text())
    callbacks = [callback["class_path"] for callback in written["trainer"].pop("callbacks", [])]
    assert callbacks == [c["class_path"].rpartition(".")[2] for c in shown["trainer"]["callbacks"] or []]
    assert written["trainer"].items() <= shown["trainer"].items()
    assert shown["model"]["init_args"]["lr"] == float(written["model"]["init_args"]["lr"])


def holds(whole, part):
    """Whether all settings of `part` are those of `whole`."""
    if isinstance(part, dict):
        return all(name in whole and holds(whole[name], value) for name, value in part.items())
    return whole == part


@pytest.mark.parametrize("name", SEARCHES)
def test_every_shipped_search_is_valid(mmmask, refused, capsys, name):
    with pytest.raises(SystemExit) as end:
        mmmask("search", "--config", name, "--print_config")
    assert not end.value.code
    shown, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load((CONFIGS / name).read_text())
    for part in ("metric", "optimiser"):
        assert shown[part].pop("class_path").rpartition(".")[2] == written[part].pop("class_path")
    assert holds(shown, written)
    assert "real.npz does not exist" in refused("search", "--config", name)


@pytest.mark.parametrize("name", PARTS)
def test_every_shipped_part_composes_with_a_configuration(mmmask, capsys, name):
    printed(mmmask, "--config", DEMO, "--config", f"configs/{name}", "--trainer.max_steps", "7")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert holds(shown, yaml.safe_load((CONFIGS / name).read_text()))
    assert shown["trainer"]["max_steps"] == 7
    assert shown["model"]["init_args"]["modality"] == "rgb"


def test_check_34_a_printed_configuration_holds_no_secrets_and_no_home(mmmask, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "wandb_secret")
    printed(mmmask, "--config", DEMO)
    shown = capsys.readouterr().out
    assert "secret" not in shown
    assert str(Path.home()) not in shown
    assert str(CONFIGS.parent) not in shown


def small(tmp_path):
    """Arguments that make the demo's configuration tiny."""
    return [
        "--trainer.accelerator=cpu",
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=2",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        "--data.init_args.train_samples=300",
        "--data.init_args.test_samples=40",
        "--data.init_args.batch_size=32",
    ]


def test_check_builds_everything_and_says_how_large_it_is(mmmask, tmp_path):
    code, out, _ = mmmask("check", "--config", DEMO, *small(tmp_path), "--trainer.accumulate_grad_batches=2")
    rows = {row[0]: row[1].strip() for line in out.splitlines() if len(row := line.strip().split("  ", 1)) == 2}
    assert code == 0
    assert rows["batch[rgb]"] == "(32, 3, 32, 32) torch.uint8"
    assert rows["steps per epoch"] == "5"  # ceil(300 / 32) batches, two a step
    assert rows["batch memory"].startswith("0.1 MiB")
    total = int(rows["parameters"].split()[0].replace(",", ""))
    assert 500_000 < total < 1_000_000
    assert float(rows["memory"].split()[0]) == pytest.approx(16 * total / 2**20, abs=0.5)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["index", "verify"])
def test_missing_shards_are_listed_as_bad(mmmask, verb):
    code, out, _ = mmmask("shards", verb, "absent.tar")
    assert code == 1
    assert "absent.tar" in out
    assert "does not exist" in out


def test_configurations_are_listed_and_copied(mmmask, refused, tmp_path):
    code, out, _ = mmmask("configs")
    assert code == 0
    assert all(name in out for name in [*COMPLETE, *SEARCHES, *PARTS])
    code, out, _ = mmmask("configs", "copy", "demo/tokenizer.yaml", "--out", tmp_path / "mine.yaml")
    assert code == 0
    assert (tmp_path / "mine.yaml").read_bytes() == (CONFIGS / "demo/tokenizer.yaml").read_bytes()
    assert "exists already" in refused("configs", "copy", "demo/tokenizer.yaml", "--out", tmp_path / "mine.yaml")
    assert shipped.find("demo/tokenizer.yaml").is_file()


def test_shipped_configurations_are_found_by_name_from_anywhere(tmp_path, monkeypatch, capsys):
    arguments = ["--config", "demo/tokenizer.yaml", "--config=trainer/cpu.yaml", "--print_config"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["fit", *arguments])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["max_epochs"] == 6
    assert shown["trainer"]["accelerator"] == "cpu"


def test_a_run_is_measured_continued_and_used_from_its_folder(mmmask, tmp_path):
    code, out, _ = mmmask("fit", "--config", DEMO, *small(tmp_path))
    assert code == 0
    run = Path(out.rpartition("run folder: ")[2].strip())
    checkpoint = run / "checkpoints/last.ckpt"
    assert {path.name for path in (run / "samples").iterdir()} == {
        "reconstruction-step-000002.png",
        "reconstruction-step-000004.png",
    }
    code, out, errors = mmmask("test", "--config", run / "config.yaml", "--ckpt_path", checkpoint)
    assert code == 0
    assert "test/mse" in out
    assert "untrained" not in errors
    _, _, errors = mmmask("test", "--config", run / "config.yaml")
    assert "no --ckpt_path" in errors
    assert mmmask("check", "--config", run / "config.yaml")[0] == 0
    shapes = ensure_shapes_world(32, 300, 40, 0)
    code, out, _ = mmmask("tokenize", run, shapes / "test-*.tar", tmp_path / "tokens")
    assert code == 0
    assert "wrote the tokens of 40 samples in 1 shards" in out
    tokens = ShardSet(str(tmp_path / "tokens"))
    assert tokens.fields == ["cls", "rgb.npy", "txt"]
    assert len(tokens) == 40
    code, out, _ = mmmask("resume", run, "--trainer.max_steps=6")
    assert code == 0
    assert out.rpartition("run folder: ")[2].strip() == str(run)
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 6
    state = torch.load(checkpoint, weights_only=True)
    assert state["global_step"] == 6
    assert not state.get("hyper_parameters")
    elsewhere = f"--trainer.default_root_dir={tmp_path / 'other'}"
    code, out, _ = mmmask(
        "fit", "--config", run / "config.yaml", "--ckpt_path", checkpoint, elsewhere, "--trainer.max_steps=7"
    )
    assert out.rpartition("run folder: ")[2].strip() == str(tmp_path / "other/run-1")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 6


def test_a_dry_run_leaves_no_run_behind(mmmask, tmp_path):
    assert mmmask("fit", "--config", DEMO, *small(tmp_path), "--trainer.fast_dev_run=true")[0] == 0
    assert not list(tmp_path.rglob("run-*"))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_what_is_switched_off_or_replaced_stays_out(mmmask, tmp_path):
    off = ["--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    assert mmmask("fit", "--config", DEMO, *small(tmp_path), *off)[0] == 0
    left = {path.name for path in (tmp_path / "run/run-1").iterdir()} - {".mmmask.lock"}
    assert left == {"config.yaml", "environment.json", "run.json", "samples"}
    assert mmmask("fit", "--config", DEMO, *small(tmp_path), "--trainer.callbacks+=TQDMProgressBar")[0] == 0
