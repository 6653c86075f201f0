"""Which images a step sees, as a pure function of (seed, step)."""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)


def batch_indices(seed: int, step: int, batch: int, n: int) -> np.ndarray:
    """int32 [batch]: entries step * batch ... of the endless row of shuffled epochs over n images."""
    position = step * batch + np.arange(batch)
    return np.array([_epoch(seed, int(p) // n, n)[p % n] for p in position], np.int32)
