"""Parallelism from outside: the same numbers and the same names, sharded, recomputed and compiled."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from processes import sharding, together
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from mmmask.errors import UserError
from mmmask.parallelize import parallelize
from mmmask.tokenizers import FiniteScalarQuantizer, ViTTokenizer
from mmmask.transformer import Block


class Reader(nn.Module):
    """A child whose weights are read by `forward`, by `encode`, and by `encode` within `forward`."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.blocks = nn.Sequential(Block(8, 2), Block(8, 2))
        self.head = nn.Linear(8, 1)
        self.register_buffer("offset", torch.rand(8))

    def encode(self, x):
        return self.blocks(self.embed(x) + self.offset)

    def forward(self, x):
        return self.head(self.encode(x))


class Task(nn.Module):
    """Stands for a LightningModule: its own methods are called, never its forward."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.reader = Reader()
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 2), "b": nn.Linear(8, 2)})
        self.teacher = Reader().requires_grad_(False)

    def loss(self, x):
        features = self.reader.encode(x)
        heads = sum(head(features).square().mean() for head in self.heads.values())
        return self.reader(x).square().mean() + heads + (self.teacher.encode(x) - features).square().mean()


def numbers(task, x):
    """The loss and the whole gradients."""
    loss = task.loss(x)
    loss.backward()
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return loss.detach(), {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in gradients.items()}


CHOICES = [{"activation_checkpointing": True}, {"compile": True}, {"activation_checkpointing": True, "compile": True}]


@pytest.fixture
def quickly_compiled(monkeypatch):
    """Graphs are captured, but not made into machine code, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize("choice", CHOICES)
def test_names_losses_and_gradients_stay_the_same(choice, quickly_compiled):
    plain, parallel, x = Task(), Task(), torch.rand(4, 5, 3)
    parallelize(parallel, **choice)
    assert list(parallel.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(numbers(parallel, x), numbers(plain, x))


@pytest.mark.parametrize("choice", CHOICES[:2])
def test_what_has_no_blocks_is_told_and_not_left_as_it_is(choice):
    with pytest.raises(UserError, match="Linear has no blocks of mmmask here"):
        parallelize(nn.Linear(2, 2), **choice)


def test_activations_are_computed_again_and_not_kept():
    task, x = Task(), torch.rand(4, 5, 3)
    parallelize(task, activation_checkpointing=True)
    calls, sizes = [], []
    task.reader.blocks[0].attention.register_forward_hook(lambda *_: calls.append(1))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        out = task.reader.blocks(torch.rand(4, 5, 8, requires_grad=True))
    assert sum(sizes) <= 2 * 160  # the inputs of the blocks
    out.sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        task.reader(x)
    assert len(calls) == 3


def test_blocks_are_compiled_into_one_graph_for_all(quickly_compiled):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    task = nn.Module()
    task.stack = nn.Sequential(*(Block(8, 2) for _ in range(12)))  # more than dynamo would compile one by one
    parallelize(task, compile=True)
    task.stack(torch.rand(2, 3, 8, requires_grad=True)).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def _machine_code(rank):
    plain, parallel, x = Task(), Task(), torch.rand(4, 5, 3)
    parallelize(parallel, compile=True)
    torch.testing.assert_close(numbers(parallel, x), numbers(plain, x))


@pytest.mark.slow
def test_machine_code_gives_the_same_numbers():
    together(1, _machine_code)  # it starts threads of autograd, after which no fork of this process could use it


def _in_a_mesh(rank, check, *arguments):
    dist.init_process_group("gloo")
    check(rank, init_device_mesh("cpu", (dist.get_world_size(),)), *arguments)


def _sharded_numbers(rank, mesh, choice):
    plain, parallel = Task(), Task(seed=rank)  # ranks that begin with other weights go on with those of the first
    x = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0))
    parallelize(parallel, mesh, **choice)
    assert list(parallel.state_dict()) == list(plain.state_dict())
    loss, gradients = numbers(parallel, x[rank::2])
    dist.all_reduce(loss)
    torch.testing.assert_close((loss / 2, gradients), numbers(plain, x))
    for name, value in parallel.state_dict().items():
        trained = not name.startswith("teacher") and "offset" not in name
        assert isinstance(value, DTensor) == trained, name
    weight = parallel.reader.blocks[0].mlp[0].weight
    assert weight.to_local().numel() * 2 == weight.numel()


@sharding
@pytest.mark.parametrize("choice", [{}, CHOICES[0], *(pytest.param(c, marks=pytest.mark.slow) for c in CHOICES[1:])])
def test_two_ranks_with_half_the_weights_each_give_the_numbers_of_one(choice, quickly_compiled):
    together(2, _in_a_mesh, _sharded_numbers, choice)


def _weights_between_steps(rank, mesh):
    task, x = Task(), torch.rand(4, 5, 3)
    parallelize(task, mesh)
    for use in (task.reader, task.reader.encode, task.loss, lambda x: task.loss(x).backward()):
        use(x)
        assert all(isinstance(p, DTensor) for p in task.reader.parameters())
    with pytest.raises(RuntimeError):  # within encode
        task.reader.encode(x[..., :2])
    task.reader.encode(x)


@sharding
def test_weights_are_sharded_whenever_somebody_looks():
    together(2, _in_a_mesh, _weights_between_steps)


def _bfloat16(rank, mesh):
    plain, parallel = Task(), Task()
    x = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0))
    parallelize(parallel, mesh, param_dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        _, ours = numbers(parallel, x[rank::2])
        _, theirs = numbers(plain, x)
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.05)
    gradients = torch.cat([gradient.flatten() for gradient in ours.values()])
    assert gradients.dtype == torch.float32
    assert not gradients.equal(gradients.bfloat16().float())  # as the sums would be, were they added up in it


@sharding
def test_weights_travel_as_bfloat16_and_gradients_as_float32():
    together(2, _in_a_mesh, _bfloat16)


def _tokenizer(rank, mesh):
    def tokenizer():
        torch.manual_seed(0)
        return ViTTokenizer(FiniteScalarQuantizer([8, 6, 5]), 8, 1, 4, dim=16, heads=2, width=8).eval()

    task, plain, images = nn.Module(), tokenizer(), torch.rand(4, 1, 8, 8)
    task.tokenizer = tokenizer()
    parallelize(task, mesh)
    ids = task.tokenizer.encode(images)
    assert ids.equal(plain.encode(images))
    torch.testing.assert_close(task.tokenizer.decode(ids), plain.decode(ids))


def test_a_sharded_tokenizer_encodes_and_decodes():
    together(1, _in_a_mesh, _tokenizer)


def _loose(rank, mesh):
    task = Task()
    task.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(UserError, match="Task: its parameter 'scale' lies in none of its modules"):
        parallelize(task, mesh)
    assert not any(isinstance(p, DTensor) for p in task.parameters())


def test_a_parameter_that_nobody_would_synchronise_is_refused():
    together(1, _in_a_mesh, _loose)


def _sums(rank, mesh):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "reduce_scatter_tensor", lambda mean, *_: mean.fill_(2.0))  # as gloo of torch 2.7 does
        with pytest.raises(UserError, match="cannot train sharded weights on CPUs: install a newer one"):
            parallelize(Task(), mesh)


def test_a_torch_that_would_scatter_sums_for_means_is_refused():
    together(1, _in_a_mesh, _sums)
