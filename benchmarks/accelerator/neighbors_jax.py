"""Our side of the search for nearest neighbors: a worker (see benchmarks/turns.py)."""

import json
import sys

from experiments import _cli

_cli.prepare_environment()

import numpy as np

from benchmarks.accelerator.neighbors_data import K, draw_vectors, save_indices
from benchmarks.accelerator.sizes import Task
from benchmarks.jax_device import describe_device
from benchmarks.turns import Answer, serve
from jaxdiff.measures.exact_knn import QUERY_BLOCK, nearest

TASK = Task(**json.loads(sys.argv[1]))


def main() -> None:
    vectors = draw_vectors(TASK)
    indices = np.zeros(0)

    def run(count: int) -> None:
        nonlocal indices
        for _ in range(count):
            _, indices = nearest(vectors.queries, vectors.references, K)

    def prepare() -> Answer:
        # Both block sizes: a whole block, and what is left at the end.
        rest = len(vectors.queries) % QUERY_BLOCK
        nearest(vectors.queries[: QUERY_BLOCK + rest], vectors.references, K)
        return {}

    def describe() -> Answer:
        save_indices(TASK, "jaxdiff", indices)
        return describe_device()

    serve(run, len(vectors.queries), 0.0, describe, prepare)


if __name__ == "__main__":
    main()
