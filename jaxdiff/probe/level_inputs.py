"""What every reading of a level takes."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdiff.probe.data import ProbeData
from jaxdiff.probe.options import ProbeOptions
from jaxdiff.probe.state import ProbeState


@dataclasses.dataclass(frozen=True)
class LevelInputs:
    """A network at one timestep and level, the images, and the settings of the readings.

    Parameters
    ----------
    state
        The network and its activations.
    data
        The images.
    level
        Level of the network.
    ranks
        Ranks of the pull-back.
    options
        Settings of the readings.
    """

    state: ProbeState
    data: ProbeData
    level: int
    ranks: tuple[int, ...]
    options: ProbeOptions

    @property
    def key(self) -> Key[Array, ""]:
        """The random key of this level, the same for every reading and timestep."""
        return jax.random.fold_in(jax.random.key(self.options.seed), self.level)

    @property
    def queries(self) -> Float[np.ndarray, "q d"]:
        """Activations of the queries at this level; only where there is a memory."""
        queries = self.state.activations.queries
        assert queries is not None
        return queries[self.level]

    @property
    def memories(self) -> Float[np.ndarray, "m d"]:
        """Activations of the memory at this level; only where there is a memory."""
        memory = self.state.activations.memory
        assert memory is not None
        return memory[self.level]
