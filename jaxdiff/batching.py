"""Map a function over arrays in batches of one size, so that one compiled program serves all."""

from collections.abc import Callable, Iterator
from typing import overload

import numpy as np
from jaxtyping import Array, Shaped

from jaxdiff.progress import Progress, no_progress

Rows = Shaped[np.ndarray, "_n ..."]
Output = Array | np.ndarray


@overload
def batched_map(
    function: Callable[..., Output],
    *arrays: Rows,
    batch: int,
    progress: Progress = ...,
    task: str = ...,
) -> np.ndarray: ...


@overload
def batched_map(
    function: Callable[..., tuple[Output, ...]],
    *arrays: Rows,
    batch: int,
    progress: Progress = ...,
    task: str = ...,
) -> tuple[np.ndarray, ...]: ...


def batched_map(
    function: Callable[..., Output | tuple[Output, ...]],
    *arrays: Rows,
    batch: int,
    progress: Progress = no_progress,
    task: str = "",
) -> np.ndarray | tuple[np.ndarray, ...]:
    """Apply a function to ``batch`` rows at a time and concatenate what it returns.

    Parameters
    ----------
    function
        Called with the same ``batch`` rows of every array; returns an array [batch, ...] or a
        tuple of such arrays, row i of which depends on row i of the arguments alone.
    *arrays
        Arrays [n, ...] on the host, n >= 1.
    batch
        Rows of a call. The last rows are repeated up to it, and their results dropped.
    progress, task
        Called as ``progress(task, done, n, "")`` after each call.

    Returns
    -------
    numpy.ndarray or tuple of numpy.ndarray
        [n, ...], in the arrays' order: an array where the function returns one, else a tuple.
    """
    outputs: list[tuple[np.ndarray, ...]] = []
    is_tuple = False
    done = 0
    for count, rows in padded_batches(*arrays, batch=batch):
        output = function(*rows)
        is_tuple = isinstance(output, tuple)
        # dropped here, on the host: the device's program keeps one shape
        columns = output if isinstance(output, tuple) else (output,)
        outputs.append(tuple(np.asarray(column)[:count] for column in columns))
        done += count
        progress(task, done, len(arrays[0]), "")
    results = tuple(np.concatenate(column) for column in zip(*outputs, strict=True))
    return results if is_tuple else results[0]


def padded_batches(*arrays: Rows, batch: int) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Yield each batch as its number of rows, and ``batch`` rows of every array.

    The last batch is filled up by repeating its own rows, which are as good an input as any: zeros
    might be none (a division by their norm, a label without a meaning).

    Raises
    ------
    ValueError
        Where the arrays have no rows, or differ in their number of rows.
    """
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"arrays must have one number of rows, 1 or more, got {lengths}")
    for first in range(0, lengths[0], batch):
        count = min(batch, lengths[0] - first)
        # np.resize repeats the indices up to the batch
        indices = np.resize(np.arange(first, first + count), batch)
        yield count, tuple(array[indices] for array in arrays)
