"""From noise to images: DDPM's ancestral sampling, DDIM, and DDIM's inversion from images to noise.

Every random number of a sample comes from that sample's own key, and the sampler works on whatever batch it is
given, so that sample i does not depend on how many are drawn beside it. A sampler is a chain of steps (`chain`) and
what is done at each (`ddim_step`, `ddpm_step`); `ddim` and `ddpm` run the whole chain in one scan.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdiff import rng as random
from jaxdiff.diffusion import Batch, Prediction, Schedule, to_x0_and_eps

Predict = Callable[[Array, Array], Array]
Spacing = Literal["trailing", "leading", "linspace"]
Variance = Literal["fixed_small", "fixed_large"]
Keys = Key[Array, " batch"]


class Step(NamedTuple):
    """One step of the chain, or all of them: from t, at alpha_bar, to the next level down, at alpha_bar_prev."""

    t: Int[Array, "..."]
    alpha_bar: Float[Array, "..."]
    alpha_bar_prev: Float[Array, "..."]


def timesteps(
    schedule: Schedule, steps: int, spacing: Spacing = "trailing", offset: int = 0
) -> np.ndarray:
    """`steps` integer steps downwards, as diffusers spaces them (Lin et al. 2024, Table 2).

    trailing: equally spaced from T - 1; leading: the multiples of T // steps, plus `offset`; linspace: from T - 1 to 0.
    Raises ValueError unless 1 <= steps <= T and the offset stays below T.
    """
    T = schedule.steps
    if not 1 <= steps <= T:
        raise ValueError(
            f"{steps} sampling steps were asked for; the schedule has {T}, so use 1 to that"
        )
    if spacing == "trailing":
        chosen = np.round(np.arange(T, 0, -T / steps)[:steps]) - 1
    elif spacing == "leading":
        chosen = np.arange(steps)[::-1] * (T // steps) + offset
    else:
        chosen = np.linspace(0, T - 1, steps).round()[::-1]
    if chosen[0] >= T:
        raise ValueError(
            f"an offset of {offset} puts the first of {steps} steps at {int(chosen[0])}; the last is {T - 1}"
        )
    return chosen.astype(np.int32)


def chain(
    schedule: Schedule, steps: int, *, start: int | None = None, spacing: Spacing = "trailing", offset: int = 0,
    to_one: bool = True, stride: bool = False,
) -> Step:  # fmt: skip
    """The steps of a sampler, first to last; `start` enters in the middle, at a t that is one of them.

    A step goes to the next one's noise level and the last to none, or (`to_one` False) to level 0. With `stride` a
    step goes to t - T // steps whatever the next one is: diffusers' DDIM, which differs where steps do not divide T.
    """
    t = timesteps(schedule, steps, spacing, offset)
    last = 1.0 if to_one else float(schedule.alpha_bar[0])
    below = t - schedule.steps // steps if stride else np.append(t[1:], -1)
    before = np.where(below >= 0, schedule.alpha_bar[np.maximum(below, 0)], np.float32(last))
    kept = t <= (schedule.steps if start is None else start)
    return Step(*(jnp.asarray(part[kept]) for part in (t, schedule.alpha_bar[t], before)))


def _noise(keys: Keys, t: Int[Array, ""], like: Batch) -> Batch:
    draw = jax.vmap(
        lambda key: random.normal(jax.random.fold_in(key, t), like.shape[1:], like.dtype)
    )
    return draw(keys)


def initial_noise(keys: Keys, shape: tuple[int, ...]) -> Float[Array, " batch *shape"]:
    """x_T of each sample, from its own key; no step of the chain uses the same numbers."""
    return jax.vmap(lambda key: random.normal(jax.random.fold_in(key, 2**31 - 1), shape))(keys)


def ddim_step(
    predict: Predict, schedule: Schedule, xt: Batch, now: Step, keys: Keys, *, prediction: Prediction,
    eta: float = 0.0, clip: float | bool = True, rederive: bool = True,
) -> Batch:  # fmt: skip
    """One step of `ddim`."""
    t = jnp.full(xt.shape[:1], now.t)
    x0, eps = to_x0_and_eps(schedule, prediction, predict(xt, t), xt, t)
    if clip:
        x0 = jnp.clip(x0, -float(clip), float(clip))
        if rederive:
            eps = (xt - jnp.sqrt(now.alpha_bar) * x0) / jnp.sqrt(1.0 - now.alpha_bar)
    ratio = (1.0 - now.alpha_bar_prev) / (1.0 - now.alpha_bar)
    variance = eta**2 * ratio * (1.0 - now.alpha_bar / now.alpha_bar_prev)
    towards = (
        jnp.sqrt(now.alpha_bar_prev) * x0 + jnp.sqrt(1.0 - now.alpha_bar_prev - variance) * eps
    )
    return towards + jnp.sqrt(variance) * _noise(keys, now.t, xt) if eta else towards


def ddpm_step(
    predict: Predict, schedule: Schedule, xt: Batch, now: Step, keys: Keys, *, prediction: Prediction,
    clip: float | bool = True, variance: Variance = "fixed_small",
) -> Batch:  # fmt: skip
    """One step of `ddpm`."""
    t = jnp.full(xt.shape[:1], now.t)
    x0, _ = to_x0_and_eps(schedule, prediction, predict(xt, t), xt, t)
    x0 = jnp.clip(x0, -float(clip), float(clip)) if clip else x0
    alpha = now.alpha_bar / now.alpha_bar_prev
    beta, left = 1.0 - alpha, (1.0 - now.alpha_bar_prev) / (1.0 - now.alpha_bar)
    mean = (
        jnp.sqrt(now.alpha_bar_prev) * beta / (1.0 - now.alpha_bar) * x0
        + jnp.sqrt(alpha) * left * xt
    )
    spread = jnp.sqrt(beta * left if variance == "fixed_small" else beta)
    return mean + jnp.where(now.t > 0, spread, 0.0) * _noise(keys, now.t, xt)


STEPS: dict[str, Callable[..., Batch]] = {"ddim": ddim_step, "ddpm": ddpm_step}
OPTIONS = {
    "ddim": ("prediction", "eta", "clip", "rederive"),
    "ddpm": ("prediction", "clip", "variance"),
}
PATH = ("spacing", "offset", "to_one", "stride")


class Options(NamedTuple):
    """Keyword arguments of `chain` beside the number of steps, and of the method's step."""

    path: dict[str, Any]
    step: dict[str, Any]


