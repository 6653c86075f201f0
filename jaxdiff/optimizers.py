"""Optimizers and learning-rate schedules by name, each one of optax."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def _sgd(rate: optax.Schedule, weight_decay: float | int) -> optax.GradientTransformation:
    # optax's own has no weight decay; here the momentum averages it, as in PyTorch.
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.sgd(rate, momentum=0.9))


# Called as (rate, weight_decay=weight_decay).
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": optax.adamw,
    "lion": optax.lion,
    "sgd": _sgd,
}


def _cosine(peak: float | int, steps: int, cooldown_steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, steps)


def _linear(peak: float | int, steps: int, cooldown_steps: int) -> optax.Schedule:
    return optax.linear_schedule(peak, 0.0, steps)


def _constant(peak: float | int, steps: int, cooldown_steps: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _wsd(peak: float | int, steps: int, cooldown_steps: int) -> optax.Schedule:
    """Warm-up, stable, decay: constant, then 1 minus the root of the cooldown's passed part."""
    # Hägele et al. 2024, Section 3.2

    def cooldown(step: ArrayLike) -> jax.Array:
        # join_schedules evaluates this before its boundary too, where the step is negative.
        passed = jnp.clip(jnp.asarray(step) / cooldown_steps, 0.0, 1.0)
        return peak * (1.0 - jnp.sqrt(passed))

    constant = optax.constant_schedule(peak)
    return optax.join_schedules([constant, cooldown], [steps - cooldown_steps])


# How the rate falls after the warm-up, from its peak over the remaining steps, of which the last
# are the cooldown.
SCHEDULES: dict[str, Callable[[float | int, int, int], optax.Schedule]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "wsd": _wsd,
}


def build_optimizer(
    name: str,
    train_steps: int,
    *,
    learning_rate: float | int,
    schedule: str = "cosine",
    warmup: float | int = 0.05,
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    weight_decay: float | int = 0.01,
    clip: float | int = 1.0,
) -> optax.GradientTransformation:
    """An optimizer behind gradient clipping, with a learning rate that warms up and falls.

    Parameters
    ----------
    name
        A key of OPTIMIZERS.
    train_steps
        Length of the training.
    learning_rate
        Peak learning rate.
    schedule
        A key of SCHEDULES.
    warmup
        Fraction of the steps, 0..1, over which the rate rises linearly from 0.
    warmup_steps
        Number of these steps, in place of the fraction; 0 takes the fraction.
    cooldown_steps
        Number of the last steps, in which the rate of "wsd" falls.
    weight_decay
        Weight decay, decoupled but of sgd, whose momentum averages it with the gradient.
    clip
        Largest global norm of a gradient; 0 allows any.
    """
    # At least one step, so that the rate starts from 0 whatever the length.
    warmup_steps = warmup_steps or max(1, round(warmup * train_steps))
    rise = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    remaining = max(1, train_steps - warmup_steps)
    # join_schedules counts the steps of each part from the part's own beginning.
    fall = SCHEDULES[schedule](learning_rate, remaining, cooldown_steps)
    rate = optax.join_schedules([rise, fall], [warmup_steps])
    optimizer = OPTIMIZERS[name](rate, weight_decay=weight_decay)
    # Gradients are clipped before the optimizer's moments see them.
    return optax.chain(optax.clip_by_global_norm(clip or math.inf), optimizer)
