"""How many training images a denoising step attends to.

It is read from the soft k-NN denoiser that a trained model is most like.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Array, Float

from jaxdiff.datasets.images import to_float
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts, Images, require
from jaxdiff.measures.fixed_noise import FIXED_NOISE_SEED, noise_images
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.registry import measure
from jaxdiff.measures.soft_knn import (
    GaussianDenoiser,
    Memory,
    NoiseLevel,
    Queries,
    SoftKnn,
    Vectors,
    baseline_r2,
)
from jaxdiff.measures.soft_knn_fit import (
    MemoryComparison,
    SoftKnnFit,
    compare_memories,
    fit_soft_knn,
)

MIN_R2 = 0.5  # below it k_eff is undefined
NOISE_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # of all timesteps, at which rho is fitted
MAX_CONTROL_IMAGES = 1024  # of either kind, which are fitted 21 times each
CONTROL_SEED = 0  # of the choice of its images


@dataclasses.dataclass(frozen=True)
class Memories:
    """The images that a model's predictions are explained by, float in [-1, 1].

    Parameters
    ----------
    train
        All training images.
    matched_train, unseen
        The control: equally many training images and images that the model never saw.
    """

    train: Float[np.ndarray, "n h w c"]
    matched_train: Float[np.ndarray, "m h w c"]
    unseen: Float[np.ndarray, "m h w c"]

    @classmethod
    def build(
        cls, train: Images, matched: MatchedSplits, queries: Images | None = None
    ) -> "Memories":
        """The memories of a model.

        Parameters
        ----------
        train
            All training images.
        matched
            Training and unseen images in equal numbers.
        queries
            Images that are noised to be queries. They are taken out of the unseen images, which
            would otherwise hold the answer, and as many random ones out of the training images.
        """
        rng = np.random.default_rng(CONTROL_SEED)
        excluded = set() if queries is None else {image.tobytes() for image in queries}
        is_candidate = [image.tobytes() not in excluded for image in matched.unseen]
        candidates = np.flatnonzero(is_candidate)
        count = min(len(candidates), len(matched.train), MAX_CONTROL_IMAGES)
        unseen = matched.unseen[np.sort(rng.permutation(candidates)[:count])]
        matched_train = matched.train[np.sort(rng.permutation(len(matched.train))[:count])]
        return cls(_scale(train), _scale(matched_train), _scale(unseen))

    @functools.cached_property
    def gaussian(self) -> GaussianDenoiser:
        """The linear denoiser of the training images, the same at every noise level."""
        return GaussianDenoiser.fit(self.train)


def compute_effective_k(
    xt: Queries, x0_hat: Queries, memories: Memories, noise: NoiseLevel
) -> list[Estimate]:
    """rho and k_eff of the training images at one noise level, and R^2 of other denoisers.

    Parameters
    ----------
    xt
        Noised images of one noise level.
    x0_hat
        What the model predicts of them.
    memories
        The training images and the control.
    noise
        The noise level.

    Returns
    -------
    estimates
        ``rho``, and ``k_eff``: exp(entropy of the weights), geometric mean over queries, 1 to the
        number of training images; larger is smoother. Both are undefined where
        `explain_undefined` says so (label ``why``). ``r2`` of the soft k-NN denoiser, of the
        baselines and of the control's two memories. ``r2_difference``: that of as many training
        images minus that of unseen ones; where the lower end of its interval is not above 0, the
        training images do not explain the model better than unseen ones.
    """
    target = x0_hat.reshape(len(x0_hat), -1)
    fit = fit_soft_knn(SoftKnn.at(xt, memories.train, noise), target)
    baselines = baseline_r2(xt, x0_hat, memories.train, memories.gaussian, noise)
    control = _compare_control(xt, target, memories, noise)
    difference = None if control is None else control.difference
    why = explain_undefined(fit, baselines["gaussian"].r2, difference)
    n = len(xt)
    labels = {"memory": "train", "images": len(memories.train)}
    estimates = [
        (_without_value(estimate) if why else estimate).labeled(why=why, **labels)
        for estimate in (fit.rho, fit.k_eff)
    ]
    r2 = Estimate(fit.r2, n=n, name="r2")
    estimates.append(r2.labeled(denoiser="soft_knn", **labels))
    for name, baseline in baselines.items():
        r2 = Estimate(baseline.r2, n=n, name="r2")
        estimates.append(r2.labeled(denoiser=name, side=baseline.side, **labels))
    if control is not None:
        estimates += _control_estimates(control, len(memories.unseen))
    return estimates


def _compare_control(
    xt: Queries, target: Vectors, memories: Memories, noise: NoiseLevel
) -> MemoryComparison | None:
    """Training against unseen images; None where there are too few of them to be halved."""
    if len(memories.unseen) < 2:
        return None
    train = SoftKnn.at(xt, memories.matched_train, noise)
    unseen = SoftKnn.at(xt, memories.unseen, noise)
    return compare_memories(train, unseen, target)


def _control_estimates(control: MemoryComparison, num_images: int) -> list[Estimate]:
    labels = {"denoiser": "soft_knn", "images": num_images}
    return [
        control.train.labeled(memory="matched train", halves=control.train_halves, **labels),
        control.unseen.labeled(memory="unseen", halves=control.unseen_halves, **labels),
        control.difference.labeled(memory="matched train - unseen", **labels),
    ]


def _without_value(estimate: Estimate) -> Estimate:
    return dataclasses.replace(estimate, value=None, low=None, high=None)


def explain_undefined(fit: SoftKnnFit, gaussian_r2: float, difference: Estimate | None) -> str:
    """Why k_eff is undefined; empty where it is defined.

    The Gaussian holds no image: where it explains the model as well, nothing is recalled. (A
    Gaussian denoiser itself has a soft k-NN R^2 of .65 and a rho inside the grid.) Nor is anything
    recalled where images that the model never saw explain it as well as training images do.
    """
    if fit.r2 < MIN_R2:
        return f"R^2 is {fit.r2:.2f}, below {MIN_R2:g}"
    if fit.at_edge:
        return f"rho is {float(fit.rho):.3g}, at the grid's edge"
    if gaussian_r2 >= fit.r2:
        return f"the Gaussian explains more (R^2 {gaussian_r2:.2f} against {fit.r2:.2f})"
    if difference is None:
        return "there are too few unseen images to compare with"
    if difference.low is None or difference.low <= 0:
        return f"unseen images may explain it as well (R^2 differs by {difference})"
    return ""


@measure(
    "effective_k",
    title="Effective k",
    caption=(
        "k_eff is the number of training images that the soft k-NN denoiser most similar to the "
        "model attends to. Its interval and that of rho include the uncertainty of the fit. Both "
        "are defined only if this denoiser has R^2 >= 0.5 and a rho inside the grid, explains the "
        "model better than a Gaussian does, and explains it better with training images than with "
        "as many unseen ones: the interval of r2_difference, the difference of these two R^2, must "
        "be above 0. Otherwise the label why gives the reason; if the Gaussian or unseen images do "
        "as well, the model recalls nothing. The interval of r2_difference uses the SD over 20 "
        "random halves of both sets (delete-half jackknife); halves is the mean R^2 of these "
        "halves."
    ),
    needs=("sampler", "train", "matched", "unseen"),
    settings=("queries",),
    topic="mechanism",
    enabled=lambda settings: settings.queries > 0,
)
def effective_k(artifacts: Artifacts) -> list[Estimate]:
    """rho and k_eff at several noise levels, on noised unseen images and on the model's path."""
    sampler = require(artifacts.sampler)
    num_queries = artifacts.settings.queries
    schedule = sampler.model.schedule
    levels = [round(level * schedule.steps) for level in NOISE_LEVELS]
    query_images = artifacts.unseen(num_queries)
    memories = Memories.build(artifacts.train.images, require(artifacts.matched), query_images)
    x0 = to_float(query_images)
    # Noised images have the right distribution; the model's own path is what it samples on.
    states = {
        "unseen": {t: _noise(schedule, x0, t) for t in levels},
        "own path": sampler.trajectory(np.arange(num_queries), artifacts.seed, levels),
    }
    estimates = []
    done = 0
    for name, state in states.items():
        for t, xt in state.items():
            x0_hat = sampler.predict(xt, np.full(len(xt), t))[0]
            noise = NoiseLevel.at(schedule, t)
            results = compute_effective_k(xt, x0_hat, memories, noise)
            estimates += [result.labeled(queries=name, t=int(t)) for result in results]
            done += 1
            artifacts.progress("effective k", done, 2 * len(levels), f"{name}, t = {t}")
    return estimates


def _scale(images: Images) -> Memory:
    return 2.0 * images.astype(np.float32) / 255.0 - 1.0


def _noise(schedule: Schedule, x0: Float[Array, "n h w c"], t: int) -> Queries:
    return np.asarray(noise_images(schedule, x0, t, FIXED_NOISE_SEED)[0])
