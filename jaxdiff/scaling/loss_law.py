"""The loss of diffusion models against size and data, as a function with its derivatives. No JAX.

L = E + A_d F^-alpha + B D_eff^-beta, where images that are seen again count less:
D_eff = U [1 + r (1 - exp(-(D / U - 1) / r))] for D > U, and D otherwise.

References
----------
Hoffmann et al. (2022), Training compute-optimal large language models, Approach 3.
Muennighoff et al. (2023), Scaling data-constrained language models, Eq. 5.
Besiroglu et al. (2024), Chinchilla scaling: a replication attempt.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Float

from jaxdiff.scaling.points import Depth, LossPoint

HUBER_DELTA = 1e-3  # of log losses, as Hoffmann et al. (2022) have it
STARTS = 5
EXPONENT_GRID = np.geomspace(0.05, 1.5, 8)
REPEAT_GRID = (3.0, 15.0, 75.0)
LOG_EXPONENT_LIMITS = (-10.0, 5.0)
LOG_REPEAT_LIMITS = (-10.0, 15.0)
SMALLEST_COEFFICIENT = 1e-4  # of a start, over the smallest loss: its logarithm must be finite


@dataclasses.dataclass(frozen=True)
class LossLaw:
    """The law at given points: log L and its derivatives as functions of the parameters.

    The parameters are one array: log E, log A_d of each depth, log B, log alpha, log beta and,
    where images repeat, log r. F and D are relative to their geometric means over the points that
    the law was built from, so that the parameters are nearly uncorrelated.

    Parameters
    ----------
    log_flops
        log F minus its mean.
    images, unique_images
        D and U.
    is_depth
        1 in the column of the point's depth, 0 elsewhere.
    center
        The means of log F and of log D.
    repeats
        Whether r is a parameter; otherwise D_eff = D.
    """

    log_flops: Float[np.ndarray, " n"]
    images: Float[np.ndarray, " n"]
    unique_images: Float[np.ndarray, " n"]
    is_depth: Float[np.ndarray, "n depths"]
    center: tuple[float, float]
    repeats: bool

    @classmethod
    def of(cls, points: Sequence[LossPoint], depths: Sequence[Depth]) -> "LossLaw":
        """The law at these points, whose depths are among those given."""
        flops = np.array([point.flops for point in points], float)
        images = np.array([point.images for point in points], float)
        unique_images = np.array([point.unique_images for point in points], float)
        is_depth = np.array([[point.depth == depth for depth in depths] for point in points], float)
        center = (float(np.log(flops).mean()), float(np.log(images).mean()))
        repeats = bool((images > unique_images).any())
        return cls(np.log(flops) - center[0], images, unique_images, is_depth, center, repeats)

    def at(self, points: Sequence[LossPoint], depths: Sequence[Depth]) -> "LossLaw":
        """The same parameters' law at other points."""
        return dataclasses.replace(
            LossLaw.of(points, depths),
            log_flops=np.log([point.flops for point in points]) - self.center[0],
            center=self.center,
            repeats=self.repeats,
        )

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return 4 + self.is_depth.shape[1] + self.repeats

    def log_images(self, repeat_scale: float) -> tuple[np.ndarray, np.ndarray]:
        """log D_eff minus the mean of log D, and its derivative by log r."""
        if not self.repeats:
            return np.log(self.images) - self.center[1], np.zeros_like(self.images)
        # D_eff = U (1 + gain) beyond the first epoch; within it gain is 0 and D_eff is D.
        epochs = np.maximum(self.images / self.unique_images - 1, 0) / repeat_scale
        gain = -repeat_scale * np.expm1(-epochs)
        # r d(gain) / dr = gain - (D / U - 1) exp(-epochs), where D / U - 1 = r epochs.
        slope = (gain - repeat_scale * epochs * np.exp(-epochs)) / (1 + gain)
        log_first = np.log(np.minimum(self.images, self.unique_images))
        return log_first + np.log1p(gain) - self.center[1], slope

    def evaluate(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log L at each point, and its derivatives: one row per point, one column per parameter."""
        depths = self.is_depth.shape[1]
        log_b, log_alpha, log_beta = theta[depths + 1 : depths + 4]
        # A search may step far beyond what is plausible, where nothing must overflow.
        alpha, beta = np.exp(np.clip([log_alpha, log_beta], *LOG_EXPONENT_LIMITS))
        repeat_scale = np.exp(np.clip(theta[-1], *LOG_REPEAT_LIMITS)) if self.repeats else np.inf
        log_images, slope = self.log_images(repeat_scale)
        terms = np.empty((3, len(self.images)))
        terms[0] = theta[0]
        terms[1] = self.is_depth @ theta[1 : depths + 1] - alpha * self.log_flops
        terms[2] = log_b - beta * log_images
        # log L is the logarithm of the summed exponentials of the terms; its derivative by a term
        # is that term's share of L.
        largest = terms.max(axis=0)
        shares = np.exp(terms - largest)
        total = shares.sum(axis=0)
        shares /= total
        jacobian = np.empty((len(self.images), self.parameters))
        jacobian[:, 0] = shares[0]
        jacobian[:, 1 : depths + 1] = self.is_depth * shares[1][:, None]
        jacobian[:, depths + 1] = shares[2]
        jacobian[:, depths + 2] = -alpha * shares[1] * self.log_flops
        jacobian[:, depths + 3] = -beta * shares[2] * log_images
        if self.repeats:
            jacobian[:, depths + 4] = -beta * shares[2] * slope
        return largest + np.log(total), jacobian

    def to_quantities(self, theta: np.ndarray) -> np.ndarray:
        """The parameters with F and D in their own units, and last log(beta / alpha)."""
        depths = self.is_depth.shape[1]
        # The expit of the last one is beta / (alpha + beta), the allocation.
        quantities = np.append(theta, theta[depths + 3] - theta[depths + 2])
        alpha, beta = np.exp(np.clip(theta[depths + 2 : depths + 4], *LOG_EXPONENT_LIMITS))
        # A (F / F0)^-alpha = (A F0^alpha) F^-alpha, and the same for B and D.
        quantities[1 : depths + 1] += alpha * self.center[0]
        quantities[depths + 1] += beta * self.center[1]
        return quantities


def find_starts(
    law: LossLaw, log_loss: Float[np.ndarray, " n"], count: int = STARTS
) -> list[np.ndarray]:
    """The best parameters over a grid of exponents, by variable projection.

    For given alpha, beta and r the law is linear in E, A_d and B: a least-squares problem with
    nonnegative coefficients, weighted by 1 / L so that residuals are relative
    (Golub & Pereyra 1973; arXiv 2603.22339).
    """
    loss = np.exp(log_loss)
    candidates = []
    for repeat_scale in REPEAT_GRID if law.repeats else (np.inf,):
        log_images, _ = law.log_images(repeat_scale)
        for alpha, beta in itertools.product(EXPONENT_GRID, EXPONENT_GRID):
            size = law.is_depth * np.exp(-alpha * law.log_flops)[:, None]
            design = np.column_stack([np.ones_like(loss), size, np.exp(-beta * log_images)])
            coefficients, misfit = scipy.optimize.nnls(design / loss[:, None], np.ones_like(loss))
            logs = np.log(np.maximum(coefficients, SMALLEST_COEFFICIENT * loss.min()))
            exponents = np.log([alpha, beta, *([repeat_scale] if law.repeats else [])])
            candidates.append((misfit, np.concatenate([logs, exponents])))
    candidates.sort(key=lambda candidate: candidate[0])
    return [theta for _, theta in candidates[:count]]


def fit_huber(
    law: LossLaw,
    log_loss: Float[np.ndarray, " n"],
    start: np.ndarray,
    weights: np.ndarray | None = None,
    tolerance: float = 1e-8,
) -> tuple[np.ndarray, float]:
    """The parameters of least mean Huber loss of log residuals, by L-BFGS, and that loss.

    Parameters
    ----------
    law
        The law at the points.
    log_loss
        log L at the points.
    start
        Parameters to begin at.
    weights
        How often each point counts; once by default.
    tolerance
        Relative change of the Huber loss at which the search ends.
    """
    if weights is None:
        weights = np.ones_like(log_loss)
    weights = weights / weights.sum()
    _, jacobian = law.evaluate(start)
    # In units of the Gauss-Newton curvature's axes the problem is well conditioned. The floor keeps
    # the units finite along axes that the points do not determine.
    curvature, axes = np.linalg.eigh(jacobian.T @ (weights[:, None] * jacobian))
    axes = axes / np.sqrt(curvature.clip(min=0) + 1e-9 * curvature[-1])

    def objective(position: np.ndarray) -> tuple[float, np.ndarray]:
        prediction, jacobian = law.evaluate(start + axes @ position)
        scaled = (prediction - log_loss) / HUBER_DELTA
        size = np.abs(scaled)
        # In units of delta Huber's loss is s^2 / 2 up to 1, and s - 1 / 2 beyond.
        inner = size.clip(max=1)
        value = weights @ (inner * (size - inner / 2))
        slope = weights * scaled.clip(-1, 1) / HUBER_DELTA
        return float(value), axes.T @ (jacobian.T @ slope)

    options = {"maxiter": 1000, "ftol": tolerance, "gtol": 1e-6}
    result = scipy.optimize.minimize(
        objective, np.zeros_like(start), jac=True, method="L-BFGS-B", options=options
    )
    return start + axes @ result.x, float(result.fun)


def fit_from_grid(law: LossLaw, log_loss: Float[np.ndarray, " n"]) -> np.ndarray:
    """The best Huber fit from the best starts of the grid."""
    fits = [
        fit_huber(law, log_loss, start, tolerance=1e-12) for start in find_starts(law, log_loss)
    ]
    return min(fits, key=lambda fit: fit[1])[0]
