"""Whether samples can be read: the quality gate, and the slope of the mean of eps."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from jaxdiff import diffusion, samplers
from jaxdiff.datasets.images import to_float
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts, Predictions, require
from jaxdiff.measures.fixed_noise import PredictEps
from jaxdiff.measures.registry import measure
from jaxdiff.sampling import noise_bank


def quality_gate(predictions: Predictions, classes: Sequence[int]) -> list[Estimate]:
    """What the classifier says of samples, the gate first.

    Parameters
    ----------
    predictions
        Labels of n samples by two classifiers.
    classes
        The study's classes.

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
) -> Estimate:
    """Slope of the predicted on the true image mean of eps at t = T - 1; 1 is right.

    An instance norm before the last convolution hides the mean of eps from an eps-predicting
    network, whose slope is then near 0: samples are well formed on a background of arbitrary
    brightness. A v-predicting network has slope 1 at this t by construction.

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

    Returns
    -------
    estimate
        The slope by least squares over images and channels, with its 95 % t interval.
    """
    n = len(x0)
    # At the highest noise x_t is almost eps alone.
    t = jnp.full(n, schedule.steps - 1)
    eps_hat = predict_eps(diffusion.add_noise(schedule, x0, eps, t), t)
    true_means = np.asarray(eps.mean(axis=(1, 2))).ravel()
    predicted_means = np.asarray(eps_hat.mean(axis=(1, 2))).ravel()
    fit = stats.linregress(true_means, predicted_means)
    quantile = float(stats.t.ppf(0.975, true_means.size - 2))
    half = quantile * float(fit.stderr)
    slope = float(fit.slope)
    return Estimate(
        slope, slope - half, slope + half, n, "least squares 95 %", name="mean_eps_slope"
    )


@measure(
    "quality",
    title="Quality",
    caption=(
        "gate is the fraction of samples that the classifier labels as one of the two classes; "
        "below 70 % the shares describe only the samples that are left. mean_eps_slope should "
        "be 1: near 0 the network cannot output the mean of eps."
    ),
    needs=("samples", "predictions", "roles"),
    optional=("sampler", "held_out_of_classes"),
    topic="quality",
)
def quality(artifacts: Artifacts) -> list[Estimate]:
    """The gate, and the slope of the mean of eps where there is a sampler."""
    estimates = quality_gate(require(artifacts.predictions), require(artifacts.roles).classes)
    sampler = artifacts.sampler
    if sampler is None or artifacts.held_out_of_classes is None:
        return estimates

    def predict_eps(xt: Array, t: Array) -> np.ndarray:
        return sampler.predict(xt, t)[1]

    x0 = to_float(artifacts.held_out_of_classes)
    keys = noise_bank(artifacts.seed, np.arange(len(x0)))
    eps = samplers.initial_noise(keys, sampler.image_shape)
    estimates.append(mean_eps_slope(predict_eps, sampler.model.schedule, x0, eps))
    return estimates