def options(settings: dict[str, Any]) -> Options:
    """Those of a flat dict of sampler settings (method, steps, eta, clip, ...); what else is in it is left out."""
    of_step = OPTIONS[settings["method"]]
    return Options(
        {k: settings[k] for k in PATH if k in settings},
        {k: settings[k] for k in of_step if k in settings},
    )


def ddim(
    predict: Predict, schedule: Schedule, x_T: Batch, keys: Keys, *, prediction: Prediction = "eps", steps: int = 50,
    eta: float = 0.0, clip: float | bool = True, rederive: bool = True, **path: Any,
) -> Batch:  # fmt: skip
    """DDIM (Song et al. 2021, Eq. 12), x_T float [batch, ...] -> x0, in [-clip, clip].

    predict(xt, t) is the network's raw output; eta = 0 draws no noise, eta = 1 is as random as DDPM. The predicted x0
    is clipped to [-clip, clip] (False or 0 does not clip; True is 1), and with `rederive` eps is derived again from it:
    without that, small models' samples are ruined. `path`: options of `chain` (start, spacing, offset, ...); with
    `start`, x_T is noised to that step.
    """
    step = functools.partial(
        ddim_step,
        predict,
        schedule,
        keys=keys,
        prediction=prediction,
        eta=eta,
        clip=clip,
        rederive=rederive,
    )
    return _run(step, x_T, chain(schedule, steps, **path))


def ddpm(
    predict: Predict, schedule: Schedule, x_T: Batch, keys: Keys, *, prediction: Prediction = "eps",
    steps: int | None = None, clip: float | bool = True, variance: Variance = "fixed_small", **path: Any,
) -> Batch:  # fmt: skip
    """Ancestral sampling (Ho et al. 2020, Eqs. 6 and 7), over all T steps or `steps` of them.

    x_T float [batch, ...] -> x0; keys is one typed key a sample. `variance` is that of the posterior of a known x0
    (fixed_small) or of the forward step (fixed_large); `clip` and `path` are as for ddim.
    """
    step = functools.partial(
        ddpm_step, predict, schedule, keys=keys, prediction=prediction, clip=clip, variance=variance
    )
    return _run(step, x_T, chain(schedule, steps or schedule.steps, **path))


def ddim_invert(
    predict: Predict, schedule: Schedule, x0: Batch, keys: Keys | None = None, *, prediction: Prediction = "eps",
    steps: int = 50, iterations: int = 1, **path: Any,
) -> Batch:  # fmt: skip
    """The x_T from which `ddim` with eta = 0 and no clipping returns x0 float [batch, ...]; no key is used.

    Each step solves x_t = s_t / s_prev (x_prev - sigma_prev eps(x_t, t)) + sigma_t eps(x_t, t) by `iterations` of a
    fixed point from x_prev. One iteration is the usual inversion (Song et al. 2021, Sec. 4.3; Mokady et al. 2023), more
    are nearer to the exact inverse (Pan et al. 2023). How near, `round_trip` says.
    """

    def step(x_prev: Batch, now: Step) -> Batch:
        t, xt = jnp.full(x_prev.shape[:1], now.t), x_prev
        for _ in range(iterations):
            eps = to_x0_and_eps(schedule, prediction, predict(xt, t), xt, t)[1]
            clean = (x_prev - jnp.sqrt(1.0 - now.alpha_bar_prev) * eps) / jnp.sqrt(
                now.alpha_bar_prev
            )
            xt = jnp.sqrt(now.alpha_bar) * clean + jnp.sqrt(1.0 - now.alpha_bar) * eps
        return xt

    return _run(step, x0, jax.tree.map(lambda part: part[::-1], chain(schedule, steps, **path)))


def round_trip(
    predict: Predict, schedule: Schedule, x0: Batch, **options: Any
) -> tuple[Batch, Batch, Float[Array, " batch"]]:
    """(x_T, x0 again, RMS difference a pixel of each image): `ddim_invert` with these options, and `ddim` back."""
    x_T = ddim_invert(predict, schedule, x0, **options)
    back = {key: value for key, value in options.items() if key != "iterations"}
    nothing = jax.random.split(jax.random.key(0), len(x0))
    again = ddim(predict, schedule, x_T, nothing, clip=0.0, **back)
    return x_T, again, jnp.sqrt(jnp.mean(jnp.square(again - x0), axis=range(1, x0.ndim)))


def _run(step: Callable[[Batch, Step], Batch], x: Batch, steps: Step) -> Batch:
    return jax.lax.scan(lambda x, now: (step(x, now), None), x, steps)[0]
