"""Whether samples can be read: the quality gate, and the slope of the mean of eps."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from jaxdiff import diffusion, samplers
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.datasets.mixtures import draw_images
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts, require
from jaxdiff.measures.fixed_noise import PredictEps
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.registry import measure
from jaxdiff.measures.soft_knn import MAX_GAUSSIAN_IMAGES, GaussianDenoiser, NoiseLevel
from jaxdiff.noise_bank import noise_bank

SLOPE_LEVELS = (0.1, 0.3)  # of all timesteps, at which the slope of the mean of eps is taken
MIN_SLOPE_PAIRS = 3  # of true and predicted means, one for each image and channel
NUM_RANDOM_SAMPLES = 64  # of the network with random weights


def quality_gate(predictions: Predictions, classes: Sequence[int]) -> list[Estimate]:
    """What the classifier says of samples, the gate first.

    Parameters
    ----------
    predictions
        Labels of n samples by two classifiers.
    classes
        Classes of the training data.

    Returns
    -------
    estimates
        ``gate``: the fraction of samples with one of the classes as label, 0..1, larger is better.
        It can fail, since the classifier also knows the other classes and a reject class.
        ``other_class`` and ``no_class``: the two ways to fail it.
        ``disagreement``: samples that the second classifier labels differently.
    """
    labels = predictions.labels
    second_labels = predictions.second_labels
    in_classes = np.isin(labels, classes)
    rejected = labels == predictions.reject_label
    # All other labels count as one: classifiers that say 3 and 4 agree that it is neither class.
    first_role = np.where(in_classes, labels, -1)
    second_role = np.where(np.isin(second_labels, classes), second_labels, -1)
    masks = {
        "gate": in_classes,
        "other_class": ~in_classes & ~rejected,
        "no_class": rejected,
        "disagreement": first_role != second_role,
    }
    estimates = [
        Estimate.proportion(int(mask.sum()), len(mask), name) for name, mask in masks.items()
    ]
    gate = dataclasses.replace(estimates[0], values=in_classes.astype(float).tolist())
    return [gate, *estimates[1:]]


def mean_eps_slope(
    predict_eps: PredictEps,
    schedule: Schedule,
    x0: Float[Array, "n h w c"],
    eps: Float[Array, "n h w c"],
    t: int,
) -> Estimate:
    """Slope of the predicted on the true image mean of eps at one timestep.

    An instance norm before the last convolution hides the image mean from a network. If that
    predicts eps, its samples are then well formed on a background of arbitrary brightness. What
    slope can be had depends on t and the data: compare it with that of a linear denoiser. A network
    whose output has no mean has slope 0 if it predicts eps, sigma^2 if v and 1 if x0.

    Parameters
    ----------
    predict_eps
        From x_t [n, h, w, c] and t [n] to eps [n, h, w, c].
    schedule
        Noise levels of the model.
    x0
        Clean images in [-1, 1]; n times the channels is at least 3.
    eps
        The noise to add.
    t
        Timestep.

    Returns
    -------
    estimate
        The slope by least squares over images and channels, with its 95 % t interval.
    """
    n = len(x0)
    steps = jnp.full(n, t)
    eps_hat = predict_eps(diffusion.add_noise(schedule, x0, eps, steps), steps)
    true_means = np.asarray(eps.mean(axis=(1, 2))).ravel()
    predicted_means = np.asarray(eps_hat.mean(axis=(1, 2))).ravel()
    fit = scipy.stats.linregress(true_means, predicted_means)
    quantile = float(scipy.stats.t.ppf(0.975, true_means.size - 2))
    half = quantile * float(fit.stderr)
    slope = float(fit.slope)
    return Estimate(
        slope, slope - half, slope + half, n, "least squares 95 %", name="mean_eps_slope"
    )


def linear_eps(gaussian: GaussianDenoiser, schedule: Schedule) -> PredictEps:
    """The eps that a linear denoiser predicts, as a function of x_t and t."""

    def predict_eps(xt: Array, t: Array) -> np.ndarray:
        noise = NoiseLevel.at(schedule, int(t[0]))  # all t are the same
        images = np.asarray(xt)
        x0_hat = gaussian.predict(images, noise).reshape(images.shape)
        return (images - noise.s * x0_hat) / noise.sigma

    return predict_eps


def _slopes(artifacts: Artifacts) -> list[Estimate]:
    """The slopes of the network and of a linear denoiser, on the same noised images."""
    sampler = require(artifacts.sampler)

    def predict_eps(xt: Array, t: Array) -> np.ndarray:
        return sampler.predict(xt, t)[1]

    schedule = sampler.model.schedule
    levels = [round(level * schedule.steps) for level in SLOPE_LEVELS]
    # Networks that predict v or x0 have slope 1 at T - 1 by construction.
    if sampler.model.prediction == "eps":
        levels.append(schedule.steps - 1)
    images = require(artifacts.held_out_of_classes)
    if len(images) * images.shape[-1] < MIN_SLOPE_PAIRS:
        return []
    x0 = to_float(images)
    keys = noise_bank(artifacts.seed, np.arange(len(x0)))
    eps = samplers.initial_noise(keys, sampler.image_shape)
    # All training images as floats may be more than the memory holds.
    train = draw_images(artifacts.train.images, MAX_GAUSSIAN_IMAGES)
    gaussian = GaussianDenoiser.fit(np.asarray(to_float(train)))
    denoisers = {"network": predict_eps, "linear": linear_eps(gaussian, schedule)}
    return [
        mean_eps_slope(predict, schedule, x0, eps, t).labeled(t=t, denoiser=name)
        for t in levels
        for name, predict in denoisers.items()
    ]


@measure(
    "quality",
    title="Quality",
    caption=(
        "The quality gate, and the slope of the predicted on the true image mean of eps. The gate "
        "is the fraction of samples that the classifier labels as a class of the training data; no "
        "claim is made about a model whose mean over seeds is below 80 %. For 64 samples of the "
        "same network with random weights, gate_random_weights should be near 0. If a network's "
        "mean_eps_slope is smaller than that of a linear denoiser at the same t, the network uses "
        "this mean less than a linear map does. At the last step the slope is given only for "
        "networks that predict eps, since all others have slope 1 there, whatever they have "
        "learned."
    ),
    needs=("samples", "predictions", "roles", "train"),
    optional=("sampler", "random_sampler", "predict", "held_out_of_classes"),
    topic="quality",
)
def quality(artifacts: Artifacts) -> list[Estimate]:
    """The gate; where there is a model, that of random weights and the slopes of the mean."""
    classes = require(artifacts.roles).trained_classes
    estimates = quality_gate(require(artifacts.predictions), classes)
    random_sampler = artifacts.random_sampler
    if random_sampler is not None:
        samples = to_uint8(random_sampler.sample(np.arange(NUM_RANDOM_SAMPLES), artifacts.seed))
        passes = np.isin(artifacts.predict(samples).labels, classes)
        gate = Estimate.proportion(int(passes.sum()), len(passes), "gate_random_weights")
        estimates.append(gate)
    if artifacts.sampler is not None and artifacts.held_out_of_classes is not None:
        estimates += _slopes(artifacts)
    return estimates
