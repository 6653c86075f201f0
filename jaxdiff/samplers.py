"""From noise to images: DDPM's ancestral sampling and DDIM.

Every random number of a sample comes from that sample's own key, and the sampler works on whatever batch it is
given, so that sample i does not depend on how many are drawn beside it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdiff.diffusion import Batch, Prediction, Schedule, to_x0_and_eps

Predict = Callable[[Array, Array], Array]


class _Step(NamedTuple):
    """One step of the chain: from t, at alpha_bar, to the previous level, at alpha_bar_prev (1 at the end)."""

    t: Int[Array, ""]
    alpha_bar: Float[Array, ""]
    alpha_bar_prev: Float[Array, ""]


def timesteps(schedule: Schedule, steps: int) -> np.ndarray:
    """`steps` integer steps from T - 1 downwards, equally spaced ("trailing" of Lin et al. 2024).

    Raises ValueError unless 1 <= steps <= T.
    """
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"{steps} sampling steps were asked for; the schedule has {schedule.steps}, so use 1 to that")
    return np.round(np.arange(schedule.steps, 0, -schedule.steps / steps)[:steps]).astype(np.int32) - 1


def _chain(schedule: Schedule, steps: int, start: int | None) -> _Step:
    t = timesteps(schedule, steps)
    t = t if start is None else t[t <= start]
    alpha_bar = schedule.alpha_bar[t]
    return _Step(jnp.asarray(t), jnp.asarray(alpha_bar), jnp.asarray(np.append(alpha_bar[1:], np.float32(1.0))))


def _noise(keys: Key[Array, " batch"], t: Int[Array, ""], like: Batch) -> Batch:
    draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), like.shape[1:], like.dtype))
    return draw(keys)


def initial_noise(keys: Key[Array, " batch"], shape: tuple[int, ...]) -> Float[Array, " batch *shape"]:
    """x_T of each sample, from its own key; no step of the chain uses the same numbers."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 2**31 - 1), shape))(keys)


def ddim(
    predict: Predict, schedule: Schedule, x_T: Batch, keys: Key[Array, " batch"], *,
    prediction: Prediction = "eps", steps: int = 50, eta: float = 0.0, clip: bool = True, start: int | None = None,
) -> Batch:  # fmt: skip
    """DDIM (Song et al. 2021, Eq. 12), x_T float [batch, ...] -> x0 in [-1, 1] (where `clip`).

    predict(xt, t) is the network's raw output; eta = 0 draws no noise, eta = 1 is as random as DDPM. With `clip`
    the predicted x0 is clipped to [-1, 1] and eps is derived again from it: without that, small models' samples
    are ruined. `start` enters the chain at that step, which must be one of it, with x_T noised to there.
    """

    def step(xt: Batch, now: _Step) -> tuple[Batch, None]:
        t = jnp.full(xt.shape[:1], now.t)
        x0, eps = to_x0_and_eps(schedule, prediction, predict(xt, t), xt, t)
        if clip:
            x0 = jnp.clip(x0, -1.0, 1.0)
            eps = (xt - jnp.sqrt(now.alpha_bar) * x0) / jnp.sqrt(1.0 - now.alpha_bar)
        ratio = (1.0 - now.alpha_bar_prev) / (1.0 - now.alpha_bar)
        variance = eta**2 * ratio * (1.0 - now.alpha_bar / now.alpha_bar_prev)
        towards = jnp.sqrt(now.alpha_bar_prev) * x0 + jnp.sqrt(1.0 - now.alpha_bar_prev - variance) * eps
        return (towards + jnp.sqrt(variance) * _noise(keys, now.t, xt) if eta else towards), None

    return jax.lax.scan(step, x_T, _chain(schedule, steps, start))[0]


def ddpm(
    predict: Predict, schedule: Schedule, x_T: Batch, keys: Key[Array, " batch"], *,
    prediction: Prediction = "eps", steps: int | None = None, clip: bool = True, start: int | None = None,
) -> Batch:  # fmt: skip
    """Ancestral sampling (Ho et al. 2020, Eqs. 6 and 7, the smaller variance), over all T steps or `steps` of them.

    x_T float [batch, ...] -> x0; keys is one typed key a sample. The predicted x0 is clipped to [-1, 1] (`clip`);
    `start` enters the chain in the middle, as for ddim.
    """

    def step(xt: Batch, now: _Step) -> tuple[Batch, None]:
        t = jnp.full(xt.shape[:1], now.t)
        x0, _ = to_x0_and_eps(schedule, prediction, predict(xt, t), xt, t)
        x0 = jnp.clip(x0, -1.0, 1.0) if clip else x0
        alpha = now.alpha_bar / now.alpha_bar_prev
        to_x0 = jnp.sqrt(now.alpha_bar_prev) * (1.0 - alpha) / (1.0 - now.alpha_bar)
        to_xt = jnp.sqrt(alpha) * (1.0 - now.alpha_bar_prev) / (1.0 - now.alpha_bar)
        variance = (1.0 - alpha) * (1.0 - now.alpha_bar_prev) / (1.0 - now.alpha_bar)
        return to_x0 * x0 + to_xt * xt + jnp.sqrt(variance) * _noise(keys, now.t, xt), None

    return jax.lax.scan(step, x_T, _chain(schedule, steps or schedule.steps, start))[0]
