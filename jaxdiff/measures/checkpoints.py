"""Memorization along training: losses at the same noise, and a few samples of early checkpoints."""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int

from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from jaxdiff.features.extractors import load_extractor
from jaxdiff.measures.amplification import amplification_scales
from jaxdiff.measures.artifacts import Artifacts, Images, require
from jaxdiff.measures.distributions import feature_spaces, kid
from jaxdiff.measures.fixed_noise import FIXED_NOISE_SEED, PredictEps, noise_images
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.memorization import flatten, memorization_metrics
from jaxdiff.measures.quality import quality_gate
from jaxdiff.measures.registry import measure
from jaxdiff.measures.shares import select_share, share_forms

NUM_NOISE_LEVELS = 8  # at which losses are compared
MAX_IMAGES = 512  # of either set: with more, losses would take longer than training a short run
MIN_KID_IMAGES = 3  # of either set: with two, the jackknife leaves one, which has no pair


class Losses(NamedTuple):
    """Losses of training and of unseen images at one checkpoint."""

    train: Float[np.ndarray, "level n"]
    unseen: Float[np.ndarray, "level n"]


def noise_levels(schedule: Schedule) -> Int[np.ndarray, " level"]:
    """The last steps of eight equal parts of a schedule, T - 1 among them."""
    return np.linspace(0, schedule.steps, NUM_NOISE_LEVELS + 1)[1:].astype(int) - 1


