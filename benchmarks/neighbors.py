"""Exact neighbors against FAISS in the same run: 10,000 queries, 50,000 references, 3,072 numbers.

  python -m benchmarks.neighbors [--queries 10000] [--references 50000] [--dimension 3072] [--k 10]

Prints both times and their ratio, the CPU seconds of both, the share of equal indices, the largest
relative error of the distances against float64, and the peak of resident memory above the inputs.
Needs faiss-cpu (extra: parity).
"""

import os
import time

from experiments import _cli

os.environ.setdefault("OPENBLAS_NUM_THREADS", str(os.cpu_count()))  # FAISS's products on all cores
_cli.prepare_environment()

import faiss
import numpy as np
from absl import app, flags

from benchmarks.machine import describe_machine
from benchmarks.turns import peak
from jaxdiff.measures.neighbors import nearest

flags.DEFINE_integer("queries", 10_000, "Queries.")
flags.DEFINE_integer("references", 50_000, "References.")
flags.DEFINE_integer("dimension", 3072, "Numbers a row.")
flags.DEFINE_integer("k", 10, "Neighbors.")
FLAGS = flags.FLAGS

NUM_CHECKED = 200  # queries whose values are compared with float64's


def compute_exact(queries, references, indices, metric):
    """Values of these pairs in float64."""
    q = queries[:, None].astype(float)
    r = references[indices].astype(float)
    if metric == "euclidean":
        return np.sqrt(np.square(q - r).sum(-1))
    return (q * r).sum(-1) / np.sqrt(np.square(q).sum(-1) * np.square(r).sum(-1))


def search_faiss(queries, references, metric):
    """Indices of the nearest references; the seconds and CPU seconds of the search alone."""
    if metric == "euclidean":
        index = faiss.IndexFlatL2(FLAGS.dimension)
    else:
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        references = references / np.linalg.norm(references, axis=1, keepdims=True)
        index = faiss.IndexFlatIP(FLAGS.dimension)
    index.add(references)
    start = time.perf_counter()
    cpu_start = time.process_time()
    _, indices = index.search(queries, FLAGS.k)
    return indices, time.perf_counter() - start, time.process_time() - cpu_start


def count_farther(queries, references, indices, faiss_indices, metric):
    """Neighbors that are farther than FAISS's by float64, where the two differ."""
    rows = np.flatnonzero((indices != faiss_indices).any(axis=1))
    values = np.sort(compute_exact(queries[rows], references, indices[rows], metric))
    faiss_values = np.sort(compute_exact(queries[rows], references, faiss_indices[rows], metric))
    if metric == "euclidean":
        return int((values > faiss_values * (1 + 1e-9)).sum())
    return int((values < faiss_values * (1 - 1e-9)).sum())


def compare(queries, references, metric):
    """Run both on the same data and print what they differ in."""
    memory = peak()
    start = time.perf_counter()
    cpu_start = time.process_time()
    values, indices = nearest(queries, references, FLAGS.k, metric)
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    growth = peak() - memory
    faiss_indices, faiss_seconds, faiss_cpu_seconds = search_faiss(queries, references, metric)
    farther = count_farther(queries, references, indices, faiss_indices, metric)
    checked = slice(0, NUM_CHECKED)
    exact = compute_exact(queries[checked], references, indices[checked], metric)
    error = np.abs(values[checked] / exact - 1).max()
    print(
        f"{metric}: jaxdiff {seconds:.1f} s, FAISS {faiss_seconds:.1f} s, ratio "
        f"{faiss_seconds / seconds:.2f} (above 1: jaxdiff is faster); CPU seconds "
        f"{cpu_seconds:.1f} and {faiss_cpu_seconds:.1f}; equal indices "
        f"{np.mean(indices == faiss_indices):.6f}, ours farther by float64 in {farther}; error "
        f"{error:.1e}; memory above the inputs {growth:.0f} MB"
    )


def main(_) -> None:
    print(describe_machine())
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((FLAGS.queries, FLAGS.dimension), np.float32)
    references = rng.standard_normal((FLAGS.references, FLAGS.dimension), np.float32)
    # The first call starts JAX; from then on the peak has the inputs' memory.
    nearest(queries[:64], references[:8192], FLAGS.k)
    for metric in ("euclidean", "cosine"):
        compare(queries, references, metric)


if __name__ == "__main__":
    app.run(main)
