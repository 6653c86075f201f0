"""The forward process, what the network predicts, and the training loss (Ho et al. 2020; Salimans & Ho 2022)."""

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
    """alpha_bar float [T]: the share of the signal's variance that is left at step t; it falls with t."""

    alpha_bar: np.ndarray | Array

    @property
    def steps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alpha_bar)

    @classmethod
    def from_betas(cls, betas: np.ndarray) -> "Schedule":
        return cls(np.cumprod(1.0 - np.asarray(betas, np.float64)).astype(np.float32))

    @classmethod
    def linear(cls, T: int = 1000, low: float = 1e-4, high: float = 0.02) -> "Schedule":
        """Betas rise linearly (Ho et al. 2020; the paper's)."""
        return cls.from_betas(linear_betas(T, low, high))

    @classmethod
    def scaled_linear(cls, T: int = 1000, low: float = 0.00085, high: float = 0.012) -> "Schedule":
        """The square roots of the betas rise linearly (Rombach et al. 2022)."""
        return cls.from_betas(scaled_linear_betas(T, low, high))

    @classmethod
    def cosine(cls, T: int = 1000) -> "Schedule":
        """alpha_bar falls as a squared cosine, betas at most 0.999 (Nichol & Dhariwal 2021)."""
        return cls.from_betas(cosine_betas(T))

    @classmethod
    def zero_terminal_snr(cls, betas: np.ndarray) -> "Schedule":
        """sqrt(alpha_bar) of these betas shifted and scaled so that nothing is left of the signal at T - 1 and the
        first step keeps its value (Lin et al. 2024, Algorithm 1)."""
        s = np.sqrt(np.cumprod(1.0 - np.asarray(betas, np.float64)))
        return cls(np.square((s - s[-1]) * s[0] / (s[0] - s[-1])).astype(np.float32))

    def signal_and_noise(self, t: Int[Array, " batch"], ndim: int) -> tuple[Array, Array]:
        """s = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar) at t, shaped [batch, 1, ...] with `ndim` axes."""
        alpha_bar = jnp.asarray(self.alpha_bar)[t].reshape((-1,) + (1,) * (ndim - 1))
        return jnp.sqrt(alpha_bar), jnp.sqrt(1.0 - alpha_bar)


def linear_betas(T: int, low: float, high: float) -> Float[np.ndarray, " T"]:
    """From `low` to `high` in equal steps."""
    return np.linspace(low, high, T)


def scaled_linear_betas(T: int, low: float, high: float) -> Float[np.ndarray, " T"]:
    """Square roots in equal steps."""
    return np.linspace(low**0.5, high**0.5, T) ** 2


def cosine_betas(T: int) -> Float[np.ndarray, " T"]:
    """Those of a squared cosine, at most 0.999."""
    levels = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1.0 - levels[1:] / levels[:-1], 0.999)


def add_noise(schedule: Schedule, x0: Batch, eps: Batch, t: Int[Array, " batch"]) -> Batch:
    """xt = s x0 + sigma eps."""
    s, sigma = schedule.signal_and_noise(t, x0.ndim)
    return s * x0 + sigma * eps


def target(
    schedule: Schedule, prediction: Prediction, x0: Batch, eps: Batch, t: Int[Array, " batch"]
) -> Batch:
    """What the network is trained to output: eps, x0, or v = s eps - sigma x0. Raises ValueError for another name."""
    s, sigma = schedule.signal_and_noise(t, x0.ndim)
    if prediction not in get_args(Prediction):
        raise ValueError(
            f"prediction {prediction!r} is not known; choose one of {', '.join(get_args(Prediction))}"
        )
    return {"eps": eps, "v": s * eps - sigma * x0, "x0": x0}[prediction]


def to_x0_and_eps(
    schedule: Schedule, prediction: Prediction, output: Batch, xt: Batch, t: Int[Array, " batch"]
) -> tuple[Batch, Batch]:
    """The clean image and the noise that the network's output stands for, given xt = s x0 + sigma eps."""
    s, sigma = schedule.signal_and_noise(t, xt.ndim)
    if prediction == "eps":
        return (xt - sigma * output) / s, output
    if prediction == "v":
        return s * xt - sigma * output, s * output + sigma * xt
    return output, (xt - s * output) / sigma


def loss(output: Batch, wanted: Batch) -> Float[Array, ""]:
    """Mean squared error over everything: the simple loss of Ho et al. 2020, Eq. 14."""
    return jnp.mean(jnp.square(output - wanted))
