"""Brute force in PyTorch: the peer of the search for nearest neighbors, a worker."""

import json
import sys

import numpy as np
import torch

from benchmarks.accelerator.neighbors_data import K, draw_vectors, save_indices
from benchmarks.accelerator.sizes import Task
from benchmarks.torch_device import (
    DEVICE,
    allow_tf32,
    describe_device,
    release_memory,
    synchronize,
)
from benchmarks.turns import Answer, serve

TASK = Task(**json.loads(sys.argv[1]))
QUERY_BLOCK = 1024


def search(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Indices of the nearest references by one product a block of queries."""
    q = torch.from_numpy(queries).to(DEVICE)
    r = torch.from_numpy(references).to(DEVICE)
    half_squares = (r * r).sum(1) / 2
    blocks = [
        torch.topk(block @ r.T - half_squares, K, dim=1).indices for block in q.split(QUERY_BLOCK)
    ]
    return torch.cat(blocks).cpu().numpy()


def main() -> None:
    allow_tf32(TASK.tf32)
    vectors = draw_vectors(TASK)
    indices = np.zeros(0)

    def run(count: int) -> None:
        nonlocal indices
        for _ in range(count):
            indices = search(*vectors)
        synchronize()

    def prepare() -> Answer:
        run(1)
        release_memory()
        return {}

    def describe() -> Answer:
        save_indices(TASK, "torch_tf32" if TASK.tf32 else "torch_float32", indices)
        return describe_device()

    serve(run, len(vectors.queries), 0.0, describe, prepare)


if __name__ == "__main__":
    main()
