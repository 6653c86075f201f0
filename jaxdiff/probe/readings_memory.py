"""Readings of the free energy of a memory's activations, and of the classes that it recalls."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdiff.estimates import wilson
from jaxdiff.landscape import memory, minima, retrieval
from jaxdiff.probe.level_inputs import LevelInputs
from jaxdiff.reading import Reading


def read_memory(inputs: LevelInputs) -> list[Reading]:
    """The curvature of the memory's free energy at the queries, with two temperatures.

    The raw tau is that of the energy, the scaled one of `_scaled_tau`. Where a tau is below the
    rounding error of distances the values are undefined and the label ``why`` says so. A
    ValueError is raised where it is the scaled one and the user has chosen c.
    """
    queries = inputs.queries[: inputs.data.num_probe]
    readings = []
    for tau_name in ("raw", "scaled"):
        # Undefined unless the curvature can be computed; a table then says why.
        norms = dict.fromkeys(memory.NAMES, np.full(len(queries), np.nan))
        why = ""
        try:
            tau = inputs.state.tau if tau_name == "raw" else _scaled_tau(inputs)
            norms = memory.curvature(queries, inputs.memories, tau)
        except ValueError as error:
            if tau_name == "scaled" and inputs.options.c != 1.0:
                raise ValueError(
                    f"the memory at level {inputs.level} with the scaled tau (--c): {error}"
                ) from None
            why = str(error)
        for name, values in norms.items():
            readings.append(Reading.measured("memory", name, values, tau=tau_name, why=why))
    return readings


def read_retrieval(inputs: LevelInputs) -> list[Reading]:
    """What share of the queries the memory calls class 1, and the minima of its free energy.

    Class 1's share of the memory, of the votes of k neighbors (Eq. 1) and of the soft weights
    (Eq. 2) with the scaled tau, among what is of class 0 or 1; then the number of minima at this
    tau, and their purity. Where most of the memory are copies of each other there is the first
    alone, and where tau is below the rounding error of distances there are no minima:
    `read_memory` says why.
    """
    labels = inputs.data.memory_labels
    if labels is None:
        return []
    num_classes = int(labels.max()) + 1
    share = np.array([labels[labels < 2].mean()])
    readings = [Reading.measured("retrieval", "class 1 in the memory", share)]
    try:
        tau = _scaled_tau(inputs)
    except ValueError:
        return readings
    queries = inputs.queries
    memories = inputs.memories

    # No vote has more neighbors than there are memories.
    ks = tuple(k for k in inputs.options.ks if k <= len(memories))
    points = jnp.asarray(memories)
    votes = retrieval.hard_votes(jnp.asarray(queries), points, labels, num_classes, ks)
    for k, shares in votes.items():
        readings.append(_recalled_share(f"k = {k}", shares))
    soft = retrieval.soft_labels(memory.weights(queries, memories, tau), labels, num_classes)
    readings.append(_recalled_share("soft", soft))

    try:
        merged = minima.find_minima(points, tau)
    except ValueError:
        return readings
    count = len(merged.centers)
    majorities = [np.bincount(labels[merged.assignment == i]).max() for i in range(count)]
    purity = sum(majorities) / len(memories)
    return [
        *readings,
        Reading.measured("retrieval", "minima", np.array([count])),
        Reading.measured("retrieval", "purity", np.array([purity])),
    ]


def _scaled_tau(inputs: LevelInputs) -> float:
    """c times the median squared distance to the nearest neighbor in the memory."""
    return inputs.options.c * memory.nearest_scale(inputs.memories)


def _recalled_share(name: str, shares: Float[np.ndarray, "q classes"]) -> Reading:
    """Of the queries that are called class 0 or 1 the proportion of class 1, with its interval."""
    called = shares.argmax(axis=1)  # of equal ones the first
    ones = int((called == 1).sum())
    n = int((called < 2).sum())
    if n == 0:
        return Reading.measured("retrieval", name, np.array([np.nan]))
    low, high = wilson(ones, n)
    return Reading.measured(
        "retrieval", name, np.array([ones / n]), low=float(low), high=float(high), n=n
    )
