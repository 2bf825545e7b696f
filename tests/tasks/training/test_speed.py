"""Speed: Trainer(callbacks=[Speed()]) -> speed/samples_per_second, data_wait, ... in the loggers."""

import resource

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from mmmask.parallelize import parallelize
from mmmask.transformer import Block
from tasks.training import speed
from tasks.training.speed import Speed, batch_size, is_compiled, memory_gib, peak_flops

SAMPLES, WIDE = 4, 64  # in a batch
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")


class Clock:
    """Time that passes when the test says so (and a nanosecond each time it is read)."""

    now = 0.0

    def sleep(self, seconds):
        self.now += seconds

    def perf_counter(self):
        self.now += 1e-9
        return self.now


time = Clock()


@pytest.fixture(autouse=True)
def told_time(monkeypatch):
    monkeypatch.setattr(speed, "time", time)


class Loader:
    """Batches that take `seconds` each, and are counted as ShardLoader counts them."""

    def __init__(self, seconds=0.0, batches=12, counts=True):
        self.seconds, self.batches = seconds, batches
        if counts:
            self.waited = 0.0

    def __len__(self):
        return self.batches

    def __iter__(self):
        for number in range(self.batches):
            time.sleep(self.seconds)
            if hasattr(self, "waited"):
                self.waited += self.seconds
            yield {"key": [str(number)] * SAMPLES, "x": torch.ones(SAMPLES, WIDE)}


class Model(LightningModule):
    """A linear layer whose step takes `seconds`."""

    tokens_per_sample = 10

    def __init__(self, seconds=0.0, validation_seconds=0.0):
        super().__init__()
        self.seconds, self.validation_seconds = seconds, validation_seconds
        self.layer = nn.Sequential(nn.Linear(WIDE, 32, bias=False), nn.Dropout())

    def training_step(self, batch, batch_idx):
        time.sleep(self.seconds)
        return self.layer(batch["x"]).square().mean()

    def validation_step(self, batch, batch_idx):
        time.sleep(self.validation_seconds)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Kept(CSVLogger):
    """Remembers what it is told, in place of a file."""

    def __init__(self, folder):
        super().__init__(folder)
        self.told = {}

    def log_metrics(self, metrics, step=None):
        assert metrics.keys().isdisjoint(self.told.get(step, {}).keys() - {"epoch"}), "told twice"
        self.told.setdefault(step, {}).update(metrics)


def fit(tmp_path, model=None, loader=None, validation=None, callbacks=(), **options):
    """Train, and return what a logger was told by step, and the callback."""
    torch.manual_seed(0)
    callback, logger = Speed(), Kept(tmp_path)
    options = {"max_epochs": 1, "log_every_n_steps": 5, "enable_checkpointing": False, **options}
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[callback, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if validation else 0,
        **options,
    )
    trainer.fit(model or Model(), loader or Loader(), validation)
    return {step: told for step, told in logger.told.items() if "speed/samples_per_second" in told}, callback


def test_each_log_step_tells_the_speed_since_the_one_before(tmp_path):
    told, callback = fit(tmp_path, Model(seconds=0.01))
    assert list(told) == [4, 9]
    for row in told.values():
        assert row["speed/samples_per_second"] == pytest.approx(SAMPLES / 0.01)
        assert row["speed/tokens_per_second"] == pytest.approx(10 * row["speed/samples_per_second"])
        assert 0.1 < row["speed/memory_gib"] < 16
        assert "speed/model_flops_utilisation" not in row
    assert callback.latest == {name: value for name, value in told[9].items() if name.startswith("speed/")}


def test_the_first_batch_is_not_measured(tmp_path):
    class SlowFirst(Model):
        def training_step(self, batch, batch_idx):
            self.seconds = 60 if batch_idx == 0 else 0.01
            return super().training_step(batch, batch_idx)

    told, _ = fit(tmp_path, SlowFirst())
    assert told[4]["speed/samples_per_second"] == pytest.approx(SAMPLES / 0.01)


def test_the_samples_of_accumulated_batches_all_count(tmp_path):
    told, _ = fit(tmp_path, Model(seconds=0.01), accumulate_grad_batches=3, log_every_n_steps=2)
    assert list(told) == [1, 3]
    for row in told.values():
        assert row["speed/samples_per_second"] == pytest.approx(SAMPLES / 0.01)


def test_the_samples_of_all_ranks_count(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "world_size", 8)
    told, _ = fit(tmp_path, Model(seconds=0.01))
    assert told[9]["speed/samples_per_second"] == pytest.approx(8 * SAMPLES / 0.01)


