"""The nearest centre of each row, by FAISS on the CPU or on GPUs."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch  # before FAISS: the other order crashes on some systems
from numpy.typing import NDArray

from mmmask.discovery.ranks import Ranks
from mmmask.errors import UserError

GPU = bool | Literal["shard"]
# The BLAS inside FAISS's wheels knows no processor after 2020 and then takes kernels three times as slow.
KERNELS = {"AVX512": "SKYLAKEX", "AVX2": "HASWELL"}


class NearestCentres:
    """Finds, among centres `(K, D)`, the one nearest to each row; `gpu`: none, all (each searches some of the rows)
    or `"shard"` (each holds some of the centres: for K beyond 10^5). Of several ranks each has the GPU of its own."""

    def __init__(self, dim: int, gpu: GPU = False) -> None:
        faiss = import_faiss()
        self.index: Any = faiss.IndexFlatL2(dim)
        if gpu:
            self.index = _on_gpus(faiss, self.index, gpu)

    def put(self, centres: NDArray[np.float32]) -> None:
        """Search among these from now on."""
        self.index.reset()
        self.index.add(np.ascontiguousarray(centres, dtype=np.float32))

    def of(self, rows: NDArray[np.float32], count: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Squared distances `(n, count)` and numbers `(n, count)` of the centres nearest to rows `(n, D)`, in order."""
        return self.index.search(rows, count)


def import_faiss() -> ModuleType:
    """FAISS, which takes 0.2 s to import, with the fast kernels of its BLAS unless the user chose some."""
    name = "OPENBLAS_CORETYPE"  # read when FAISS is loaded; numpy's own BLAS, loaded before, keeps its choice
    kernels = KERNELS.get(torch.backends.cpu.get_cpu_capability())
    chosen = name in os.environ
    if kernels and not chosen:
        os.environ[name] = kernels
    try:
        import faiss
    finally:
        if not chosen:
            os.environ.pop(name, None)
    return faiss


def _on_gpus(faiss: ModuleType, index: Any, gpu: GPU) -> Any:
    count = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if not count:  # FAISS itself would go on with the CPU and not say so
        raise UserError(
            "clustering on GPUs was asked for, but FAISS sees none: leave gpu out, or install faiss-gpu where "
            "there is a GPU (`mmmask doctor` shows what works)"
        )
    if Ranks().count > 1:
        mine = torch.cuda.current_device() if torch.cuda.is_available() else Ranks().rank % count
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), mine, index)
    options = faiss.GpuMultipleClonerOptions()
    options.shard = gpu == "shard"
    return faiss.index_cpu_to_all_gpus(index, co=options)
