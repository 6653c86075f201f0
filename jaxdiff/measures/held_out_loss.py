"""The loss of unseen images over the whole schedule: what a scaling study fits."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdiff import diffusion, rng
from jaxdiff.datasets.images import to_float
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts, require
from jaxdiff.measures.fixed_noise import FIXED_NOISE_SEED, PredictEps
from jaxdiff.measures.registry import measure

STRATA = 16  # equal parts of the schedule; each image has a timestep in each
BANDS = 4  # of strata, whose losses are also given apart


def draw_timesteps(
    schedule: Schedule, count: int, seed: int = FIXED_NOISE_SEED
) -> Int[np.ndarray, "stratum n"]:
    """A timestep of every image in each stratum, which depends on the image's index alone."""
    edges = np.linspace(0, schedule.steps, STRATA + 1)
    # One row per image: the first images have the same timesteps, however many there are.
    places = np.random.default_rng(seed).random((count, STRATA))
    return np.floor(edges[:-1] + places * np.diff(edges)).astype(int).T


def stratified_losses(
    predict_eps: PredictEps,
    schedule: Schedule,
    x0: Float[Array, "n h w c"],
    t: Int[np.ndarray, "stratum n"],
    seed: int = FIXED_NOISE_SEED,
) -> Float[np.ndarray, "stratum n"]:
    """Mean squared error of the predicted eps, for each stratum and image.

    The noise depends on the seed, the stratum and the image's index alone.

    Parameters
    ----------
    predict_eps
        From x_t [n, h, w, c] and t [n] to eps [n, h, w, c].
    schedule
        Noise levels of the model.
    x0
        Clean images in [-1, 1].
    t
        Timesteps, as `draw_timesteps` gives them.
    seed
        Names the noise.
    """
    losses = []
    for stratum, steps in enumerate(t):
        key = jax.random.fold_in(jax.random.key(seed), stratum)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(x0)))
        eps = jax.vmap(lambda key: rng.normal(key, x0.shape[1:]))(keys)
        xt = diffusion.add_noise(schedule, x0, eps, jnp.asarray(steps))
        error = predict_eps(xt, jnp.asarray(steps)) - eps
        losses.append(np.asarray(jnp.square(error).mean(axis=(1, 2, 3)), np.float32))
    return np.stack(losses)


def summarize_losses(
    losses: Float[np.ndarray, "stratum n"],
    t: Int[np.ndarray, "stratum n"],
    schedule: Schedule,
) -> list[Estimate]:
    """Means over images, with t intervals.

    Returns
    -------
    estimates
        ``loss`` over the whole schedule and in four bands of it, with the band's middle timestep
        as the label ``t``; ``x0_loss``, the mean squared error of x0. As x_t = s x0 + sigma eps,
        it is the eps loss over the signal-to-noise ratio s^2 / sigma^2.
    """
    losses = losses.astype(np.float64)
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)[t]
    x0_losses = losses * (1 - alpha_bar) / alpha_bar
    bands = [
        Estimate.mean(
            band.mean(axis=0).tolist(), "images", "loss", t=schedule.steps * (i + 0.5) / BANDS
        )
        for i, band in enumerate(np.split(losses, BANDS))
    ]
    return [
        Estimate.mean(losses.mean(axis=0).tolist(), "images", "loss"),
        *bands,
        Estimate.mean(x0_losses.mean(axis=0).tolist(), "images", "x0_loss"),
    ]


@measure(
    "held_out_loss",
    title="Held-out loss over the schedule",
    caption=(
        "The eps loss of unseen images over the whole schedule, and in four bands of it, named by "
        "their middle t. Smaller is better. Images, timesteps and noise are the same for all "
        "models of the same mix. The rows x0_loss give the error of the predicted clean image, "
        "most of it at high noise."
    ),
    needs=("sampler", "unseen"),
    settings=("held_out",),
    outputs=("held_out_loss.npz",),
    topic="training",
    table="loss_over_schedule",
    enabled=lambda settings: settings.held_out > 0,
)
def held_out_loss(artifacts: Artifacts) -> list[Estimate]:
    """The eps loss of unseen images at a step of every stratum.

    held_out_loss.npz: ``losses`` float32 and the timesteps ``t``, [stratum, image].
    """
    sampler = require(artifacts.sampler)
    schedule = sampler.model.schedule

    def predict_eps(xt: Array, t: Array) -> np.ndarray:
        return sampler.predict(xt, t)[1]

    x0 = to_float(artifacts.unseen(artifacts.settings.held_out))
    t = draw_timesteps(schedule, len(x0))
    losses = stratified_losses(predict_eps, schedule, x0, t)
    artifacts.write_npz("held_out_loss.npz", losses=losses, t=t)
    return summarize_losses(losses, t, schedule)
