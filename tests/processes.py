"""Several ranks as forked processes, which begin at once where new ones would import torch first."""

import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only


def together(world, function, *arguments, **options):
    """Call `function(rank, *arguments)` in `world` processes that find each other, and return when all ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}

    def one(rank):
        os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank), NODE_RANK="0")
        rank_zero_only.rank = rank  # which Lightning looked up when it was imported
        torch.set_num_threads(1)
        function(rank, *arguments, **options)

    processes = [multiprocessing.get_context("fork").Process(target=one, args=(rank,)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * world, "see the traceback of the process above"


def _average(rank):
    dist.init_process_group("gloo")
    mean = torch.zeros(1)
    dist.reduce_scatter_tensor(mean, torch.ones(2), dist.ReduceOp.AVG)
    raise SystemExit(int(mean != 1))


def _gloo_averages():
    try:
        together(2, _average)
    except AssertionError:
        return False
    return True


sharding = pytest.mark.skipif(not _gloo_averages(), reason="this torch scatters sums over gloo, not means")
