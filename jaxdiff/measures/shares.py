"""The share of the minority class among samples, estimated with imperfect classifiers."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls

from jaxdiff.estimates import Estimate, Proportion, rogan_gladen, wilson
from jaxdiff.measures.artifacts import Artifacts, Predictions, Roles, require
from jaxdiff.measures.registry import AgainstDepth, measure

MIN_CONFIDENCE = 0.75  # a label with less probability than this is ambiguous in the bounds
POSTERIOR_DRAWS = 1000
# Weight of the constraint that shares sum to 1 in the least squares of `true_shares`.
SUM_WEIGHT = 1e4

Labels = Int[np.ndarray, " n"]
Confusion = Int[np.ndarray, "t c"]


def confusion_matrix(true: Labels, predicted: Labels, num_labels: int) -> Confusion:
    """Counts [true label, predicted label]."""
    matrix = np.zeros((num_labels, num_labels), int)
    np.add.at(matrix, (true, predicted), 1)
    return matrix


def minority_share(
    predictions: Predictions, roles: Roles, confusion: Confusion, denoised: Confusion | None = None
) -> list[Estimate]:
    """The minority's share among the samples of the two classes, estimated in six ways.

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
        ``classified``: by the first classifier's labels. ``corrected``: for its errors between the
        two classes on test images. ``corrected_denoised``: for those on denoised images.
        ``corrected_many``: for its errors among all classes. ``second``: by the second classifier's
        labels. ``bounds``: see `ambiguity_bounds`. Empty where no sample is of either class; a
        correction that the test images cannot give is left out.
    """
    num_majority, num_minority = count_roles(predictions.labels, roles)
    if num_majority + num_minority == 0:
        return []
    observed = Proportion(num_minority, num_majority + num_minority)
    estimates = [Estimate.proportion(observed.successes, observed.trials, "classified")]
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
    estimates.append(ambiguity_bounds(predictions, roles))
    return [estimate.labeled(trained=roles.trained) for estimate in estimates]


def count_roles(labels: Labels, roles: Roles) -> tuple[int, int]:
    """Numbers of samples with the majority's and with the minority's label."""
    return int((labels == roles.majority).sum()), int((labels == roles.minority).sum())


def ambiguity_bounds(predictions: Predictions, roles: Roles) -> Estimate:
    """The share with every ambiguous sample given to the majority, and to the minority.

    A sample is ambiguous if its label is of neither class or has a probability below
    `MIN_CONFIDENCE`. ``low`` and ``high`` are Wilson's ends at both extremes.
    """
    confident = predictions.probabilities.max(axis=1) >= MIN_CONFIDENCE
    majority = int(((predictions.labels == roles.majority) & confident).sum())
    minority = int(((predictions.labels == roles.minority) & confident).sum())
    n = len(confident)
    ambiguous = n - minority - majority
    return Estimate(
        (minority + ambiguous / 2) / n,
        wilson(minority, n)[0],
        wilson(minority + ambiguous, n)[1],
        n,
        "Wilson 95 % at both extremes",
        name="bounds",
        labels={"ambiguous": ambiguous},
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
    shares = nnls(system, np.append(predicted, SUM_WEIGHT))[0]
    return shares / shares.sum()


def many_class_share(predictions: Predictions, confusion: Confusion, roles: Roles) -> Estimate:
    """The share of both classes corrected for confusion among all classes.

    The interval redraws the samples' counts and every row of the confusion matrix from their
    Dirichlet posteriors (prior: 1 / classes for each class), so that it carries the uncertainty of
    both. The generator's seed is fixed.
    """
    num_classes = predictions.reject_label
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
        "Compare the readings of one model with each other and with the trained share: classified "
        "(the classifier's labels), corrected (for its errors on test images), corrected_denoised "
        "(for those on held-out images that the model denoised), second (another architecture), "
        "and bounds (every ambiguous sample given to either class). Intervals hold for one model "
        "alone and say nothing about another seed."
    ),
    needs=("predictions", "roles", "confusion"),
    optional=("denoised_confusion",),
    topic="shares",
    figure=AgainstDepth(
        "classified", "minority among samples, %", scale=100.0, reference="trained"
    ),
)
def share(artifacts: Artifacts) -> list[Estimate]:
    """Every reading of the minority's share."""
    return minority_share(
        require(artifacts.predictions),
        require(artifacts.roles),
        require(artifacts.confusion),
        artifacts.denoised_confusion,
    )