def eps_losses(
    predict_eps: PredictEps, schedule: Schedule, x0: Float[Array, "n h w c"], seed: int
) -> Float[np.ndarray, "level n"]:
    """Mean squared error of the predicted eps, for each noise level and image.

    The noise is the same at every call. A lower loss on training images than on unseen ones
    shows memorization (Carlini et al. 2023; along training, Bonnaire et al. 2025).

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
    for t in noise_levels(schedule):
        xt, eps = noise_images(schedule, x0, int(t), seed)
        error = predict_eps(xt, jnp.full(len(x0), t)) - eps
        losses.append(np.asarray(jnp.square(error).mean(axis=(1, 2, 3)), np.float32))
    return np.stack(losses)


def loss_gap(
    train: Float[np.ndarray, "level n"], unseen: Float[np.ndarray, "level m"]
) -> list[Estimate]:
    """The mean eps loss of training and of unseen images over noise levels, and their difference.

    Parameters
    ----------
    train, unseen
        Losses of `eps_losses`.

    Returns
    -------
    estimates
        ``eps_loss`` of either set with t intervals; ``eps_gap``, unseen minus train, with
        Welch's: above 0 is memorization, larger is more. Too few images leave no interval.
    """
    train_means = train.mean(axis=0)
    unseen_means = unseen.mean(axis=0)
    # Unpaired: the two sets are different images.
    value = float(unseen_means.mean() - train_means.mean())
    gap = Estimate(value, n=len(train_means) + len(unseen_means), name="eps_gap")
    if min(len(train_means), len(unseen_means)) > 1:
        welch = scipy.stats.ttest_ind(
            unseen_means, train_means, equal_var=False
        ).confidence_interval()
        low, high = float(welch.low), float(welch.high)
        if math.isfinite(low) and math.isfinite(high):
            gap = dataclasses.replace(gap, low=low, high=high, method="Welch 95 %")
    return [
        Estimate.mean(train_means.tolist(), "images", "eps_loss", images="train"),
        Estimate.mean(unseen_means.tolist(), "images", "eps_loss", images="unseen"),
        gap,
    ]


@measure(
    "checkpoints",
    title="Along training",
    caption=(
        "Losses and KID at every kept checkpoint; for all but the last also memorized samples, "
        "gate and shares. Look for the checkpoint at which eps_gap, the loss of unseen images "
        "minus that of training images at the same noise levels, rises above 0: that is "
        "memorization. The samples of early checkpoints are few, and kid compares equally few with "
        "the unseen images at every checkpoint."
    ),
    needs=("checkpoints", "sampler", "samples", "matched", "train", "roles", "predict", "seed"),
    settings=("checkpoints", "share", "spaces", "inception"),
    outputs=("losses.npz",),
    topic="training",
)
def checkpoints(artifacts: Artifacts) -> list[Estimate]:
    """Losses and KID at every kept checkpoint; before the last one also what samples show.

    losses.npz: the losses ``train`` and ``unseen`` float32 [checkpoint, noise level, image], the
    optimizer ``steps`` of the checkpoints and the timesteps ``t``. The images and their noise are
    the same for all models of the same training data, which are thus compared in pairs.
    """
    steps = require(artifacts.checkpoints)
    images = require(artifacts.matched).limit(MAX_IMAGES)
    losses = []
    estimates = []
    for i, step in enumerate(steps):
        step_losses, results = _measure_checkpoint(artifacts, step, images)
        losses.append(step_losses)
        estimates += [result.labeled(step=step) for result in results]
        artifacts.progress("checkpoints", i + 1, len(steps), f"step {step}")
    artifacts.write_npz(
        "losses.npz",
        train=np.stack([item.train for item in losses]),
        unseen=np.stack([item.unseen for item in losses]),
        steps=np.array(steps),
        t=noise_levels(require(artifacts.sampler).model.schedule),
    )
    return estimates


def _measure_checkpoint(
    artifacts: Artifacts, step: int, images: MatchedSplits
) -> tuple[Losses, list[Estimate]]:
    sampler = artifacts.sampler_at(step)
    schedule = sampler.model.schedule

    def predict_eps(xt: Array, t: Array) -> np.ndarray:
        return sampler.predict(xt, t)[1]

    losses = Losses(
        eps_losses(predict_eps, schedule, to_float(images.train), FIXED_NOISE_SEED),
        eps_losses(predict_eps, schedule, to_float(images.unseen), FIXED_NOISE_SEED),
    )
    estimates = loss_gap(*losses)
    num_samples = artifacts.settings.checkpoints
    if not num_samples:
        return losses, estimates
    if step == require(artifacts.checkpoints)[-1]:
        # All samples are measured elsewhere; this is the KID of as many as before.
        samples = artifacts.samples[:num_samples]
    else:
        # The seed's own bank: its checkpoints and models start from the same noise, and seeds
        # stay independent of one another.
        samples = to_uint8(sampler.sample(np.arange(num_samples), artifacts.seed))
        estimates += _sample_estimates(samples, artifacts)
    return losses, [*estimates, *_kid_estimates(artifacts, samples, images.unseen)]


def _kid_estimates(artifacts: Artifacts, samples: Images, unseen: Images) -> list[Estimate]:
    """KID against unseen images in the first feature space; none for too few images."""
    if min(len(samples), len(unseen)) < MIN_KID_IMAGES:
        return []
    settings = artifacts.settings
    space = feature_spaces(settings.spaces)[0]
    extractor = load_extractor(space, settings.inception or None)
    estimate = kid(extractor(unseen), extractor(samples))
    return [estimate.labeled(space=space, against="unseen")]


def _sample_estimates(samples: Images, artifacts: Artifacts) -> list[Estimate]:
    """The memorized fraction, the gate, and the minority's share with its amplification."""
    roles = require(artifacts.roles)
    predictions = artifacts.predict(samples)
    train = flatten(artifacts.train.images)
    memorized = memorization_metrics({"samples": flatten(samples)}, train)[0]
    gate = quality_gate(predictions, roles.trained_classes)[0]
    shares = share_forms(predictions, roles)
    estimates = [memorized, gate, *shares]
    # An early checkpoint denoises no held-out images, and has no loss-corrected share.
    named = select_share(shares, artifacts.settings.share)
    if named.value is not None:
        estimates += amplification_scales(named, roles.trained)
    return estimates
