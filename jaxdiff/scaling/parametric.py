"""The law of loss against size and data, fitted to a study's points. No JAX.

The fit is Approach 3 of Hoffmann et al. (2022): the least Huber loss of log residuals. It begins at
the best points of a grid, of which the linear coefficients are found by nonnegative least squares.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import expit

from jaxdiff.estimates import Estimate
from jaxdiff.scaling.loss_law import LossLaw, fit_from_grid
from jaxdiff.scaling.points import (
    MIN_LEVELS,
    Answer,
    Depth,
    LossPoint,
    Refused,
    check_points,
    count_distinct,
    group_nearly_equal,
    order_depths,
)
from jaxdiff.scaling.resampling import Draws, draw_over_points, draw_over_seeds, group_runs

BOOTSTRAPS = 200
EXPONENT_RANGE = (0.01, 2.0)  # of alpha and beta; an interval that reaches an end says nothing
REPEAT_RANGE = (0.1, 1000.0)  # of r
LARGEST_LOG = 700.0


@dataclasses.dataclass(frozen=True)
class ParametricFit:
    """L = E + A_d F^-alpha + B D_eff^-beta, with 95 % intervals.

    Parameters
    ----------
    points
        What the law was fitted to.
    depths
        The depths d, shallowest first.
    irreducible_loss
        E.
    size_coefficients
        A_d by depth, for F in FLOP.
    data_coefficient
        B, for D in images.
    alpha, beta
        The exponents of size and of data.
    repeat_scale
        r: beyond about so many repetitions images teach little more; None where none repeats.
    allocation
        beta / (alpha + beta), the exponent of the best size in compute. At C = 3 F D the loss is
        least where alpha A F^-alpha = beta B D^-beta, hence F^(alpha + beta) ~ C^beta.
    depth_effect
        log A of the deepest depth minus that of the shallowest; None where there is one depth.
    noise
        The standard deviation of log residuals.
    law, theta
        The fitted function and its parameters.
    """

    points: tuple[LossPoint, ...]
    depths: tuple[Depth, ...]
    irreducible_loss: Answer
    size_coefficients: Mapping[Depth, Answer]
    data_coefficient: Answer
    alpha: Answer
    beta: Answer
    repeat_scale: Answer | None
    allocation: Answer
    depth_effect: Answer | None
    noise: float
    law: LossLaw = dataclasses.field(repr=False)
    theta: np.ndarray = dataclasses.field(repr=False)

    def predict(
        self, flops: float, images: float, unique_images: float | None = None, depth: Depth = 0
    ) -> float:
        """The loss of a model that was not trained.

        Parameters
        ----------
        flops, images, unique_images, depth
            As a `LossPoint` has them; without `unique_images` no image repeats.

        Raises
        ------
        ValueError
            Where a number is not above 0, or the fit has no such depth.
        """
        unique_images = images if unique_images is None else unique_images
        point = LossPoint(1.0, flops, images, unique_images, depth)
        check_points([point])
        return float(_predict(self, [point])[0])

    @property
    def residuals(self) -> np.ndarray:
        """log of each point's loss minus log of the fitted one."""
        return _log_losses(self.points) - self.law.evaluate(self.theta)[0]


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """How well the law, fitted to the other points, predicts those that were left out.

    Parameters
    ----------
    what
        "largest size" or "longest run".
    points
        What was left out.
    predicted
        Their losses by the law.
    relative_error
        Mean over the points of the predicted over the observed loss, less 1.
    """

    what: str
    points: tuple[LossPoint, ...]
    predicted: tuple[float, ...]
    relative_error: Estimate


