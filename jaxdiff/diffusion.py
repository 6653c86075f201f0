"""The forward process, and what the network predicts.

References
----------
Ho et al., "Denoising Diffusion Probabilistic Models", 2020.
Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022.
"""

import dataclasses
import math
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Prediction = Literal["eps", "v", "x0"]
Batch = Float[Array, "batch ..."]


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule.

    Parameters
    ----------
    alpha_bar
        Float [T]: the share of the signal's variance that is left at step t; it falls with t.
    name
        The class method that makes this schedule from its number of steps alone, such as
        "linear"; None for any other schedule.
    """

    alpha_bar: np.ndarray | Array
    name: str | None = None

    # By its values, so that programs compiled for a schedule serve every equal one.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[str | None, str, bytes]:
        alpha_bar = np.asarray(self.alpha_bar)
        return self.name, alpha_bar.dtype.name, alpha_bar.tobytes()

    @property
    def steps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alpha_bar)

    @classmethod
    def from_betas(cls, betas: np.ndarray, name: str | None = None) -> "Schedule":
        """The schedule of the variances that each step adds, betas [T] in 0..1."""
        # In float64: a running product of 1,000 float32 numbers would lose digits.
        alpha_bar = np.cumprod(1.0 - np.asarray(betas, np.float64))
        return cls(alpha_bar.astype(np.float32), name)

    @classmethod
    def linear(cls, T: int = 1000, low: float = 1e-4, high: float = 0.02) -> "Schedule":
        """Betas rise linearly (Ho et al. 2020; the paper's)."""
        # Other ends are another schedule, which its name would not make again.
        name = "linear" if (low, high) == (1e-4, 0.02) else None
        return cls.from_betas(linear_betas(T, low, high), name)

    @classmethod
    def scaled_linear(cls, T: int = 1000, low: float = 0.00085, high: float = 0.012) -> "Schedule":
        """The square roots of the betas rise linearly (Rombach et al. 2022)."""
        name = "scaled_linear" if (low, high) == (0.00085, 0.012) else None
        return cls.from_betas(scaled_linear_betas(T, low, high), name)

    @classmethod
    def cosine(cls, T: int = 1000) -> "Schedule":
        """alpha_bar falls as a squared cosine, betas at most 0.999 (Nichol & Dhariwal 2021)."""
        return cls.from_betas(cosine_betas(T), "cosine")

    @classmethod
    def zero_terminal_snr(cls, betas: np.ndarray) -> "Schedule":
        """Shift and scale sqrt(alpha_bar) so that no signal is left at T - 1.

        The first step keeps its value (Lin et al. 2024, Algorithm 1).
        """
        s = np.sqrt(np.cumprod(1.0 - np.asarray(betas, np.float64)))
        s = (s - s[-1]) * s[0] / (s[0] - s[-1])
        return cls(np.square(s).astype(np.float32))

    def signal_and_noise(self, t: Int[Array, " batch"], ndim: int) -> tuple[Array, Array]:
        """s = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar) at t.

        Parameters
        ----------
        t
            Timesteps.
        ndim
            Number of axes of the results, [batch, 1, ...].
        """
        alpha_bar = jnp.asarray(self.alpha_bar)[t].reshape((-1,) + (1,) * (ndim - 1))
        return jnp.sqrt(alpha_bar), jnp.sqrt(1.0 - alpha_bar)


# The names of schedules that are made from their number of steps alone.
SCHEDULES = ("linear", "scaled_linear", "cosine")


def linear_betas(T: int, low: float, high: float) -> Float[np.ndarray, " T"]:
    """Betas from `low` to `high` in equal steps."""
    return np.linspace(low, high, T)


def scaled_linear_betas(T: int, low: float, high: float) -> Float[np.ndarray, " T"]:
    """Betas whose square roots rise in equal steps."""
    return np.linspace(low**0.5, high**0.5, T) ** 2


def cosine_betas(T: int) -> Float[np.ndarray, " T"]:
    """Betas of a squared cosine, at most 0.999."""
    # f(t) of Nichol & Dhariwal 2021, Eq. 17, with their s = 0.008. alpha_bar is f(t) / f(0), and
    # f(0) cancels in the ratio.
    alpha_bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def add_noise(schedule: Schedule, x0: Batch, eps: Batch, t: Int[Array, " batch"]) -> Batch:
    """xt = s x0 + sigma eps."""
    # Ho et al. 2020, Eq. 4
    s, sigma = schedule.signal_and_noise(t, x0.ndim)
    return s * x0 + sigma * eps


def target(
    schedule: Schedule, prediction: Prediction, x0: Batch, eps: Batch, t: Int[Array, " batch"]
) -> Batch:
    """What the network is trained to output: eps, x0, or v = s eps - sigma x0.

    Raises
    ------
    ValueError
        For another prediction.
    """
    s, sigma = schedule.signal_and_noise(t, x0.ndim)
    if prediction == "eps":
        return eps
    if prediction == "v":  # Salimans & Ho 2022
        return s * eps - sigma * x0
    if prediction == "x0":
        return x0
    names = ", ".join(get_args(Prediction))
    raise ValueError(f"prediction must be one of {names}, got {prediction!r}; choose one")


def to_x0_and_eps(
    schedule: Schedule, prediction: Prediction, output: Batch, xt: Batch, t: Int[Array, " batch"]
) -> tuple[Batch, Batch]:
    """The clean image and the noise that a network's output stands for.

    Parameters
    ----------
    schedule
        Noise schedule.
    prediction
        What the output stands for.
    output
        Raw output of the network.
    xt
        Noisy images s x0 + sigma eps.
    t
        Their timesteps.
    """
    s, sigma = schedule.signal_and_noise(t, xt.ndim)
    # Each line solves xt = s x0 + sigma eps together with the prediction's definition.
    if prediction == "eps":
        return (xt - sigma * output) / s, output
    if prediction == "v":
        # As s^2 + sigma^2 = 1, (xt, v) is (x0, eps) turned by an angle.
        return s * xt - sigma * output, s * output + sigma * xt
    return output, (xt - s * output) / sigma
