"""Parameters as one vector, which a handful of kernels updates whatever their number."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class ParamsLayout:
    """Where each parameter lies in a vector of all of them.

    Parameters
    ----------
    shapes
        Name and shape of each, in the vector's order.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "ParamsLayout":
        """That of these parameters, or of their shapes, in the order of their names."""
        # JAX flattens a dict in this order: optax.flatten's state is the same without a layout.
        return cls(tuple((name, tuple(params[name].shape)) for name in sorted(params)))

    def ravel(self, params: Mapping[str, Array]) -> Float[Array, " count"]:
        """The vector of these parameters."""
        return jnp.concatenate([params[name].ravel() for name, _ in self.shapes])

    def ravel_on_host(self, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same of NumPy arrays."""
        return np.concatenate([params[name].ravel() for name, _ in self.shapes])

    def unravel(self, vector: Float[Array, " count"]) -> dict[str, Array]:
        """The parameters by name."""
        params = {}
        start = 0
        for name, shape in self.shapes:
            size = math.prod(shape)
            params[name] = vector[start : start + size].reshape(shape)
            start += size
        return params
