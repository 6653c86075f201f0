"""PNDM's linear multistep sampler (Liu et al. 2022), as Stable Diffusion's published scheduler asks for it.

A step is DDIM's, with an eps that is a weighted sum of the network's last four outputs (Adams-Bashforth). The first step
is taken twice, the second time with the mean of the outputs at both of its ends: n steps, n > 1, call the network n + 1
times.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.diffusion import Batch, Prediction, Schedule
from jaxdiff.samplers import Predict, Spacing, timesteps

# Of the newest output, the one before it, ...: at the first call, at the second, at the third, ...
WEIGHTS = np.array(
    [[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0],
     [55 / 24, -59 / 24, 37 / 24, -9 / 24]], np.float32,
)  # fmt: skip


class Call(NamedTuple):
    """One call of the network, or all: at t, then from alpha_bar to alpha_bar_prev. again: from where the last one began."""

    t: Int[Array, "..."]
    alpha_bar: Float[Array, "..."]
    alpha_bar_prev: Float[Array, "..."]
    weights: Float[Array, "... 4"]
    again: Bool[Array, "..."]


def calls(
    schedule: Schedule,
    steps: int,
    spacing: Spacing = "leading",
    offset: int = 0,
    to_one: bool = False,
) -> Call:
    """The sampler's calls, first to last. A step goes to t - T // steps, and below 0 to level 0 or (`to_one`) to none."""
    t, stride = timesteps(schedule, steps, spacing, offset), schedule.steps // steps
    t = np.concatenate([t[:1], t[1:2], t[1:]])
    again = np.arange(len(t)) == 1
    start, end = np.where(again, t + stride, t), np.where(again, t, t - stride)
    levels = np.asarray(schedule.alpha_bar, np.float32)
    last = np.float32(1.0) if to_one else levels[0]
    before = np.where(end >= 0, levels[np.maximum(end, 0)], last)
    weights = WEIGHTS[np.minimum(np.arange(len(t)), len(WEIGHTS) - 1)]
    return Call(*(jnp.asarray(part) for part in (t, levels[start], before, weights, again)))


def pndm(
    predict: Predict, schedule: Schedule, x_T: Batch, *, prediction: Prediction = "eps", steps: int = 50,
    spacing: Spacing = "leading", offset: int = 0, to_one: bool = False,
) -> Batch:  # fmt: skip
    """x_T float [batch, ...] -> x0, not clipped; predict(xt, t) is the network's raw output, eps or v.

    Raises ValueError for another prediction, and unless 1 <= steps <= T.
    """
    if prediction == "x0":
        raise ValueError(
            "PNDM takes networks that predict eps or v; this one predicts x0, so choose DDIM"
        )

    def step(
        carry: tuple[Batch, Batch, Array], now: Call
    ) -> tuple[tuple[Batch, Batch, Array], None]:
        x, begun, outputs = carry  # outputs: the last three, the newest first
        newest = predict(x, jnp.full(x.shape[:1], now.t))[None]
        mixed = jnp.tensordot(now.weights, jnp.concatenate([newest, outputs]), 1)
        base = jnp.where(now.again, begun, x)
        if prediction == "v":
            mixed = jnp.sqrt(now.alpha_bar) * mixed + jnp.sqrt(1.0 - now.alpha_bar) * base
        clean = (base - jnp.sqrt(1.0 - now.alpha_bar) * mixed) / jnp.sqrt(now.alpha_bar)
        moved = jnp.sqrt(now.alpha_bar_prev) * clean + jnp.sqrt(1.0 - now.alpha_bar_prev) * mixed
        kept = jnp.where(now.again, outputs, jnp.concatenate([newest, outputs[:-1]]))
        return (moved, base, kept), None

    outputs = jnp.zeros((3, *x_T.shape), x_T.dtype)
    return jax.lax.scan(step, (x_T, x_T, outputs), calls(schedule, steps, spacing, offset, to_one))[
        0
    ][0]
