"""PNDM's linear multistep sampler (Liu et al. 2022)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.diffusion import Batch, Schedule
from jaxdiff.sampling_method import (
    Keys,
    Predict,
    SamplingMethod,
    Spacing,
    move_along_eps,
    register_sampler,
)

# Of the newest output, the one before it, ...: at the first call, the second, the third, ...
# The second row is Heun's mean; the others are Adams-Bashforth's of order 1 to 4.
WEIGHTS = np.array(
    [
        [1, 0, 0, 0],
        [1 / 2, 1 / 2, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ],
    np.float32,
)


class PNDMStep(NamedTuple):
    """One call of the network, or all of them: at t, then from alpha_bar to alpha_bar_prev.

    weights are those of the newest output, the one before it, and so on. A repeated step begins
    where the step before it began.
    """

    t: Int[Array | np.ndarray, "..."]
    alpha_bar: Float[Array | np.ndarray, "..."]
    alpha_bar_prev: Float[Array | np.ndarray, "..."]
    weights: Float[Array | np.ndarray, "... 4"]
    is_repeated: Bool[Array | np.ndarray, "..."]


class PNDMCarry(NamedTuple):
    """The images, those that the last step began with, and three outputs, the newest first."""

    xt: Batch
    begin: Batch
    outputs: tuple[Batch, Batch, Batch]


@register_sampler("pndm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PNDM(SamplingMethod):
    """PNDM's linear multistep sampler, as Stable Diffusion's published scheduler has it.

    A step is DDIM's, with an eps that is a weighted sum of the network's last four outputs
    (Adams-Bashforth). The first step is taken twice, the second time with the mean of the outputs
    at both of its ends: n steps, n > 1, call the network n + 1 times. Nothing is clipped, and a
    step always goes to t - T // steps. Networks predict eps or v.

    Raises
    ------
    ValueError
        For a network that predicts x0.

    References
    ----------
    Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds".
    """

    spacing: Spacing = "leading"
    to_one: bool = False
    stride: bool = True

    def __post_init__(self) -> None:
        if self.prediction == "x0":
            raise ValueError(
                "the sampler pndm needs a network that predicts eps or v, got one that predicts "
                "x0; choose ddim"
            )

    def chain(self, schedule: Schedule, steps: int, start: int | None = None) -> PNDMStep:
        t = self.timesteps(schedule, steps, start)
        stride = schedule.steps // steps
        # The second call is at the first step's end: it corrects the step that led there.
        t = np.concatenate([t[:1], t[1:2], t[1:]])
        is_repeated = np.arange(len(t)) == 1
        levels = self.build_steps(
            schedule,
            np.where(is_repeated, t + stride, t),
            np.where(is_repeated, t, t - stride),
        )
        weights = WEIGHTS[np.minimum(np.arange(len(t)), len(WEIGHTS) - 1)]
        return PNDMStep(t, levels.alpha_bar, levels.alpha_bar_prev, weights, is_repeated)

    def init(self, x_T: Batch) -> PNDMCarry:
        zeros = jnp.zeros(x_T.shape, x_T.dtype)
        return PNDMCarry(x_T, x_T, (zeros, zeros, zeros))

    def step(
        self, predict: Predict, schedule: Schedule, carry: PNDMCarry, step: PNDMStep, keys: Keys
    ) -> PNDMCarry:
        output = predict(carry.xt, jnp.full(carry.xt.shape[:1], step.t))
        # Outputs of the zeros that `init` put there have the weight 0.
        outputs = jnp.stack([output, *carry.outputs])
        mixed = jnp.tensordot(step.weights, outputs, 1)
        begin = jnp.where(step.is_repeated, carry.begin, carry.xt)
        eps = mixed
        # The published scheduler mixes outputs of v too, and converts the mixture.
        if self.prediction == "v":
            eps = jnp.sqrt(step.alpha_bar) * mixed + jnp.sqrt(1.0 - step.alpha_bar) * begin
        # The output at the end of the first step served to repeat it, and is not kept.
        recent = [jnp.where(step.is_repeated, outputs[i + 1], outputs[i]) for i in range(3)]
        xt = move_along_eps(begin, eps, step)
        return PNDMCarry(xt, begin, (recent[0], recent[1], recent[2]))

    def result(self, carry: PNDMCarry) -> Batch:
        return carry.xt
