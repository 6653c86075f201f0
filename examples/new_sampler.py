"""A sampler of one's own: DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2).

A study uses it with config.plugins = ("examples.new_sampler",) and
config.sample.method = "dpmpp_2m".
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import to_x0_and_eps
from jaxdiff.sampling_method import SamplingMethod, clip_x0, register_sampler


class Step(NamedTuple):
    """One step, or all of them; `weight` extrapolates the prediction from the one before."""

    t: np.ndarray
    alpha_bar: np.ndarray
    alpha_bar_prev: np.ndarray
    weight: np.ndarray


@register_sampler("dpmpp_2m")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver2M(SamplingMethod):
    """A multistep sampler of second order: its carry is xt and the last prediction of x0."""

    clip: float | bool = True

    def chain(self, schedule, steps, start=None):
        chain = super().chain(schedule, steps, start)
        alpha_bar = np.append(chain.alpha_bar, chain.alpha_bar_prev[-1])
        with np.errstate(divide="ignore", invalid="ignore"):
            h = np.diff(np.log(alpha_bar / (1 - alpha_bar)) / 2)
            weight = np.append(0, h[1:] / h[:-1] / 2)
        # The first step has no prediction before it, and the last one ends at an infinite SNR.
        weight = np.where(np.isfinite(weight), weight, 0).astype(np.float32)
        return Step(chain.t, chain.alpha_bar, chain.alpha_bar_prev, weight)

    def init(self, x_T):
        return x_T, jnp.zeros_like(x_T)

    def step(self, predict, schedule, carry, step, keys):
        xt, x0_before = carry
        t = jnp.full(len(xt), step.t)
        x0, _ = to_x0_and_eps(schedule, self.prediction, predict(xt, t), xt, t)
        if self.clip:
            x0 = clip_x0(x0, self.clip)
        extrapolated = x0 + step.weight * (x0 - x0_before)
        shrinkage = jnp.sqrt((1 - step.alpha_bar_prev) / (1 - step.alpha_bar))
        factor = jnp.sqrt(step.alpha_bar_prev) - jnp.sqrt(step.alpha_bar) * shrinkage
        return shrinkage * xt + factor * extrapolated, x0

    def result(self, carry):
        xt, _ = carry
        return xt
