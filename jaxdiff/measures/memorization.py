"""How much samples copy the training images.

Nearness alone is no copying, since held-out images are near to training images too: every measure stands beside the same
measure of held-out images, or against them. Images are rows [n, d] of any number type in one space, in which distances are
Euclidean (uint8 pixels are not copied as floats); every function returns entries as result.json holds them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num
from scipy import stats

from jaxdiff import diffusion
from jaxdiff import rng as random
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import mean_t
from jaxdiff.measures.neighbors import nearest
from jaxdiff.measures.shares import proportion

Train = Num[np.ndarray, "t d"]
Samples = Num[np.ndarray, "s d"]
Entry = dict[str, Any]
RATIO = 1 / 3  # below this d1 / d2 a sample counts as memorized (Yoon et al. 2023)
NEAR = (
    0.01  # of the held-out images that are nearer to the training images than what counts as a copy
)
LEVELS = 8  # noise levels at which losses are compared


def copying(sets: Mapping[str, Num[np.ndarray, "_n d"]], train: Train) -> list[Entry]:
    """How near each set of images is to the training images; one set should be held-out images.

    memorized: the fraction with d1 / d2 < 1/3, the distances to the nearest and second nearest training image (Yoon et
    al. 2023). distance_ratio: the median of d1 / d2, 0..1; smaller is more copying. authenticity: the fraction that is
    farther from its nearest training image than that is from another (Alaa et al. 2022), 0..1; larger is less copying.
    Wilson intervals, the median's by the binomial. Raises ValueError for fewer than three training images.
    """
    if len(train) < 3:
        raise ValueError(
            f"{len(train)} training images have no nearest two each; at least 3 are needed"
        )
    near = {name: nearest(images, train, 2) for name, images in sets.items()}
    met = np.unique(np.concatenate([indices[:, 0] for _, indices in near.values()]))
    apart = nearest(train[met], train, 2)[0][:, 1]
    found = []
    for name, (distances, indices) in near.items():
        ratio = distances[:, 0] / np.maximum(distances[:, 1], 1e-12)
        authentic = distances[:, 0] > apart[np.searchsorted(met, indices[:, 0])]
        rows = [
            proportion("memorized", int((ratio < RATIO).sum()), len(ratio)),
            _median("distance_ratio", ratio),
            proportion("authenticity", int(authentic.sum()), len(ratio)),
        ]
        found += [row | {"images": name} for row in rows]
    return found


def _median(name: str, values: np.ndarray) -> Entry:
    """With the binomial interval of order statistics."""
    low, high = stats.binom.interval(0.95, len(values), 0.5)
    ordered = np.sort(values)
    ends = ordered[[max(int(low) - 1, 0), min(int(high), len(values) - 1)]]
    return {"name": name, "value": float(np.median(values)), "low": float(ends[0]), "high": float(ends[1]),
            "n": len(values), "interval": "binomial 95 %"}  # fmt: skip


def nearer_to_training(samples: Samples, train: Train, held_out: Num[np.ndarray, "t d"]) -> Entry:
    """The fraction of samples whose closest training image is nearer than their closest held-out image.

    The distance to the closest record, with as many held-out images as training images, which the caller draws with the
    same class mix (Meehan et al. 2020 test the same two distances). 0.5: no copying; larger: copying. Samples that are as
    near to both are left out. Wilson interval.
    """
    ours, theirs = (nearest(samples, x, 1)[0][:, 0] for x in (train, held_out))
    untied = ours != theirs
    return proportion("nearer_to_training", int((ours < theirs).sum()), int(untied.sum()))


def kinds(
    samples: Samples,
    others: Num[np.ndarray, "_o d"],
    train: Train,
    held_out: Num[np.ndarray, "_h d"],
) -> list[Entry]:
    """Shares of samples that are copies, spurious, and generalized (Pham et al. 2025); they sum to 1.

    copy: as near to a training image as only 1 % of held-out images are. spurious: no copy, and as near to a sample of
    a second set from the same model (`others`), so that the model draws it again and again. generalized: neither. Pham
    et al. choose their thresholds by eye; that of held-out images is the same for every model of a study. Wilson.
    """
    near = float(np.quantile(nearest(held_out, train, 1)[0][:, 0], NEAR, method="lower"))
    copy = nearest(samples, train, 1)[0][:, 0] <= near
    again = nearest(samples, others, 1)[0][:, 0] <= near
    shares = {"copy": copy, "spurious": again & ~copy, "generalized": ~again & ~copy}
    return [
        proportion(name, int(mine.sum()), len(samples)) | {"threshold": near}
        for name, mine in shares.items()
    ]


def noised(
    schedule: Schedule, x0: Float[Array, "n h w c"], t: int, seed: int
) -> tuple[Array, Array]:
    """x_t of each image and its eps, which depend on seed, t and the image's place alone."""
    at = jax.random.fold_in(jax.random.key(seed), t)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(at, jnp.arange(len(x0)))
    eps = jax.vmap(lambda key: random.normal(key, x0.shape[1:]))(keys)
    return diffusion.add_noise(schedule, x0, eps, jnp.full(len(x0), t)), eps


def eps_losses(
    eps_hat: Callable[[Array, Array], Array | np.ndarray],
    schedule: Schedule,
    x0: Float[Array, "n h w c"],
    seed: int,
) -> Float[np.ndarray, " n"]:
    """Each image's mean squared error of the predicted eps over 8 noise levels, at noise that is the same every time.

    eps_hat: xt [n, h, w, c] and t [n] -> eps. What a model loses less on its training images than on others, it has
    memorized of them (Carlini et al. 2023; along training, Bonnaire et al. 2025).
    """
    found = []
    for t in np.linspace(0, schedule.steps, LEVELS + 1)[1:].astype(int) - 1:
        xt, eps = noised(schedule, x0, int(t), seed)
        error = eps_hat(xt, jnp.full(len(x0), t)) - eps
        found.append(np.asarray(jnp.square(error).mean(axis=(1, 2, 3))))
    return np.mean(found, axis=0)


def loss_gap(train: Float[np.ndarray, " n"], held_out: Float[np.ndarray, " m"]) -> list[Entry]:
    """The mean eps loss of either set of images, t intervals; and their difference, held-out - train, by Welch's.

    A gap above 0 is memorization; larger is more.
    """
    rows = []
    for name, values in (("train", train), ("held_out", held_out)):
        mean, low, high = mean_t(values.tolist()) or (float(values.mean()), None, None)
        rows.append({"name": "eps_loss", "images": name, "value": mean, "low": low, "high": high, "n": len(values),
                     "interval": "t 95 % over images"})  # fmt: skip
    gap = stats.ttest_ind(held_out, train, equal_var=False).confidence_interval()
    rows.append({"name": "eps_gap", "value": float(held_out.mean() - train.mean()), "low": float(gap.low),
                 "high": float(gap.high), "n": len(train) + len(held_out), "interval": "Welch 95 %"})  # fmt: skip
    return rows
