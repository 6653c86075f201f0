"""How many training images a denoising step attends to.

It is read from the soft k-NN denoiser that a trained model is most like.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float

from jaxdiff.datasets.images import to_float
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import NORMAL_QUANTILE, Estimate
from jaxdiff.measures.artifacts import Artifacts, Images, require
from jaxdiff.measures.fixed_noise import FIXED_NOISE_SEED, noise_images
from jaxdiff.measures.registry import measure
from jaxdiff.measures.soft_knn import (
    Memory,
    NoiseLevel,
    Queries,
    SoftKnnFit,
    baseline_r2,
    fit_soft_knn,
)

MIN_R2 = 0.5  # below it k_eff is undefined
NOISE_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # of all noise steps, at which rho is fitted


def compute_effective_k(
    xt: Queries,
    x0_hat: Queries,
    memory: Memory,
    noise: NoiseLevel,
    controls: Mapping[str, Float[np.ndarray, "_m h w c"]],
) -> list[Estimate]:
    """rho and k_eff of the training images at one noise level, and R^2 of other denoisers.

    Parameters
    ----------
    xt
        Noised images of one noise level.
    x0_hat
        What the model predicts of them.
    memory
        The training images.
    noise
        The noise level.
    controls
        Other memories, as held-out images, and as many of the training images. Where a memory that
        the model never saw explains it as well, there is no ground to speak of recall.

    Returns
    -------
    estimates
        ``rho``, and ``k_eff``: exp(entropy of the weights), geometric mean over queries, 1 to the
        memory's size; larger is smoother. Both are undefined where `explain_undefined` says so
        (label ``why``). ``r2`` of the soft k-NN denoiser, of the baselines and of the controls.
    """
    fit = fit_soft_knn(xt, x0_hat, memory, noise)
    baselines = baseline_r2(xt, x0_hat, memory, noise)
    why = explain_undefined(fit, baselines["gaussian"].r2)
    n = len(xt)
    labels = {"memory": "train", "images": len(memory)}
    rho = Estimate(None if why else fit.rho, n=n, name="rho")
    estimates = [
        rho.labeled(why=why, **labels),
        _k_eff_estimate(fit.k_eff, bool(why), n).labeled(why=why, **labels),
        Estimate(fit.r2, n=n, name="r2").labeled(denoiser="soft_knn", **labels),
    ]
    for name, baseline in baselines.items():
        r2 = Estimate(baseline.r2, n=n, name="r2")
        estimates.append(r2.labeled(denoiser=name, side=baseline.side, **labels))
    for name, control in controls.items():
        r2 = Estimate(fit_soft_knn(xt, x0_hat, control, noise).r2, n=n, name="r2")
        estimates.append(r2.labeled(denoiser="soft_knn", memory=name, images=len(control)))
    return estimates


def _k_eff_estimate(k_eff: Float[np.ndarray, " q"], is_undefined: bool, n: int) -> Estimate:
    method = "normal 95 % of the log"
    if is_undefined:
        return Estimate(None, n=n, method=method, name="k_eff")
    logs = np.log(k_eff)
    mean = float(logs.mean())
    half = NORMAL_QUANTILE * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    # k_eff spans orders of magnitude: its logarithm is averaged.
    logarithm = Estimate(mean, mean - half, mean + half, n, method, name="k_eff")
    return logarithm.map(math.exp)


def explain_undefined(fit: SoftKnnFit, gaussian_r2: float) -> str:
    """Why k_eff is undefined; empty where it is defined.

    The Gaussian holds no image: where it explains the model as well, nothing is recalled. (A
    Gaussian denoiser itself has a soft k-NN R^2 of .65 and a rho inside the grid.)
    """
    if fit.r2 < MIN_R2:
        return f"R^2 is {fit.r2:.2f}, below {MIN_R2:g}"
    if fit.at_edge:
        return f"rho is {fit.rho:.3g}, at the grid's edge"
    if gaussian_r2 >= fit.r2:
        return f"the Gaussian explains more (R^2 {gaussian_r2:.2f} against {fit.r2:.2f})"
    return ""


@measure(
    "effective_k",
    title="Effective k",
    caption=(
        "k_eff is the number of training images that the soft k-NN denoiser most like the model "
        "attends to. Believe it only where its R^2 is above that of the Gaussian and where as many "
        "training images explain the model better than held-out ones: the label why gives the "
        "reason where it is undefined."
    ),
    needs=("sampler", "train", "matched", "unseen"),
    settings=("queries",),
    topic="mechanism",
    enabled=lambda settings: settings.queries > 0,
)
def effective_k(artifacts: Artifacts) -> list[Estimate]:
    """rho and k_eff at several noise levels, on noised unseen images and on the model's path."""
    sampler = require(artifacts.sampler)
    matched = require(artifacts.matched)
    num_queries = artifacts.settings.queries
    memory = _scale(artifacts.train.images)
    # R^2 grows with the size of the memory: held-out images are compared with as many of train.
    controls = {
        "as many of train": _scale(matched.train),
        "held_out": _scale(matched.unseen),
    }
    schedule = sampler.model.schedule
    levels = [round(level * schedule.steps) for level in NOISE_LEVELS]
    unseen = to_float(artifacts.unseen(num_queries))
    # Noised images have the right distribution; the model's own path is what it samples on.
    states = {
        "unseen": {t: _noise(schedule, unseen, t) for t in levels},
        "own path": sampler.trajectory(np.arange(num_queries), artifacts.seed, levels),
    }
    estimates = []
    done = 0
    for name, state in states.items():
        for t, xt in state.items():
            x0_hat = sampler.predict(xt, np.full(len(xt), t))[0]
            noise = NoiseLevel.at(schedule, t)
            results = compute_effective_k(xt, x0_hat, memory, noise, controls)
            estimates += [result.labeled(queries=name, t=int(t)) for result in results]
            done += 1
            artifacts.progress("effective k", done, 2 * len(levels), f"{name}, t = {t}")
    return estimates


def _scale(images: Images) -> Memory:
    return 2.0 * images.astype(np.float32) / 255.0 - 1.0


def _noise(schedule: Schedule, x0: Float[Array, "n h w c"], t: int) -> Queries:
    return np.asarray(noise_images(schedule, x0, t, FIXED_NOISE_SEED)[0])
