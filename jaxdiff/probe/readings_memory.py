"""Readings of the free energy of a memory's activations, and of the classes that it recalls."""

import jax.numpy as jnp
import numpy as np

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
    (Eq. 2) with the scaled tau; then the number of minima at this tau, and their purity. Where
    most of the memory are copies of each other there is the first alone: `read_memory` says why.
    """
    labels = inputs.data.memory_labels
    if labels is None:
        return []
    share = np.array([labels.mean()])
    readings = [Reading.measured("retrieval", "class 1 in the memory", share)]
    try:
        tau = _scaled_tau(inputs)
    except ValueError:
        return readings
    queries = inputs.queries
    memories = inputs.memories

    # No vote has more neighbors than there are memories.
    ks = tuple(k for k in inputs.options.ks if k <= len(memories))
    votes = retrieval.hard_votes(jnp.asarray(queries), jnp.asarray(memories), labels, 2, ks)
    for k, shares in votes.items():
        readings.append(_recalled_share(f"k = {k}", shares[:, 1]))
    soft = retrieval.soft_labels(memory.weights(queries, memories, tau), labels, 2)
    readings.append(_recalled_share("soft", soft[:, 1]))

    merged = minima.find_minima(jnp.asarray(memories), tau)
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


def _recalled_share(name: str, share_of_class_1: np.ndarray) -> Reading:
    """The proportion of queries that are called class 1, with its interval."""
    ones = int((share_of_class_1 > 0.5).sum())
    n = len(share_of_class_1)
    low, high = wilson(ones, n)
    return Reading.measured(
        "retrieval", name, np.array([ones / n]), low=float(low), high=float(high), n=n
    )
