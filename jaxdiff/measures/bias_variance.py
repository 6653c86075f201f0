"""Bias and variance of diffusion models in the paper's sense (Eqs. 4 and 5), without bias from the number of models.

f^(x0) is the class of the image that a model decodes from the noise x0, 1 for the minority and 0 for the majority, and the
expectation is over models that differ in seed and training split. Decoding what the same model has encoded returns the
image, so the noise comes from one fixed encoder, trained on another split, and the others decode it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

Entry = dict[str, Any]
Classes = Int[np.ndarray, "model n"]
Statistic = Callable[[np.ndarray], np.ndarray]  # classes [model, n] -> one value an image [n]


def decoded(
    noise: Float[np.ndarray, "n ..."], decoders: Sequence[Callable[[np.ndarray], np.ndarray]],
    classify: Callable[[np.ndarray], Int[np.ndarray, " n"]],
) -> Classes:  # fmt: skip
    """The class of every image that each model decodes from each noise, [model, n]; classify says 0, 1, or -1 (neither)."""
    return np.stack([classify(decode(noise)) for decode in decoders])


def by_class(classes: Classes, true: Int[np.ndarray, " n"]) -> list[Entry]:
    """Signed bias and variance averaged over images, for each true class (0, 1), and both over all images.

    bias: E f^ - f, -1..1; of a true minority -1 means that every model makes the majority of it. variance: half the
    disagreement of two models, 0..1/2. bias_squared: the mean of (f^ - f) (f^' - f) over pairs of different models. All
    three are unbiased for any number of models; of 0/1 classes E bias^2 + variance = |bias|, so that signed bias and
    variance say everything. Images that some model decodes to neither class are left out and counted in `neither`.

    Intervals are two-way, over images and models, where there are at least 3 models; else over images, "given these models".
    Raises ValueError for fewer than two models.
    """
    known, rows = (classes >= 0).all(axis=0), []
    y, f = classes[:, known].astype(float), true[known].astype(float)
    for name, chosen in {"majority": f == 0, "minority": f == 1, "all": f >= 0}.items():
        if chosen.sum() < 2:
            continue
        part, of = y[:, chosen], f[chosen]
        statistics: dict[str, Statistic] = {
            "bias": lambda y, of=of: y.mean(axis=0) - of,  # type: ignore[misc]
            "variance": disagreement,
            "bias_squared": lambda y, of=of: off_diagonal(y - of[None]),  # type: ignore[misc]
        }
        rows += [
            two_way(key, statistic, part) | {"true": name} for key, statistic in statistics.items()
        ]
    return [row | {"neither": int((~known).sum())} for row in rows]


def of_noise(classes: Classes, trained: float) -> list[Entry]:
    """The noise-seed form: no image is encoded, all models start from the same noises.

    share_bias: the minority's share among what the models draw, less the trained one. variance: half the disagreement of
    two models on the same noise, 0..1/2: 0 where the noise alone decides the class, share (1 - share) where it says
    nothing of it. Unbiased; intervals as `by_class`.
    """
    known = (classes >= 0).all(axis=0)
    y = classes[:, known].astype(float)
    if y.shape[1] < 2:
        return []
    rows = [
        two_way("share_bias", lambda y: y.mean(axis=0) - trained, y),
        two_way("variance", disagreement, y),
    ]
    return [row | {"neither": int((~known).sum())} for row in rows]


def disagreement(y: Float[np.ndarray, "model n"]) -> Float[np.ndarray, " n"]:
    """Half the mean squared difference of two different models' values: the variance, unbiased."""
    return y.var(axis=0, ddof=1)


def off_diagonal(y: Float[np.ndarray, "model n"]) -> Float[np.ndarray, " n"]:
    """The mean product of two different models' values: the squared mean, unbiased."""
    models = len(y)
    return (np.square(y.sum(axis=0)) - np.square(y).sum(axis=0)) / (models * (models - 1))


def two_way(name: str, statistic: Statistic, y: Float[np.ndarray, "model n"]) -> Entry:
    """The mean over images of a statistic over models, with an interval over both.

    The variance is the sum of that over images and of the jackknife's over models, which counts their interaction twice
    (Owen 2007 shows that crossed data need both); degrees of freedom by Satterthwaite.
    """
    models, n = y.shape
    if models < 2:
        raise ValueError(f"{models} model has no variance over models; at least two are needed")
    values = statistic(y)
    over_images = float(values.var(ddof=1)) / n
    over_models = 0.0
    if models >= 3:
        without = np.array([statistic(np.delete(y, i, axis=0)).mean() for i in range(models)])
        over_models = (models - 1) * float(without.var())
    total = over_images + over_models
    freedom = (
        total**2 / (over_images**2 / (n - 1) + over_models**2 / (models - 1)) if total else n - 1
    )
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)
    value = float(values.mean())
    return {"name": name, "value": value, "low": value - half, "high": value + half, "n": n, "models": models,
            "interval": "two-way t 95 %" if models >= 3 else "t 95 % over images, given these models"}  # fmt: skip
