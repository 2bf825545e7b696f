"""Parallelism applied to a model from outside, block by block; the model knows nothing of it (as in torchtitan)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from inspect import isfunction
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from mmmask.errors import UserError
from mmmask.transformer import Block


def parallelize(
    model: nn.Module,
    mesh: DeviceMesh | None = None,
    activation_checkpointing: bool = False,
    compile: bool = False,
    param_dtype: torch.dtype | None = None,
) -> None:
    """Recompute, compile and, over a one-dimensional `mesh`, shard (FSDP2) each block of `model`, in place.

    `model` itself stays whole, so that whoever calls any of its methods meets the hooks of its children: each child
    with trained weights is a root of sharding. With `param_dtype`, to be used under autocast to it, weights travel
    in that type and gradients in float32. Names in the state dict stay as they are, buffers whole on every rank.
    """
    children = list(_children(model))
    if mesh is not None:
        _refuse_loose_parameters(model, children)
        _refuse_sums_for_means(mesh)
    if (activation_checkpointing or compile) and not _blocks(model):
        raise UserError(
            f"{type(model).__name__} has no blocks of mmmask here (towers of other libraries and convolutions "
            "have none), so there is nothing to recompute or compile: leave out parallel.activation_checkpointing and "
            "parallel.compile."
        )
    for block in _blocks(model):
        if activation_checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
        if compile:
            torch._dynamo.config.recompile_limit = 64  # blocks share their code: with and without memory, gradient, ...
        if compile:  # not block.compile(), which traces the hooks of sharding too
            block.forward = torch.compile(block.forward)  # type: ignore[method-assign]
    if mesh is not None:
        _start_equal(model, mesh)
        for child in children:
            if any(parameter.requires_grad for parameter in child.parameters()):
                _shard(child, mesh, param_dtype)


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Meanwhile all sharded weights of `model` are whole on every rank, so that each may use it as often as it likes
    without the others. For looking, not for training; all ranks must enter."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


@torch.no_grad()
def set_weight(weight: nn.Parameter, value: Tensor) -> None:
    """Give a weight, sharded or not, this value, which all ranks have."""
    value = value.to(weight.device, weight.dtype)
    weight.copy_(
        distribute_tensor(value, weight.device_mesh, weight.placements) if isinstance(weight, DTensor) else value
    )


def _children(model: nn.Module) -> Iterator[nn.Module]:
    """Children of `model`, those in lists and dicts too: what has a forward to hang hooks on."""
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _children(child)
        else:
            yield child


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def _refuse_loose_parameters(model: nn.Module, children: list[nn.Module]) -> None:
    held = {parameter for child in children for parameter in child.parameters()}
    for name, parameter in model.named_parameters():
        if parameter not in held and parameter.requires_grad:
            raise UserError(
                f"cannot shard {type(model).__name__}: its parameter '{name}' lies in none of its modules, so no rank "
                "would hear of the gradients of the others. Move it into a module that is called."
            )


def _refuse_sums_for_means(mesh: DeviceMesh) -> None:
    """Older releases of torch scatter the sum of gradients over gloo where they are asked for the mean."""
    if mesh.device_type == "cpu":
        mean = torch.zeros(1)
        dist.reduce_scatter_tensor(mean, torch.ones(mesh.size()), dist.ReduceOp.AVG, mesh.get_group())
        if mean != 1:
            raise UserError(f"torch {torch.__version__} cannot train sharded weights on CPUs: install a newer one.")


@torch.no_grad()
def _start_equal(model: nn.Module, mesh: DeviceMesh) -> None:
    """Give all ranks the weights and buffers of the first, of which each then keeps its part."""
    group = mesh.get_group()
    for tensor in (*model.parameters(), *model.buffers()):
        value = tensor.detach().to(mesh.device_type).contiguous()
        dist.broadcast(value, dist.get_global_rank(group, 0), group)
        tensor.copy_(value)


def _shard(root: nn.Module, mesh: DeviceMesh, param_dtype: torch.dtype | None) -> None:
    """Shard each block of `root`, then all the rest of it in one piece.

    The root is resharded after its forward too (FSDP2 would not), so that whoever looks at weights between steps
    always finds the same kind.
    """
    policy = MixedPrecisionPolicy(param_dtype, torch.float32 if param_dtype else None)
    blocks = [block for block in _blocks(root) if block is not root]
    adapted = [block.modulation for block in blocks if block.style.adaptive]  # called before the block they belong to
    for module in (*adapted, *blocks, root):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    _gather_in_public_methods(root)


def _gather_in_public_methods(root: nn.Module) -> None:
    """Let public methods (`encode`, `decode`) find whole weights as `forward` does, within which they are whole."""
    inside = False

    def enter(*_: Any) -> None:
        nonlocal inside
        inside = True

    def leave(*_: Any) -> None:
        nonlocal inside
        inside = False

    def gathering(name: str) -> Callable[..., Any]:
        plain = getattr(root, name)
        register_fsdp_forward_method(root, name)
        alone = getattr(root, name)

        @wraps(plain)
        def method(*args: Any, **options: Any) -> Any:
            if inside:
                return plain(*args, **options)
            enter()
            try:
                return alone(*args, **options)
            finally:
                leave()

        return method

    root.register_forward_pre_hook(enter)
    root.register_forward_hook(leave, always_call=True)
    for name in _public_methods(root):
        setattr(root, name, gathering(name))


def _public_methods(module: nn.Module) -> set[str]:
    """The methods that its own classes, not those of torch, give to `module`, and that need weights. The others are
    let alone: arguments of wrapped ones go to the device of the weights, and under autocast to their type."""
    classes = [cls for cls in type(module).__mro__ if not cls.__module__.startswith("torch.")]
    functions = {name for cls in classes for name, value in vars(cls).items() if isfunction(value)}
    weightless = getattr(module, "weightless", ())
    return {name for name in functions - {*weightless} if not name.startswith("_") and not hasattr(nn.Module, name)}
