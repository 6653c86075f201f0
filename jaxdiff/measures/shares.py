"""The share of the minority class among samples, estimated with imperfect classifiers.

A share has three forms. ``gated`` leaves out samples that the classifier assigns to neither class.
They are not missing at random, so two forms stand beside it: ``forced_choice`` counts every sample,
and ``loss_corrected`` corrects for the images of each class that are lost. A lost image is one that
is assigned to neither class; it has nothing to do with the training loss.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Float
from scipy.special import expit

from jaxdiff.estimates import NORMAL_QUANTILE, Estimate, Proportion, rogan_gladen, wilson
from jaxdiff.measures.artifacts import Artifacts, require
from jaxdiff.measures.confusion import Confusion, Labels
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.registry import AgainstDepth, measure
from jaxdiff.measures.roles import Roles

# A label with less probability than this is ambiguous in the bounds; the verdicts use the second.
CONFIDENCES = (0.5, 0.75, 0.9)
POSTERIOR_DRAWS = 1000
# Weight of the constraint that shares sum to 1 in the least squares of `true_shares`.
SUM_WEIGHT = 1e4
# Added to counts in the interval of logarithms, so that a count of 0 has a finite one.
CONTINUITY = 0.5


def count_roles(labels: Labels, roles: Roles) -> tuple[int, int]:
    """Numbers of samples with the majority's and with the minority's label."""
    return int((labels == roles.majority).sum()), int((labels == roles.minority).sum())


def share_forms(
    predictions: Predictions, roles: Roles, denoised: Confusion | None = None
) -> list[Estimate]:
    """The three forms of the minority's share, as far as they are defined.

    Parameters
    ----------
    predictions
        Labels and probabilities of n samples.
    roles
        The two classes.
    denoised
        Counts [true, predicted] on held-out images that the model itself has noised and denoised.

    Returns
    -------
    estimates
        ``forced_choice``: of all samples, each counted for the likelier of the two classes; less
        those that are likelier of another class of the training data.
        ``loss_corrected``: see `loss_corrected_share`; left out without `denoised`. ``gated``: of
        the samples that are labeled as one of the two classes. Wilson intervals.
    """
    num_majority, num_minority = count_roles(forced_choice(predictions, roles), roles)
    estimates = []
    if num_majority + num_minority:
        total = num_majority + num_minority
        estimates.append(Estimate.proportion(num_minority, total, "forced_choice"))
    num_majority, num_minority = count_roles(predictions.labels, roles)
    if num_majority + num_minority == 0:
        return estimates
    observed = Proportion(num_minority, num_majority + num_minority)
    corrected = None if denoised is None else loss_corrected_share(observed, denoised, roles)
    if corrected is not None:
        estimates.append(corrected)
    return [*estimates, Estimate.proportion(observed.successes, observed.trials, "gated")]


def forced_choice(predictions: Predictions, roles: Roles) -> Labels:
    """The likeliest class of the training data for every sample, whatever its label is."""
    classes = np.array(roles.trained_classes)
    # Of equal probabilities the first counts, which is the majority's.
    return classes[predictions.probabilities[:, classes].argmax(axis=1)]


def count_lost(denoised: Confusion, roles: Roles) -> list[Proportion]:
    """Images of the majority and of the minority that are labeled as neither, of all of each."""
    lost = []
    for label in roles.classes:
        total = int(denoised[label].sum())
        readable = int(denoised[label, list(roles.classes)].sum())
        lost.append(Proportion(total - readable, total))
    return lost


def loss_corrected_share(
    observed: Proportion, denoised: Confusion, roles: Roles
) -> Estimate | None:
    """The gated share's odds times (1 - l_majority) / (1 - l_minority).

    l is the fraction of a class that is labeled as neither class, among held-out images that the
    model noised and denoised: what it loses there, it is taken to lose among its samples.

    Parameters
    ----------
    observed
        Samples with the minority's label, of those with either label.
    denoised
        Counts [true, predicted] on the denoised images.
    roles
        The two classes.

    Returns
    -------
    estimate
        The interval is the delta method's on the logit: it carries the uncertainty of both l.
        None where no image of a class is readable.
    """
    lost_of_majority, lost_of_minority = count_lost(denoised, roles)
    if min(lost.trials - lost.successes for lost in (lost_of_majority, lost_of_minority)) == 0:
        return None

    def log_odds(add: float) -> float:
        minority = observed.successes + add
        majority = observed.trials - observed.successes + add
        correction = _log_readable(lost_of_majority, add) - _log_readable(lost_of_minority, add)
        return math.log(minority / majority) + correction

    counts = [observed.successes, observed.trials - observed.successes]
    center = log_odds(CONTINUITY)
    # With counts of 0 the odds themselves are 0 or infinite, and the share is 0 or 1.
    value = float(expit(log_odds(0.0))) if min(counts) else float(counts[0] > 0)
    # 1 / a + 1 / b for the log of a / b, 1 / readable - 1 / all for that of a readable fraction.
    variance = sum(1 / (count + CONTINUITY) for count in counts)
    for lost in (lost_of_majority, lost_of_minority):
        readable = lost.trials - lost.successes
        variance += 1 / (readable + CONTINUITY) - 1 / (lost.trials + CONTINUITY)
    half = NORMAL_QUANTILE * math.sqrt(variance)
    # The center is that of counts with CONTINUITY, whose interval may leave out the value.
    low = min(float(expit(center - half)), value)
    high = max(float(expit(center + half)), value)
    method = "delta method 95 % on the logit"
    return Estimate(value, low, high, observed.trials, method, name="loss_corrected")


def _log_readable(loss: Proportion, add: float) -> float:
    return math.log((loss.trials - loss.successes + add) / (loss.trials + add))


def minority_share(
    predictions: Predictions, roles: Roles, confusion: Confusion, denoised: Confusion | None = None
) -> list[Estimate]:
    """The minority's share among samples in its three forms, and further readings of it.

    Parameters
    ----------
    predictions
        Labels of n samples by two classifiers.
    roles
        The two classes.
    confusion
        Counts [true, predicted] of the first classifier on test images.
    denoised
        The same on held-out images that the model itself has noised and denoised.

    Returns
    -------
    estimates
        First those of `share_forms`. Then readings of the gated share: ``corrected``, for errors
        between the two classes on test images; ``corrected_denoised``, for those on denoised
        images; ``corrected_many``, for errors among all classes; ``second``, by the second
        classifier's labels. Last ``bounds``: see `ambiguity_bounds`. What is undefined is left out.
    """
    estimates = share_forms(predictions, roles, denoised)
    num_majority, num_minority = count_roles(predictions.labels, roles)
    if num_majority + num_minority:
        observed = Proportion(num_minority, num_majority + num_minority)
        for name, matrix in (("corrected", confusion), ("corrected_denoised", denoised)):
            corrected = None if matrix is None else two_class_share(observed, matrix, roles)
            if corrected is not None:
                estimates.append(corrected.named(name))
        estimates.append(many_class_share(predictions, confusion, roles))
    # The second classifier may find neither class where the first one does.
    second_majority, second_minority = count_roles(predictions.second_labels, roles)
    if second_majority + second_minority:
        total = second_majority + second_minority
        estimates.append(Estimate.proportion(second_minority, total, "second"))
    for confidence in CONFIDENCES:
        estimates.append(ambiguity_bounds(predictions, roles, confidence))
    return [estimate.labeled(trained=roles.trained) for estimate in estimates]


def ambiguity_bounds(
    predictions: Predictions, roles: Roles, confidence: float = CONFIDENCES[1]
) -> Estimate:
    """The share with every ambiguous sample given to the majority, and to the minority.

    A sample is ambiguous if its label is of no class of the training data or has a probability
    below `confidence`. ``low`` and ``high`` are Wilson's ends at both extremes.
    """
    confident = predictions.probabilities.max(axis=1) >= confidence
    majority = int(((predictions.labels == roles.majority) & confident).sum())
    minority = int(((predictions.labels == roles.minority) & confident).sum())
    other = int((np.isin(predictions.labels, roles.others) & confident).sum())
    n = len(confident) - other
    if n == 0:
        why = "every sample is of another class"
        return Estimate.undefined("bounds", n=0, why=why, ambiguous=0, confidence=confidence)
    ambiguous = n - minority - majority
    return Estimate(
        (minority + ambiguous / 2) / n,
        wilson(minority, n)[0],
        wilson(minority + ambiguous, n)[1],
        n,
        "Wilson 95 % at both extremes",
        name="bounds",
        labels={"ambiguous": ambiguous, "confidence": confidence},
    )


def two_class_share(observed: Proportion, confusion: Confusion, roles: Roles) -> Estimate | None:
    """The share corrected for errors between the two classes; None where they are not known."""
    counts = confusion[np.ix_(roles.classes, roles.classes)]
    num_majority, num_minority = counts.sum(axis=1).tolist()
    if not num_majority or not num_minority:
        return None
    sensitivity = Proportion(int(counts[1, 1]), num_minority)
    specificity = Proportion(int(counts[0, 0]), num_majority)
    return rogan_gladen(observed, sensitivity, specificity)


def true_shares(
    predicted: Float[np.ndarray, " c"], rates: Float[np.ndarray, "t c"]
) -> Float[np.ndarray, " t"]:
    """Shares of the true classes that explain the predicted ones best.

    Parameters
    ----------
    predicted
        Share of each predicted label; they sum to 1.
    rates
        Probability of each predicted label given each true one; rows sum to 1.

    Returns
    -------
    shares
        Least squares on shares >= 0 that sum to 1.
    """
    # nnls keeps the shares from being negative; a heavy last row keeps their sum at 1.
    system = np.vstack([rates.T, np.full(len(rates), SUM_WEIGHT)])
    shares = scipy.optimize.nnls(system, np.append(predicted, SUM_WEIGHT))[0]
    return shares / shares.sum()


def many_class_share(predictions: Predictions, confusion: Confusion, roles: Roles) -> Estimate:
    """The share of both classes corrected for confusion among all classes.

    The interval redraws the samples' counts and every row of the confusion matrix from their
    Dirichlet posteriors (prior: 1 / classes for each class), so that it carries the uncertainty of
    both. The generator's seed is fixed.
    """
    num_classes = predictions.reject_label
    # Rejected images are left out of the samples and of the rates alike.
    classified = predictions.labels[predictions.labels < num_classes]
    counts = np.bincount(classified, minlength=num_classes).astype(float)
    rows = confusion[:num_classes, :num_classes].astype(float)
    # A class without test images is taken to be recognized without errors.
    has_images = rows.sum(axis=1, keepdims=True) > 0
    value = _share_of_counts(counts, np.where(has_images, rows, np.eye(num_classes)), roles)

    rng = np.random.default_rng(0)
    prior = 1.0 / num_classes
    # Gamma variates that are divided by their sum, as below, are Dirichlet's.
    row_draws = rng.gamma(rows + prior, size=(POSTERIOR_DRAWS, *rows.shape))
    count_draws = rng.gamma(counts + prior, size=(POSTERIOR_DRAWS, num_classes))
    draws = [
        _share_of_counts(count_draw, row_draw, roles)
        for count_draw, row_draw in zip(count_draws, row_draws, strict=True)
    ]
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(
        value,
        min(float(low), value),
        max(float(high), value),
        sum(count_roles(predictions.labels, roles)),
        "Dirichlet bootstrap 95 %",
        name="corrected_many",
    )


def _share_of_counts(
    counts: Float[np.ndarray, " c"], rows: Float[np.ndarray, "t c"], roles: Roles
) -> float:
    shares = true_shares(counts / counts.sum(), rows / rows.sum(axis=1, keepdims=True))
    # Least squares may leave nothing for either class: then nothing is known of the share.
    both = shares[roles.minority] + shares[roles.majority]
    return float(shares[roles.minority] / both) if both > 0 else 0.5


@measure(
    "share",
    table="shares",
    title="Minority share",
    caption=(
        "The minority's share of each model's samples; dashed: its share of the training data. "
        "Compare the three forms with each other: forced_choice counts every sample, for the "
        "likelier of the two classes; loss_corrected corrects the readable samples for what the "
        "model loses of each class, measured on held-out images that it denoised; gated counts the "
        "readable samples alone. The row share repeats the form that config.measures.share names, "
        "which the whole report uses. Intervals are of one model and say nothing about another "
        "seed."
    ),
    needs=("predictions", "roles", "confusion"),
    optional=("denoised_confusion",),
    settings=("share",),
    topic="shares",
    figure=AgainstDepth("share", "minority among samples, %", scale=100.0, reference="trained"),
)
def share(artifacts: Artifacts) -> list[Estimate]:
    """The share in the form that the settings name, and every reading of it."""
    roles = require(artifacts.roles)
    readings = minority_share(
        require(artifacts.predictions),
        roles,
        require(artifacts.confusion),
        artifacts.denoised_confusion,
    )
    named = select_share(readings, artifacts.settings.share)
    return [named.labeled(trained=roles.trained), *readings]


def select_share(readings: Sequence[Estimate], form: str) -> Estimate:
    """The reading of this form under the name ``share``; undefined where there is none."""
    for reading in readings:
        if reading.name == form:
            return reading.named("share", share_form=form)
    why = "no sample could be read, or no denoised image of a class"
    return Estimate.undefined("share", share_form=form, why=why)