@pytest.mark.parametrize(("step", "wait", "share"), [(0.0, 0.02, 1.0), (0.02, 0.0, 0.0), (0.01, 0.01, 0.5)])
def test_data_wait_is_the_share_of_the_time_without_data(tmp_path, step, wait, share):
    told, _ = fit(tmp_path, Model(seconds=step), Loader(seconds=wait))
    for row in told.values():
        assert row["speed/data_wait"] == pytest.approx(share, abs=1e-5)


def test_a_loader_that_does_not_count_leaves_the_wait_out(tmp_path):
    told, _ = fit(tmp_path, loader=Loader(counts=False))
    assert "speed/data_wait" not in told[9]
    assert "speed/samples_per_second" in told[9]


def test_validation_is_no_training_time_and_the_wait_after_it_is(tmp_path):
    model, loader = Model(seconds=0.005, validation_seconds=0.05), Loader(seconds=0.005)
    told, _ = fit(tmp_path, model, loader, Loader(batches=2), val_check_interval=2)
    for row in told.values():
        assert row["speed/samples_per_second"] == pytest.approx(SAMPLES / 0.01)
        assert row["speed/data_wait"] == pytest.approx(0.5)


class SlowDisk(Callback):
    """A checkpoint that takes its time."""

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        time.sleep(0.05)


def test_writing_checkpoints_is_no_training_time(tmp_path):
    often = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=2)
    told, _ = fit(tmp_path, Model(seconds=0.01), callbacks=[SlowDisk(), often], enable_checkpointing=True)
    for row in told.values():
        assert row["speed/samples_per_second"] == pytest.approx(SAMPLES / 0.01)


def test_utilisation_is_the_exact_work_of_the_model_over_what_the_device_can_do(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "get_available_flops", lambda device, dtype: 1e6)
    told, _ = fit(tmp_path, Model(seconds=0.01), accumulate_grad_batches=2, log_every_n_steps=2)
    flops = 2 * 2 * WIDE * 32  # of a sample: a product and a sum each, forward and for the weights' gradient
    for row in told.values():
        per_second = row["speed/samples_per_second"] * flops
        assert row["speed/model_flops_utilisation"] == pytest.approx(per_second / 1e6, rel=1e-6)


def test_counting_the_work_changes_no_result(tmp_path, monkeypatch):
    weights = []
    for available in (None, 1e6):
        monkeypatch.setattr(speed, "get_available_flops", lambda device, dtype, flops=available: flops)
        torch.manual_seed(0)
        model = Model()
        fit(tmp_path, model)
        weights.append(model.layer[0].weight.detach())
    assert torch.equal(*weights)


def test_compiled_blocks_leave_utilisation_out_and_it_is_said_once(tmp_path, monkeypatch):
    said, model = [], Model()
    monkeypatch.setattr(speed, "get_available_flops", lambda device, dtype: 1e6)
    monkeypatch.setattr(speed, "rank_zero_info", said.append)
    model.layer[0].compile(backend="eager")
    told, _ = fit(tmp_path, model)
    assert "speed/model_flops_utilisation" not in told[9]
    assert [words.partition(":")[0] for words in said] == ["model-FLOPs utilisation is unknown"]


def test_a_first_step_that_fails_leaves_no_counter_behind(tmp_path, monkeypatch):
    class Failing(Model):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("out of memory")

    monkeypatch.setattr(speed, "get_available_flops", lambda device, dtype: 1e6)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, Failing())
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_a_batch_is_counted_by_its_keys_or_its_first_tensor():
    assert batch_size({"image": torch.zeros(3), "key": ["a", "b"]}) == 2
    assert batch_size({"text": ["a"], "image": torch.zeros(3, 2)}) == 3
    assert batch_size((torch.zeros(5, 2), torch.zeros(1))) == 5


@pytest.mark.parametrize(
    ("name", "dtype", "flops"),
    [
        ("NVIDIA H200", torch.bfloat16, 989.4e12),
        ("NVIDIA H200 NVL", torch.bfloat16, 989.4e12),
        ("NVIDIA L40S", torch.bfloat16, None),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
    ],
)
def test_devices_are_known_by_the_names_that_they_have(monkeypatch, name, dtype, flops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), dtype) == flops


def test_memory_is_what_this_process_holds():
    before = memory_gib(torch.device("cpu"))
    block = torch.ones(2**26)
    assert memory_gib(torch.device("cpu")) - before == pytest.approx(block.nbytes / 2**30, rel=0.1)
    assert before < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def test_blocks_compiled_from_outside_are_known_to_be_compiled():
    model = torch.nn.Sequential(Block(8, 2))
    assert not is_compiled(model)
    parallelize(model, compile=True)
    assert is_compiled(model)
