"""Optimizers by name, each optax's own, behind a clipped global norm and a learning rate that warms up and falls."""

from collections.abc import Callable

import optax

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": lambda rate, decay: optax.adamw(rate, weight_decay=decay),
    "lion": lambda rate, decay: optax.lion(rate, weight_decay=decay),
    "sgd": lambda rate, decay: optax.chain(
        optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.9)
    ),
}
SCHEDULES: dict[
    str, Callable[[float, int], optax.Schedule]
] = {  # after the warm-up, over the steps that are left
    "cosine": lambda peak, steps: optax.cosine_decay_schedule(peak, steps),
    "linear": lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
    "constant": lambda peak, steps: optax.constant_schedule(peak),
}


def make(
    name: str, steps: int, *, learning_rate: float, schedule: str = "cosine", warmup: float = 0.05,
    weight_decay: float = 0.01, clip: float = 1.0,
) -> optax.GradientTransformation:  # fmt: skip
    """An optimizer of OPTIMIZERS after clipping the gradient's global norm to `clip`.

    The rate rises linearly from 0 over the fraction `warmup` of the steps, then follows the schedule of SCHEDULES.
    """
    rising = max(1, round(warmup * steps))
    falling = SCHEDULES[schedule](learning_rate, max(1, steps - rising))
    rate = optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, rising), falling], [rising]
    )
    return optax.chain(optax.clip_by_global_norm(clip), OPTIMIZERS[name](rate, weight_decay))
