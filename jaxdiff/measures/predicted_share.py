"""The minority's share that the soft k-NN denoiser most like a model predicts, without the model.

It is the sharpest test of the paper's mechanism: where depth amplifies by smoothing the retrieval
of training images, samples of that denoiser have the same share as the model's own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdiff.estimates import Estimate
from jaxdiff.landscape import retrieval
from jaxdiff.measures.artifacts import Artifacts, require
from jaxdiff.measures.flips import ROLES, role_indices
from jaxdiff.measures.registry import measure

MIN_DEFINED = 0.5  # of the noise levels; where rho is defined at fewer, the share is no test


def interpolate_rho(
    rho_at_t: Sequence[tuple[int, float]], num_noise_steps: int
) -> Float[np.ndarray, " T"]:
    """rho at every timestep from pairs (t, rho) in the order of t.

    Its logarithm is interpolated between them, and constant beyond the first and the last.
    """
    times, rhos = np.array(rho_at_t).T
    # rho is a ratio of temperatures, fitted on a logarithmic grid.
    log_rho = np.interp(np.arange(num_noise_steps), times, np.log(rhos))
    return np.exp(log_rho).astype(np.float32)


def _select_rho(estimates: Sequence[Estimate], queries: str) -> list[Estimate]:
    """rho of one kind of queries at every noise level, in the order of t."""
    selected = [e for e in estimates if e.name == "rho" and e.labels["queries"] == queries]
    return sorted(selected, key=lambda estimate: estimate.labels["t"])


def _describe_coverage(defined: Sequence[Estimate], levels: int) -> dict[str, str]:
    """Labels that say at which and how many noise levels rho is defined."""
    is_test = len(defined) >= MIN_DEFINED * levels
    return {
        "defined at t": " ".join(str(estimate.labels["t"]) for estimate in defined),
        "levels": f"{len(defined)} of {levels}",
        "note": "" if is_test else "no test: rho is held constant over most noise levels",
    }


@measure(
    "predicted_share",
    table="predicted",
    title="Share predicted by the fitted rho (no test if few noise levels have one)",
    caption=(
        "The minority's share among samples of the soft k-NN denoiser that is most similar to each "
        "model, over its own training images. If depth amplifies by smoothing the retrieval, it is "
        "near the share of the model's own samples. The table says at how many noise levels rho is "
        "defined; rho is interpolated between them, and held constant before the first and after "
        "the last. If it is defined at only a few, this is no test: the denoiser is then similar "
        "to the model at those levels alone."
    ),
    needs=("effective_k", "samples", "sampler", "train", "roles"),
    topic="mechanism",
    enabled=lambda settings: settings.queries > 0,
)
def predicted_share(artifacts: Artifacts) -> list[Estimate]:
    """The predicted share, from rho as fitted on either kind of queries."""
    fits = artifacts.estimates("effective_k")
    schedule = require(artifacts.sampler).model.schedule
    estimates = []
    for queries in dict.fromkeys(fit.labels["queries"] for fit in fits):
        at_levels = _select_rho(fits, queries)
        defined = [estimate for estimate in at_levels if estimate.value is not None]
        labels = {"queries": queries, **_describe_coverage(defined, len(at_levels))}
        if defined:
            rho_at_t = [(estimate.labels["t"], float(estimate)) for estimate in defined]
            rho = interpolate_rho(rho_at_t, schedule.steps)
            estimate = _sample_share(artifacts, rho)
            estimate = estimate.labeled(why=estimate.labels.get("why", ""), **labels)
        else:
            why = "rho is undefined at every noise level"
            estimate = Estimate.undefined("predicted", n=0, why=why, **labels)
        estimates.append(estimate)
    return estimates


def _sample_share(artifacts: Artifacts, rho: Float[np.ndarray, " T"]) -> Estimate:
    """The minority's share among as many samples of the soft k-NN denoiser as the model has."""
    sampler = require(artifacts.sampler)
    train = artifacts.train
    rows = train.images.reshape(len(train.images), -1)
    points = jnp.asarray(rows.astype(np.float32) / 127.5 - 1.0)
    roles = require(artifacts.roles)
    _, soft = retrieval.sample_smoothed(
        points,
        role_indices(train.labels, roles.majority, roles.minority),
        sampler.model.schedule,
        rho,
        jax.random.key(artifacts.seed),
        classes=len(ROLES),
        count=len(artifacts.samples),
        sampling_steps=sampler.spec.steps,
    )
    # The label of a sample is the class with most of its weight; other classes do not count.
    drawn = soft.argmax(axis=1)
    num_minority = int((drawn == ROLES.index("minority")).sum())
    num_majority = int((drawn == ROLES.index("majority")).sum())
    if num_majority + num_minority == 0:
        return Estimate.undefined("predicted", n=0, why="no sample is of the two classes")
    return Estimate.proportion(num_minority, num_majority + num_minority, "predicted")
