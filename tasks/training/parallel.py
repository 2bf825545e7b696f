"""Any task on many devices: sharded weights (FSDP2), recomputed activations, compiled blocks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from mmmask.errors import UserError
from mmmask.parallelize import parallelize
from tasks.training import sharded


class Parallel(pl.Callback):
    """Applies parallelism to a task from outside, whatever the task; shards it if the strategy does.

    Args:
        activation_checkpointing: keep the input of each block only and compute the rest again for the gradient.
        compile: compile each block.
    """

    def __init__(self, activation_checkpointing: bool = False, compile: bool = False) -> None:
        self.activation_checkpointing, self.compile = activation_checkpointing, compile
        self._done: pl.LightningModule | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have `configure_model` apply it: Lightning calls it after every `setup`, and demands one for sharding."""
        if isinstance(trainer.strategy, DDPStrategy) and not getattr(pl_module, "uses_all_weights", True):
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        shards = isinstance(trainer.strategy, ModelParallelStrategy)
        wanted = stage == "fit" and (self.activation_checkpointing or self.compile)
        if self._done is pl_module or not (shards or wanted):
            return
        configure_task = pl_module.configure_model

        def configure_model() -> None:
            if self._done is not pl_module:  # a module that was fitted is tested next
                configure_task()
                self._apply(trainer, pl_module)
                self._done = pl_module

        pl_module.configure_model = configure_model  # type: ignore[method-assign]

    def _apply(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        strategy = trainer.strategy
        parallelize(
            pl_module,
            strategy.device_mesh["data_parallel"] if isinstance(strategy, ModelParallelStrategy) else None,
            self.activation_checkpointing,
            self.compile,
            torch.bfloat16 if trainer.precision == "bf16-mixed" else None,
        )


class FullySharded(ModelParallelStrategy):
    """Each rank keeps its share of the weights, gradients and optimizer states (FSDP2). Needs the callback `Parallel`.

    Reads checkpoints of any other run, one file or sharded, of any number of ranks.

    Args:
        save_distributed_checkpoint: write checkpoints as folders, to which each rank adds what it has; else as one
            file, which the first rank must have the memory for.
        timeout_minutes: how long a rank waits for the others before it takes them for lost.
    """

    def __init__(self, save_distributed_checkpoint: bool = True, timeout_minutes: float = 30) -> None:
        super().__init__(1, 1, save_distributed_checkpoint, timeout=timedelta(minutes=timeout_minutes))

    # Lightning's names states of an optimizer after the order of the model's parameters, which is not that of an
    # optimizer with groups. Sharded tensors need no names: they save and load like any others.
    lightning_module_state_dict = ParallelStrategy.lightning_module_state_dict
    load_model_state_dict = ParallelStrategy.load_model_state_dict
    optimizer_state = ParallelStrategy.optimizer_state
    load_optimizer_state_dict = ParallelStrategy.load_optimizer_state_dict
    lightning_restore_optimizer = True

    def setup_environment(self) -> None:
        """All ranks shard."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder, or one file; whole or not at all."""
        path = Path(self.broadcast(filepath))
        if self._save_distributed_checkpoint:
            self._save_folder(checkpoint, path)
        else:
            checkpoint = sharded.mapped(checkpoint, self._gathered)
            ParallelStrategy.save_checkpoint(self, checkpoint, path, storage_options)

    def _save_folder(self, checkpoint: dict[str, Any], path: Path) -> None:
        if self.is_global_zero:  # the others hear the new name after this
            for leftover in path.parent.glob(f".{path.name}.tmp-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(self.broadcast(path.with_name(f".{path.name}.tmp-{os.getpid()}")))
        problem = None
        try:
            sharded.write(checkpoint, temporary, lambda tensor: isinstance(tensor, DTensor), self.is_global_zero)
            if self.is_global_zero:
                sharded.take_place(temporary, path)
        except (CheckpointException, UserError, OSError) as error:
            problem = sharded.reason(error)
            shutil.rmtree(temporary, ignore_errors=True)
        if problem := self.broadcast(problem):  # also the rank that all went well for must not go on alone
            raise UserError(f"cannot write {path}: {problem}.")

    def _gathered(self, path: tuple[Any, ...], tensor: Tensor) -> Tensor | None:
        """The whole of a sharded tensor on the first rank, nothing on the others. All ranks must call."""
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return whole.cpu() if self.is_global_zero else None

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint with every tensor sharded as its parameter is."""
        path, homes = Path(self.broadcast(checkpoint_path)), self._homes()

        def place(where: tuple[Any, ...], empty: Tensor) -> Tensor | None:
            if where[0] == "optimizer_states" and not self.optimizers:
                return None
            home = homes(where, empty)
            return torch.empty_like(empty, device="cpu") if home is None else torch.empty_like(home, dtype=empty.dtype)

        def deal(where: tuple[Any, ...], whole: Tensor) -> Tensor:
            home = homes(where, whole)
            if home is None:
                return whole
            return distribute_tensor(whole, home.device_mesh, home.placements, src_data_rank=None)  # takes its part

        if sharded.is_sharded(path):
            return sharded.read(path, place)
        return sharded.mapped(torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True), deal)

    def _homes(self) -> Callable[[tuple[Any, ...], Tensor], DTensor | None]:
        """A function that finds the sharded parameter to which a tensor of a checkpoint belongs: by its name, or for
        states of an optimizer by its number there."""
        assert self.lightning_module is not None
        named = dict(self.lightning_module.named_parameters())
        numbered = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in self.optimizers]

        def home(where: tuple[Any, ...], tensor: Tensor) -> DTensor | None:
            if where[0] == "optimizer_states" and self.optimizers:
                parameter = numbered[where[1]][where[3]] if where[2] == "state" else None
            else:
                parameter = named.get(where[-1])
            return parameter if isinstance(parameter, DTensor) and parameter.shape == tensor.shape else None

        return home
