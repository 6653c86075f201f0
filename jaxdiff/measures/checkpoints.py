"""Memorization along training: losses at the same noise, and a few samples of early checkpoints."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from jaxdiff.measures.amplification import amplification_scales
from jaxdiff.measures.artifacts import Artifacts, Images, require
from jaxdiff.measures.fixed_noise import FIXED_NOISE_SEED, PredictEps, noise_images
from jaxdiff.measures.memorization import flatten, memorization_metrics
from jaxdiff.measures.quality import quality_gate
from jaxdiff.measures.registry import measure
from jaxdiff.measures.shares import select_share, share_forms
from jaxdiff.sampling import COMMON_SEED

NUM_NOISE_LEVELS = 8  # at which losses are compared


def eps_losses(
    predict_eps: PredictEps, schedule: Schedule, x0: Float[Array, "n h w c"], seed: int
) -> Float[np.ndarray, " n"]:
    """Each image's mean squared error of the predicted eps over 8 noise levels.

    The noise is the same at every call. What a model loses less on its training images than on
    others, it has memorized of them (Carlini et al. 2023; along training, Bonnaire et al. 2025).

    Parameters
    ----------
    predict_eps
        From x_t [n, h, w, c] and t [n] to eps [n, h, w, c].
    schedule
        Noise levels of the model.
    x0
        Clean images in [-1, 1].
    seed
        Names the noise.
    """
    losses = []
    # The last steps of eight equal parts of the schedule, T - 1 among them.
    for last in np.linspace(0, schedule.steps, NUM_NOISE_LEVELS + 1)[1:].astype(int):
        t = int(last) - 1
        xt, eps = noise_images(schedule, x0, t, seed)
        error = predict_eps(xt, jnp.full(len(x0), t)) - eps
        losses.append(np.asarray(jnp.square(error).mean(axis=(1, 2, 3))))
    return np.mean(losses, axis=0)


def loss_gap(train: Float[np.ndarray, " n"], held_out: Float[np.ndarray, " m"]) -> list[Estimate]:
    """The mean eps loss of training and of held-out images, and their difference.

    Returns
    -------
    estimates
        ``eps_loss`` of either set with t intervals; ``eps_gap``, held-out less train, with
        Welch's: above 0 is memorization, larger is more.
    """
    # Unpaired: the two sets are different images.
    gap = stats.ttest_ind(held_out, train, equal_var=False).confidence_interval()
    return [
        Estimate.mean(train.tolist(), "images", "eps_loss", images="train"),
        Estimate.mean(held_out.tolist(), "images", "eps_loss", images="held_out"),
        Estimate(
            float(held_out.mean() - train.mean()),
            float(gap.low),
            float(gap.high),
            len(train) + len(held_out),
            "Welch 95 %",
            name="eps_gap",
        ),
    ]


@measure(
    "checkpoints",
    title="Along training",
    caption=(
        "Look for the checkpoint at which eps_gap, the loss of held-out images less that of "
        "training images at the same noise, rises above 0: that is memorization. Memorized, gate "
        "and shares of early checkpoints are of a few samples each."
    ),
    needs=("checkpoints", "sampler", "matched", "train", "roles", "predict"),
    settings=("checkpoints", "share"),
    topic="training",
)
def checkpoints(artifacts: Artifacts) -> list[Estimate]:
    """Losses at every kept checkpoint; before the last one also what a few samples show."""
    steps = require(artifacts.checkpoints)
    estimates = []
    for i, step in enumerate(steps):
        # The samples of the last checkpoint are measured in full elsewhere.
        num_samples = 0 if step == steps[-1] else artifacts.settings.checkpoints
        results = _measure_checkpoint(artifacts, step, num_samples)
        estimates += [result.labeled(step=step) for result in results]
        artifacts.progress("checkpoints", i + 1, len(steps), f"step {step}")
    return estimates


def _measure_checkpoint(artifacts: Artifacts, step: int, num_samples: int) -> list[Estimate]:
    sampler = artifacts.sampler_at(step)
    schedule = sampler.model.schedule

    def predict_eps(xt: Array, t: Array) -> np.ndarray:
        return sampler.predict(xt, t)[1]

    matched = require(artifacts.matched)
    estimates = loss_gap(
        eps_losses(predict_eps, schedule, to_float(matched.train), FIXED_NOISE_SEED),
        eps_losses(predict_eps, schedule, to_float(matched.held_out), FIXED_NOISE_SEED),
    )
    if num_samples:
        # The bank that all seeds share, so that checkpoints and models start from the same noise.
        samples = to_uint8(sampler.sample(np.arange(num_samples), COMMON_SEED))
        estimates += _sample_estimates(samples, artifacts)
    return estimates


def _sample_estimates(samples: Images, artifacts: Artifacts) -> list[Estimate]:
    """The memorized fraction, the gate, and the minority's share with its amplification."""
    roles = require(artifacts.roles)
    predictions = artifacts.predict(samples)
    train = flatten(artifacts.train.images)
    memorized = memorization_metrics({"samples": flatten(samples)}, train)[0]
    gate = quality_gate(predictions, roles.classes)[0]
    shares = share_forms(predictions, roles)
    estimates = [memorized, dataclasses.replace(gate, values=None), *shares]
    # An early checkpoint denoises no held-out images, and has no loss-corrected share.
    named = select_share(shares, artifacts.settings.share)
    if named.value is not None:
        estimates += amplification_scales(named, roles.trained)
    return estimates