def fit_parametric(
    points: Sequence[LossPoint], bootstraps: int = BOOTSTRAPS, seed: int = 0
) -> ParametricFit | Refused:
    """Fit the law of loss against size and data.

    Parameters
    ----------
    points
        Held-out losses over sizes and lengths. Points along one run are not independent: give at
        least three seeds of every size, or one point a run.
    bootstraps
        Refits that the intervals are made of, at least 2.
    seed
        Seed of the bootstrap.

    Returns
    -------
    fit
        Or why there is none: fewer than three sizes or lengths, or no degrees of freedom. An
        exponent whose interval reaches an end of `EXPONENT_RANGE` is refused alone, with the
        numbers that depend on it.

    Raises
    ------
    ValueError
        Without points, or where a number is not finite and above 0.
    """
    check_points(points)
    if bootstraps < 2:
        raise ValueError(f"an interval needs at least 2 bootstraps, got {bootstraps}: give more")
    depths = order_depths([point.depth for point in points])
    law = LossLaw.of(points, depths)
    reason = _why_not(points, law)
    if reason:
        return Refused(reason)
    log_loss = _log_losses(points)
    theta = fit_from_grid(law, log_loss)
    residuals = log_loss - law.evaluate(theta)[0]
    noise = math.sqrt(float(residuals @ residuals) / (len(points) - law.parameters))
    rng = np.random.default_rng(seed)
    runs = group_runs(points)
    if runs is None:
        draws = draw_over_points(law, theta, noise, bootstraps, rng)
    else:
        draws = draw_over_seeds(law, theta, log_loss, runs, bootstraps, rng)
    return _build_fit(tuple(points), depths, law, theta, noise, draws)


def predict_left_out(points: Sequence[LossPoint]) -> list[LeftOut | Refused]:
    """Leave out the largest size, then the longest runs, and predict them from the rest.

    Raises
    ------
    ValueError
        Without points, or where a number is not finite and above 0.
    """
    check_points(points)
    results: list[LeftOut | Refused] = []
    for what, values in (
        ("largest size", [point.flops for point in points]),
        ("longest run", [point.images for point in points]),
    ):
        groups = group_nearly_equal(np.array(values, float))
        is_last = groups == groups.max()
        rest = [point for point, last in zip(points, is_last, strict=True) if not last]
        left_out = [point for point, last in zip(points, is_last, strict=True) if last]
        results.append(_predict_from_rest(what, left_out, rest))
    return results


def _predict_from_rest(
    what: str, left_out: Sequence[LossPoint], rest: Sequence[LossPoint]
) -> LeftOut | Refused:
    depths = order_depths([point.depth for point in rest])
    missing = {point.depth for point in left_out} - set(depths)
    if missing:
        return Refused(f"without the {what} no point of depth {min(missing, key=str)} is left")
    law = LossLaw.of(rest, depths)
    reason = _why_not(rest, law)
    if reason:
        return Refused(f"without the {what} {reason}")
    if not law.repeats and any(point.images > point.unique_images for point in left_out):
        return Refused(f"without the {what} no image repeats, and r is not known")
    theta = fit_from_grid(law, _log_losses(rest))
    predicted = np.exp(law.at(left_out, depths).evaluate(theta)[0])
    errors = predicted / np.array([point.loss for point in left_out]) - 1
    return LeftOut(
        what,
        tuple(left_out),
        tuple(predicted.tolist()),
        Estimate.mean(errors.tolist(), "points", "relative_error"),
    )


def _why_not(points: Sequence[LossPoint], law: LossLaw) -> str:
    """Why these points have no fit, in words; empty where they have one."""
    sizes = max(
        count_distinct([point.flops for point in points if point.depth == depth])
        for depth in {point.depth for point in points}
    )
    lengths = count_distinct([point.images for point in points])
    if min(sizes, lengths) < MIN_LEVELS:
        return (
            f"there are {sizes} sizes of one depth and {lengths} lengths of training, and the law "
            f"needs {MIN_LEVELS} of each"
        )
    if len(points) <= law.parameters:
        return f"there are {len(points)} points, and {law.parameters} parameters need more"
    return ""


