"""Bias and variance of diffusion models in the paper's sense (Eqs. 4 and 5).

f^(x0) is the class of the image that a model decodes from the noise x0, 1 for the minority and 0
for the majority, and the expectation is over models that differ in seed and training split.
Decoding what the same model has encoded returns the image, so the noise comes from one fixed
encoder, trained on another split, and the others decode it. All estimates are unbiased for any
number of models.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from jaxdiff.estimates import Estimate

Classes = Int[np.ndarray, "model n"]  # 1 minority, 0 majority, -1 neither
Values = Float[np.ndarray, "model n"]
Statistic = Callable[[Values], Float[np.ndarray, " n"]]  # one value an image


def bias_variance_by_class(classes: Classes, true: Int[np.ndarray, " n"]) -> list[Estimate]:
    """Signed bias and variance averaged over the images of each true class, and over all.

    Parameters
    ----------
    classes
        Class of the image that each of at least two models decodes: 1, 0, or -1 (neither).
    true
        Class of each encoded image: 1 or 0.

    Returns
    -------
    estimates
        With the label ``true`` of ``majority``, ``minority`` and ``all``:
        ``bias``: E f^ - f, -1..1; of a true minority -1 means that every model makes the majority
        of it. ``variance``: half the disagreement of two models, 0..1/2. ``bias_squared``: the
        mean of (f^ - f) (f^' - f) over pairs of different models. Of 0/1 classes
        E bias^2 + variance = |bias|, so that signed bias and variance say everything. Images that
        some model decodes to neither class are left out and counted in the label ``neither``.
        Intervals as `two_way_mean`.

    Raises
    ------
    ValueError
        For fewer than two models.
    """
    in_classes = _decoded_by_all(classes)
    values = classes[:, in_classes].astype(float)
    target = true[in_classes].astype(float)
    subsets = {"majority": target == 0, "minority": target == 1, "all": target >= 0}
    estimates = []
    for name, mask in subsets.items():
        # One image has no variance over images.
        if mask.sum() >= 2:
            results = _bias_and_variance(values[:, mask], target[mask])
            estimates += [result.labeled(true=name) for result in results]
    neither = int((~in_classes).sum())
    return [estimate.labeled(neither=neither) for estimate in estimates]


def _bias_and_variance(values: Values, target: Float[np.ndarray, " n"]) -> list[Estimate]:
    def bias(y: Values) -> Float[np.ndarray, " n"]:
        return y.mean(axis=0) - target

    def bias_squared(y: Values) -> Float[np.ndarray, " n"]:
        return squared_mean(y - target[None])

    return [
        two_way_mean(bias, values).named("bias"),
        two_way_mean(variance, values).named("variance"),
        two_way_mean(bias_squared, values).named("bias_squared"),
    ]


def bias_variance_from_noise(classes: Classes, trained: float) -> list[Estimate]:
    """The noise-seed form: all models start from the same noises, and no image is encoded.

    Parameters
    ----------
    classes
        Class that each of at least two models draws from each noise: 1, 0, or -1 (neither).
    trained
        The minority's share of the training data.

    Returns
    -------
    estimates
        ``share_bias``: the minority's share among what the models draw, less the trained one.
        ``variance``: half the disagreement of two models on the same noise, 0..1/2: 0 where the
        noise alone decides the class, share (1 - share) where it says nothing of it. Intervals as
        `two_way_mean`; empty for fewer than two noises of which all models draw either class.
    """
    in_classes = _decoded_by_all(classes)
    values = classes[:, in_classes].astype(float)
    if values.shape[1] < 2:
        return []

    def share_bias(y: Values) -> Float[np.ndarray, " n"]:
        return y.mean(axis=0) - trained

    neither = int((~in_classes).sum())
    return [
        two_way_mean(share_bias, values).named("share_bias", neither=neither),
        two_way_mean(variance, values).named("variance", neither=neither),
    ]


def _decoded_by_all(classes: Classes) -> Bool[np.ndarray, " n"]:
    """Images that no model decodes to neither class."""
    return np.asarray((classes >= 0).all(axis=0))


def variance(y: Values) -> Float[np.ndarray, " n"]:
    """The unbiased variance: half the mean squared difference of two different models' values."""
    return y.var(axis=0, ddof=1)


def squared_mean(y: Values) -> Float[np.ndarray, " n"]:
    """The unbiased squared mean: the mean product of two different models' values."""
    models = len(y)
    pairs = models * (models - 1)
    return (np.square(y.sum(axis=0)) - np.square(y).sum(axis=0)) / pairs


def two_way_mean(statistic: Statistic, y: Values) -> Estimate:
    """The mean over images of a statistic over models, with an interval over both.

    The variance is the sum of that over images and of the jackknife's over models, which counts
    their interaction twice (Owen 2007 shows that crossed data need both); degrees of freedom by
    Satterthwaite.

    Parameters
    ----------
    statistic
        From values [model, n] to one value an image.
    y
        Values of at least two models for n images.

    Returns
    -------
    estimate
        With the label ``models``. Fewer than three models give an interval over images alone,
        "given these models".

    Raises
    ------
    ValueError
        For fewer than two models.
    """
    models, n = y.shape
    if models < 2:
        raise ValueError(f"{models} model has no variance over models; at least two are needed")
    values = statistic(y)
    over_images = float(values.var(ddof=1)) / n
    over_models = 0.0
    method = "t 95 % over images, given these models"
    if models >= 3:
        # The jackknife: the statistic may need several models, and has no value for each.
        left_out = [statistic(np.delete(y, i, axis=0)).mean() for i in range(models)]
        over_models = (models - 1) * float(np.array(left_out).var())
        method = "two-way t 95 %"
    # Both variances count the interaction of images and models: the interval errs to the wide side.
    total = over_images + over_models
    # Satterthwaite; a statistic that is the same everywhere has no variance to weigh.
    freedom = n - 1.0
    if total:
        freedom = total**2 / (over_images**2 / (n - 1) + over_models**2 / (models - 1))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)
    value = float(values.mean())
    return Estimate(value, value - half, value + half, n, method, labels={"models": models})
