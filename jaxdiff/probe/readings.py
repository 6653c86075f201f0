"""All readings of a network at one timestep and level.

The readings of the energy are taken at points x_t = s x0 + sigma eps that are the same for all
models, which are compared in pairs. Those of the memory are of queries and memories that share
one eps: a query is another x_t of the same image.
"""

from collections.abc import Callable

import numpy as np

from jaxdiff.landscape import abstraction
from jaxdiff.probe import readings_energy, readings_memory
from jaxdiff.probe.data import ProbeData
from jaxdiff.probe.level_inputs import LevelInputs
from jaxdiff.probe.options import ProbeOptions
from jaxdiff.probe.state import ProbeState
from jaxdiff.reading import Reading

Compute = Callable[[LevelInputs], list[Reading]]

ENERGY_READINGS: dict[str, Compute] = {
    "hessian": readings_energy.read_hessian,
    "maps": readings_energy.read_maps,
    "pull_back": readings_energy.read_pull_back,
    "decoder": readings_energy.read_decoder,
}
MEMORY_READINGS: dict[str, Compute] = {
    "memory": readings_memory.read_memory,
    "retrieval": readings_memory.read_retrieval,
}


def ignore_reading(name: str) -> None:
    """Report nothing."""


def probe_level(
    state: ProbeState,
    data: ProbeData,
    level: int,
    ranks: tuple[int, ...],
    options: ProbeOptions,
    on_reading: Callable[[str], None] = ignore_reading,
) -> list[Reading]:
    """Measure one level of a network at one timestep.

    Parameters
    ----------
    state
        The network and its activations, of `build_state` with the same data and options.
    data
        The images.
    level
        Level of the network, from 0 (pixels) to n + 1 (output of the mid-block).
    ranks
        Ranks of the pull-back, of `select_ranks`.
    options
        Names of the readings, and their settings.
    on_reading
        Called with the name of each reading before it is taken.

    Returns
    -------
    readings
        The total variance of the level, then every reading that is defined there.

    Raises
    ------
    ValueError
        Where the memory's scaled tau is below the rounding error of distances.
    """
    inputs = LevelInputs(state, data, level, ranks, options)
    variance = abstraction.total_variance(state.activations.independent[level])
    readings = [Reading.measured("scale", "total_variance", np.array([variance]))]
    selected = [name for name in options.readings if name in ENERGY_READINGS]
    if data.has_memory:
        selected += [name for name in MEMORY_READINGS if name in options.readings]
    for name in selected:
        on_reading(name)
        compute = (ENERGY_READINGS | MEMORY_READINGS)[name]
        readings += compute(inputs)
    return readings