def _build_fit(
    points: tuple[LossPoint, ...],
    depths: tuple[Depth, ...],
    law: LossLaw,
    theta: np.ndarray,
    noise: float,
    draws: Draws,
) -> ParametricFit:
    quantities = law.to_quantities(theta)

    def estimate(
        name: str, column: int, function: Callable[[float], float] = _exp, **labels: Depth
    ) -> Estimate:
        center = float(quantities[column])
        low, high = draws.interval(center, column)
        linear = Estimate(center, low, high, draws.n, draws.method, name=name, labels=labels)
        return linear.map(function)

    # The columns of `LossLaw.to_quantities`: log A_d of each depth, log r where images repeat, and
    # at the end log(beta / alpha).
    log_e, *log_a, log_b, log_alpha, log_beta, log_r = range(len(depths) + 5)
    log_ratio = -1
    alpha = _refuse_outside(estimate("alpha", log_alpha), EXPONENT_RANGE)
    beta = _refuse_outside(estimate("beta", log_beta), EXPONENT_RANGE)
    effect = None
    if len(depths) > 1:
        # The part of log A that comes with alpha is the same at all depths and cancels, so that the
        # effect stands where alpha is refused.
        deepest, shallowest = log_a[-1], log_a[0]
        differences = draws.quantities[:, [deepest]] - draws.quantities[:, [shallowest]]
        center = float(quantities[deepest] - quantities[shallowest])
        low, high = dataclasses.replace(draws, quantities=differences).interval(center, 0)
        effect = Estimate(center, low, high, draws.n, draws.method, name="depth_effect")
    repeat_scale = None
    if law.repeats:
        repeat_scale = _refuse_outside(estimate("repeat_scale", log_r), REPEAT_RANGE)
        repeat_scale = _unless_refused(repeat_scale, beta)
    coefficients = {
        depth: _unless_refused(estimate("size_coefficient", column, depth=depth), alpha)
        for depth, column in zip(depths, log_a, strict=True)
    }
    return ParametricFit(
        points=points,
        depths=depths,
        irreducible_loss=_unless_refused(estimate("irreducible_loss", log_e), alpha, beta),
        size_coefficients=coefficients,
        data_coefficient=_unless_refused(estimate("data_coefficient", log_b), beta),
        alpha=alpha,
        beta=beta,
        repeat_scale=repeat_scale,
        allocation=_unless_refused(estimate("allocation", log_ratio, expit), alpha, beta),
        depth_effect=effect,
        noise=noise,
        law=law,
        theta=theta,
    )


def _exp(log: float) -> float:
    """exp, of a number that is refused later if it is huge."""
    return math.exp(min(log, LARGEST_LOG))


def _refuse_outside(estimate: Estimate, limits: tuple[float, float]) -> Answer:
    """The estimate, or why it is none: its interval reaches an end of what is plausible."""
    assert estimate.low is not None
    assert estimate.high is not None
    if limits[0] < estimate.low and estimate.high < limits[1]:
        return estimate
    return Refused(
        f"the interval of {estimate.name}, {estimate.low:.3g} to {estimate.high:.3g}, is not "
        f"within {limits[0]:g} to {limits[1]:g}: the points do not determine it"
    )


def _unless_refused(answer: Answer, *needed: Answer) -> Answer:
    """The answer, or the refusal of what it depends on."""
    refusals = [other for other in needed if isinstance(other, Refused)]
    return refusals[0] if refusals else answer


def _predict(fit: ParametricFit, points: Sequence[LossPoint]) -> np.ndarray:
    for point in points:
        if point.depth not in fit.depths:
            names = ", ".join(map(str, fit.depths))
            raise ValueError(f"the fit must have the depth, got {point.depth}: give one of {names}")
        if point.images > point.unique_images and not fit.law.repeats:
            raise ValueError(
                "repeated images need a fit in which some repeat, and none did: give unique_images "
                "of at least images, or points with repetition"
            )
    return np.exp(fit.law.at(points, fit.depths).evaluate(fit.theta)[0])


def _log_losses(points: Sequence[LossPoint]) -> np.ndarray:
    return np.log([point.loss for point in points])
