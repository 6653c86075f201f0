"""Samplers: DDIM, DDPM, PNDM and Heun's method, and DDIM's inversion from images to noise."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxdiff.diffusion import Batch, Prediction, Schedule, to_x0_and_eps
from jaxdiff.multistep import PNDM
from jaxdiff.sampling_method import (
    SAMPLERS,
    Keys,
    Predict,
    SamplerSpec,
    SamplingMethod,
    Spacing,
    Step,
    clip_x0,
    initial_noise,
    move_along_eps,
    register_sampler,
    run_sampler,
    step_noise,
    timesteps,
)

__all__ = [
    "DDIM",
    "DDPM",
    "PNDM",
    "SAMPLERS",
    "Heun",
    "Inversion",
    "Keys",
    "Predict",
    "SamplerSpec",
    "SamplingMethod",
    "Spacing",
    "Step",
    "ddim",
    "ddim_invert",
    "ddpm",
    "initial_noise",
    "register_sampler",
    "round_trip",
    "run_sampler",
    "step_noise",
    "timesteps",
]
Variance = Literal["fixed_small", "fixed_large"]
Clip = float | bool


@register_sampler("ddim")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(SamplingMethod):
    """DDIM (Song et al. 2021, Eq. 12).

    Parameters
    ----------
    eta
        0 draws no noise, 1 is as random as DDPM.
    clip
        The predicted x0 is clipped to [-clip, clip]; False or 0 does not clip, True is 1.
    rederive
        Whether eps is derived again from the clipped x0. Without that, the samples of small models
        are ruined.
    """

    eta: float = 0.0
    clip: Clip = True
    rederive: bool = True

    def step(
        self, predict: Predict, schedule: Schedule, carry: Batch, step: Step, keys: Keys
    ) -> Batch:
        xt = carry
        t = jnp.full(xt.shape[:1], step.t)
        x0, eps = to_x0_and_eps(schedule, self.prediction, predict(xt, t), xt, t)
        if self.clip:
            x0 = clip_x0(x0, self.clip)
            # diffusers' use_clipped_model_output.
            if self.rederive:
                eps = (xt - jnp.sqrt(step.alpha_bar) * x0) / jnp.sqrt(1.0 - step.alpha_bar)
        # Eq. 16 of Song et al.: at eta = 1 the variance of DDPM's posterior.
        ratio = (1.0 - step.alpha_bar_prev) / (1.0 - step.alpha_bar)
        variance = self.eta**2 * ratio * (1.0 - step.alpha_bar / step.alpha_bar_prev)
        # Eq. 12: the predicted x0, and the direction that points to xt.
        direction = jnp.sqrt(1.0 - step.alpha_bar_prev - variance) * eps
        mean = jnp.sqrt(step.alpha_bar_prev) * x0 + direction
        if not self.eta:
            return mean
        return mean + jnp.sqrt(variance) * step_noise(keys, step.t, xt)


@register_sampler("ddpm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPM(SamplingMethod):
    """Ancestral sampling (Ho et al. 2020, Eqs. 6 and 7).

    Parameters
    ----------
    clip
        The predicted x0 is clipped to [-clip, clip]; False or 0 does not clip, True is 1.
    variance
        fixed_small: that of the posterior given x0. fixed_large: that of the forward step, down
        to timestep 0, as diffusers has it: a chain that ends above it leaves the images noisy.
    """

    clip: Clip = True
    variance: Variance = "fixed_small"

    def step(
        self, predict: Predict, schedule: Schedule, carry: Batch, step: Step, keys: Keys
    ) -> Batch:
        xt = carry
        t = jnp.full(xt.shape[:1], step.t)
        x0, _ = to_x0_and_eps(schedule, self.prediction, predict(xt, t), xt, t)
        if self.clip:
            x0 = clip_x0(x0, self.clip)
        # Where timesteps are skipped, alpha and beta are those between the two levels visited.
        alpha = step.alpha_bar / step.alpha_bar_prev
        beta = 1.0 - alpha
        ratio = (1.0 - step.alpha_bar_prev) / (1.0 - step.alpha_bar)
        # Eq. 7 of Ho et al.: the mean of the posterior of x_prev, given xt and x0.
        mean = (
            jnp.sqrt(step.alpha_bar_prev) * beta / (1.0 - step.alpha_bar) * x0
            + jnp.sqrt(alpha) * ratio * xt
        )
        std = jnp.sqrt(beta * ratio if self.variance == "fixed_small" else beta)
        # As in diffusers, timestep 0 alone is without noise. A chain of fewer steps than T may end
        # above it (trailing), where fixed_small is 0 by itself and fixed_large is not.
        return mean + jnp.where(step.t > 0, std, 0.0) * step_noise(keys, step.t, xt)


@register_sampler("heun")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(SamplingMethod):
    """Heun's method: DDIM without noise, corrected to second order.

    In x / sqrt(alpha_bar) and r = sqrt(1 - alpha_bar) / sqrt(alpha_bar), the noise-to-signal ratio
    (sigma of Karras et al.), the probability-flow ODE is dx/dr = eps. A step is an Euler step of
    this ODE (which is DDIM's), taken again with the mean of the eps at both of its ends: two calls
    of the network a step.

    Parameters
    ----------
    clip
        The predicted x0 is clipped to [-clip, clip], and eps is derived from it again; False or 0
        does not clip, True is 1.

    References
    ----------
    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
    Algorithm 1, with the noise levels of the model's own schedule.
    """

    clip: Clip = True

    def chain(self, schedule: Schedule, steps: int, start: int | None = None) -> Step:
        chain = super().chain(schedule, steps, start)
        # A schedule rescaled to zero terminal SNR begins with noise alone.
        if chain.alpha_bar[0] == 0.0:
            raise ValueError(
                "Heun's method needs alpha_bar > 0 at its first step, got 0 at "
                f"t = {chain.t[0]}; choose ddim, or the spacing leading"
            )
        return chain

    def step(
        self, predict: Predict, schedule: Schedule, carry: Batch, step: Step, keys: Keys
    ) -> Batch:
        xt = carry
        eps = self._predict_eps(predict, schedule, xt, step.t)
        x_euler = move_along_eps(xt, eps, step)
        # Nothing is left to predict without noise: the last step is Euler's, as in Algorithm 1.
        # Its second call of the network is made and thrown away, so that all steps are one program.
        eps_end = self._predict_eps(predict, schedule, x_euler, jnp.maximum(step.t_prev, 0))
        eps_mean = jnp.where(step.t_prev < 0, eps, (eps + eps_end) / 2.0)
        # A first step from a very large sigma (the cosine schedule's) overshoots: clipped again.
        eps_mean = self._clip_eps(schedule, xt, eps_mean, step.t)
        return move_along_eps(xt, eps_mean, step)

    def _predict_eps(
        self, predict: Predict, schedule: Schedule, xt: Batch, t: Int[ArrayLike, ""]
    ) -> Batch:
        t_batch = jnp.full(xt.shape[:1], t)
        output = predict(xt, t_batch)
        _, eps = to_x0_and_eps(schedule, self.prediction, output, xt, t_batch)
        return self._clip_eps(schedule, xt, eps, t)

    def _clip_eps(self, schedule: Schedule, xt: Batch, eps: Batch, t: Int[ArrayLike, ""]) -> Batch:
        """The eps whose x0 is the clipped one."""
        if not self.clip:
            return eps
        s, sigma = schedule.signal_and_noise(jnp.full(xt.shape[:1], t), xt.ndim)
        x0 = clip_x0((xt - sigma * eps) / s, self.clip)
        return (xt - s * x0) / sigma


def ddim(
    predict: Predict,
    schedule: Schedule,
    x_T: Batch,
    keys: Keys,
    *,
    prediction: Prediction = "eps",
    steps: int = 50,
    start: int | None = None,
    **options: Any,
) -> Batch:
    """Sample by DDIM (Song et al. 2021, Eq. 12).

    Parameters
    ----------
    predict
        Raw output of the network at (xt, t), with t int [batch].
    schedule
        Noise levels of the model.
    x_T
        Noise float [batch, ...]; with `start`, images noised to that timestep.
    keys
        One typed key a sample.
    prediction
        What the network's output stands for.
    steps
        Number of steps of the whole chain, 1 to T.
    start
        Enter the chain at this timestep, which must be one of its own.
    **options
        Fields of `DDIM`: eta, clip, rederive, spacing, offset, to_one, stride.

    Returns
    -------
    Array
        x0 float [batch, ...], in [-clip, clip].
    """
    method = DDIM(prediction=prediction, **options)
    return run_sampler(method, predict, schedule, x_T, keys=keys, steps=steps, start=start)


def ddpm(
    predict: Predict,
    schedule: Schedule,
    x_T: Batch,
    keys: Keys,
    *,
    prediction: Prediction = "eps",
    steps: int | None = None,
    start: int | None = None,
    **options: Any,
) -> Batch:
    """Sample by DDPM (Ho et al. 2020, Eqs. 6 and 7), over all T steps or `steps` of them.

    Parameters are those of `ddim`; the options are the fields of `DDPM`: clip, variance, spacing,
    offset, to_one, stride.
    """
    method = DDPM(prediction=prediction, **options)
    steps = steps or schedule.steps
    return run_sampler(method, predict, schedule, x_T, keys=keys, steps=steps, start=start)


def ddim_invert(
    predict: Predict,
    schedule: Schedule,
    x0: Batch,
    keys: Keys | None = None,
    *,
    prediction: Prediction = "eps",
    steps: int = 50,
    start: int | None = None,
    iterations: int = 1,
    **chain_options: Any,
) -> Batch:
    """Invert `ddim` without noise and clipping: find the x_T from which it returns x0.

    How near the result is, `round_trip` measures.

    Parameters
    ----------
    predict, schedule, prediction, steps, start
        As in `ddim`.
    x0
        Images float [batch, ...].
    keys
        Not used.
    iterations
        Iterations of the fixed point at each step. One is the usual inversion (Song et al. 2021,
        Sec. 4.3; Mokady et al. 2023), more are nearer to the exact inverse (Pan et al. 2023).
    **chain_options
        spacing, offset, to_one, stride, as in `ddim`.

    Returns
    -------
    Array
        x_T, float [batch, ...].
    """

    def invert_step(x_prev: Batch, step: Step) -> tuple[Batch, None]:
        t = jnp.full(x_prev.shape[:1], step.t)
        # With s = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar) the step solves, from x_prev on,
        # x_t = s_t / s_prev (x_prev - sigma_prev eps(x_t, t)) + sigma_t eps(x_t, t).
        xt = x_prev
        for _ in range(iterations):
            _, eps = to_x0_and_eps(schedule, prediction, predict(xt, t), xt, t)
            noise_prev = jnp.sqrt(1.0 - step.alpha_bar_prev) * eps
            x0_hat = (x_prev - noise_prev) / jnp.sqrt(step.alpha_bar_prev)
            xt = jnp.sqrt(step.alpha_bar) * x0_hat + jnp.sqrt(1.0 - step.alpha_bar) * eps
        return xt, None

    # The base class has the options of a chain alone, so that others are refused.
    chain = SamplingMethod(**chain_options).chain(schedule, steps, start)
    # From the clean image to noise, along the same steps.
    upwards = Step(*(column[::-1] for column in chain))
    return jax.lax.scan(invert_step, x0, upwards)[0]


class Inversion(NamedTuple):
    """Images through their noise and back.

    x_T: the noise that `ddim_invert` finds. x0: the images that `ddim` makes of it. error: RMS
    difference a pixel between these and the images that were inverted.
    """

    x_T: Batch
    x0: Batch
    error: Float[Array, " batch"]


def round_trip(
    predict: Predict, schedule: Schedule, x0: Batch, *, iterations: int = 1, **options: Any
) -> Inversion:
    """Invert images and sample again from their noise; parameters are those of `ddim_invert`."""
    x_T = ddim_invert(predict, schedule, x0, iterations=iterations, **options)
    # At eta = 0 no key is used.
    unused_keys = jax.random.split(jax.random.key(0), len(x0))
    sampled = ddim(predict, schedule, x_T, unused_keys, clip=0.0, **options)
    error = jnp.sqrt(jnp.mean(jnp.square(sampled - x0), axis=range(1, x0.ndim)))
    return Inversion(x_T, sampled, error)
