"""Exact neighbors against FAISS in the same run: 10,000 queries, 50,000 references, 3,072 dimensions.

  python -m benchmarks.neighbors [--queries 10000] [--references 50000] [--dimension 3072] [--k 10]

Prints both times and their ratio, the share of equal indices, the largest relative error of the distances against float64,
and the peak of resident memory above the inputs. Needs faiss-cpu (extra: parity).
"""

import os
import resource
import time

from experiments import _cli

os.environ.setdefault("OPENBLAS_NUM_THREADS", str(os.cpu_count()))  # FAISS's products on all cores
_cli.prepare_environment()

import faiss
import numpy as np
from absl import app, flags

from jaxdiff.measures.neighbors import nearest

flags.DEFINE_integer("queries", 10_000, "Queries.")
flags.DEFINE_integer("references", 50_000, "References.")
flags.DEFINE_integer("dimension", 3072, "Numbers a row.")
flags.DEFINE_integer("k", 10, "Neighbors.")
FLAGS = flags.FLAGS


def peak() -> float:
    """The process's peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def exact(queries, references, indices, metric):
    """Values of the found pairs in float64."""
    q, r = queries[:, None].astype(float), references[indices].astype(float)
    if metric == "euclidean":
        return np.sqrt(np.square(q - r).sum(-1))
    return (q * r).sum(-1) / np.sqrt(np.square(q).sum(-1) * np.square(r).sum(-1))


def main(_) -> None:
    rng = np.random.default_rng(0)
    shape = FLAGS.dimension
    queries, references = (
        rng.standard_normal((n, shape), np.float32) for n in (FLAGS.queries, FLAGS.references)
    )
    nearest(queries[:64], references[:8192], FLAGS.k)  # compiled, and the inputs' memory counted
    for metric in ("euclidean", "cosine"):
        before, then = peak(), time.perf_counter()
        values, indices = nearest(queries, references, FLAGS.k, metric)
        ours, grown = time.perf_counter() - then, peak() - before
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, references)]
        index = faiss.IndexFlatL2(shape) if metric == "euclidean" else faiss.IndexFlatIP(shape)
        index.add(references if metric == "euclidean" else unit[1])
        then = time.perf_counter()
        _, theirs = index.search(queries if metric == "euclidean" else unit[0], FLAGS.k)
        peer = time.perf_counter() - then
        rows = np.flatnonzero((indices != theirs).any(axis=1))
        pair = [
            np.sort(exact(queries[rows], references, i[rows], metric)) for i in (indices, theirs)
        ]
        worse = (
            (pair[0] > pair[1] * (1 + 1e-9))
            if metric == "euclidean"
            else (pair[0] < pair[1] * (1 - 1e-9))
        )
        some = slice(0, 200)
        wanted = exact(queries[some], references, indices[some], metric)
        error = np.abs(values[some] / wanted - 1).max()
        print(f"{metric}: jaxdiff {ours:.1f} s, FAISS {peer:.1f} s, ratio {peer / ours:.2f} (above 1: jaxdiff is faster); "
              f"equal indices {np.mean(indices == theirs):.6f}, ours farther by float64 in {worse.sum()}; error {error:.1e}; memory above the inputs {grown:.0f} MB")  # fmt: skip
        del unit, index


if __name__ == "__main__":
    app.run(main)
