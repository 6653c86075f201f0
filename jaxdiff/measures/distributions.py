"""How far samples are from real images as distributions in a feature space: PRDC, FID and KID.

Features are float [n, d].
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.estimates import Estimate
from jaxdiff.features.extractors import load_extractor
from jaxdiff.measures.artifacts import Artifacts
from jaxdiff.measures.exact_knn import nearest
from jaxdiff.measures.registry import measure

Real = Float[np.ndarray, "r d"]
Fake = Float[np.ndarray, "f d"]
K = 5  # neighbors inside an image's ball (Naeem et al. 2020)
BLOCK = 2048  # images of either set whose products are computed at once


def prdc(real: Real, fake: Fake, k: int = K) -> list[Estimate]:
    """Precision, recall, density and coverage.

    An image's ball reaches to its k-th nearest neighbor of the same set. Larger is better, but
    for copies of the real images precision, density and coverage are largest.

    Parameters
    ----------
    real, fake
        Features of real images and of samples, more than k each.
    k
        Neighbors inside a ball.

    Returns
    -------
    estimates
        ``precision``: the fraction of samples in some real image's ball, 0..1.
        ``recall``: the fraction of real images in some sample's ball, 0..1.
        ``density``: the number of real balls that a sample is in, over k; 1 where the
        distributions agree, and not bounded.
        ``coverage``: the fraction of real images whose ball holds a sample, 0..1.
        Wilson intervals; density's is normal over samples.

    Raises
    ------
    ValueError
        Where a set has no more than k images.

    References
    ----------
    Kynkäänniemi et al. (2019) for precision and recall; Naeem et al. (2020) for the others.
    """
    for name, rows in (("real images", real), ("samples", fake)):
        if len(rows) <= k:
            raise ValueError(
                f"{len(rows)} {name} have no {k} neighbors each; at least {k + 1} are needed"
            )
    # The nearest neighbor of an image in its own set is the image itself.
    real_radius = nearest(real, real, k + 1).values[:, k]
    fake_radius = nearest(fake, fake, k + 1).values[:, k]
    balls_of_fake, in_fake_ball = _count_in_balls(real, fake, real_radius, fake_radius)
    covered = nearest(real, fake, 1).values[:, 0] < real_radius
    return [
        Estimate.proportion(int((balls_of_fake > 0).sum()), len(fake), "precision"),
        Estimate.proportion(int(in_fake_ball.sum()), len(real), "recall"),
        _density(balls_of_fake / k),
        Estimate.proportion(int(covered.sum()), len(real), "coverage"),
    ]


def _density(values: Float[np.ndarray, " f"]) -> Estimate:
    # It is 0 where no sample is in any ball.
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    value = float(values.mean())
    return Estimate.normal(value, error, len(values), "normal 95 % over samples", "density")


def _count_in_balls(
    real: Real,
    fake: Fake,
    real_radius: Float[np.ndarray, " r"],
    fake_radius: Float[np.ndarray, " f"],
) -> tuple[Int[np.ndarray, " f"], Bool[np.ndarray, " r"]]:
    """The number of real balls that each sample is in; whether any sample's ball has each image."""
    # Products of centered rows lose fewer digits far from the origin.
    center = np.asarray(real.mean(axis=0, dtype=np.float64), np.float32)
    balls_of_fake = np.zeros(len(fake), int)
    in_fake_ball = np.zeros(len(real), bool)
    for i in range(0, len(fake), BLOCK):
        fake_block = slice(i, i + BLOCK)
        for j in range(0, len(real), BLOCK):
            real_block = slice(j, j + BLOCK)
            counts, is_in_any = _compare_block(
                real[real_block] - center,
                fake[fake_block] - center,
                real_radius[real_block],
                fake_radius[fake_block],
            )
            balls_of_fake[fake_block] += np.asarray(counts)
            in_fake_ball[real_block] |= np.asarray(is_in_any)
    return balls_of_fake, in_fake_ball


@jax.jit
def _compare_block(
    real: Array, fake: Array, real_radius: Array, fake_radius: Array
) -> tuple[Array, Array]:
    products = jnp.matmul(fake, real.T, precision=jax.lax.Precision.HIGHEST)
    fake_squares = jnp.sum(fake * fake, axis=1)[:, None]
    real_squares = jnp.sum(real * real, axis=1)[None]
    # Full float32 products: an accelerator's default would round them to bfloat16's 8 bits.
    squares = fake_squares + real_squares - 2.0 * products
    in_real_ball = squares < jnp.square(real_radius)[None]
    in_fake_ball = squares < jnp.square(fake_radius)[:, None]
    return in_real_ball.sum(axis=1), in_fake_ball.any(axis=0)


def fid(real: Real, fake: Fake) -> Estimate:
    """Fréchet distance of the Gaussians with the sets' means and covariances.

    It falls with the number of images (its bias is of order d / n), so that values are comparable
    at equal n alone.

    Parameters
    ----------
    real, fake
        Features of real images and of samples, at least two each.

    Returns
    -------
    estimate
        0 where mean and covariance agree; without an interval.

    References
    ----------
    Heusel et al. (2017).
    """
    real_mean, real_factor = _gaussian(real)
    fake_mean, fake_factor = _gaussian(fake)
    distance = float(np.square(real_mean - fake_mean).sum())
    # tr S = |R|^2 and tr (S1 S2)^(1/2) = the nuclear norm of R1 R2', with S = R' R.
    traces = float(np.square(real_factor).sum()) + float(np.square(fake_factor).sum())
    overlap = float(np.linalg.norm(real_factor @ fake_factor.T, "nuc"))
    # Rounding may leave a little below 0 where the sets agree.
    value = distance + traces - 2.0 * overlap
    return Estimate(max(value, 0.0), n=len(fake), name="fid")


def _gaussian(
    features: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "r d"]]:
    """The mean, and the QR factor R of the centered rows, for which R' R is the covariance."""
    mean = features.mean(axis=0, dtype=np.float64)
    # R has at most n rows, where the covariance has d x d numbers.
    rows = (features - mean) / math.sqrt(len(features) - 1)
    return mean, np.asarray(np.linalg.qr(rows, mode="r"))


def kid(real: Real, fake: Fake) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (x . y / d + 1)^3, unbiased.

    Parameters
    ----------
    real, fake
        Features of real images and of samples, at least three each.

    Returns
    -------
    estimate
        0 on average where the distributions agree, at any number of images; it can be negative.
        The normal interval is the jackknife's, an image at a time, over both sets.

    References
    ----------
    Bińkowski et al. (2018).
    """
    n = len(fake)
    m = len(real)
    fake_own = _own_kernel_sums(fake)
    real_own = _own_kernel_sums(real)
    fake_cross, real_cross = _kernel_sums(fake, real)
    fake_sum = fake_own.sum()
    real_sum = real_own.sum()
    cross_sum = fake_cross.sum()
    value = float(_mmd(fake_sum, real_sum, cross_sum, n, m))
    # Without an image its products are gone from both sums, twice from that of its own set.
    without_fake = _mmd(fake_sum - 2.0 * fake_own, real_sum, cross_sum - fake_cross, n - 1, m)
    without_real = _mmd(fake_sum, real_sum - 2.0 * real_own, cross_sum - real_cross, n, m - 1)
    # np.var divides by n: the jackknife's (n - 1) / n times the sum of squares.
    fake_variance = (n - 1) * float(np.var(without_fake))
    real_variance = (m - 1) * float(np.var(without_real))
    error = math.sqrt(fake_variance + real_variance)
    return Estimate.normal(value, error, n, "jackknife 95 %", "kid")


Sums = Float[np.ndarray, "..."] | np.floating


def _mmd(fake_sum: Sums, real_sum: Sums, cross_sum: Sums, n: int, m: int) -> Sums:
    """The squared discrepancy from sums of the kernel over n samples and m real images."""
    return fake_sum / (n * (n - 1)) + real_sum / (m * (m - 1)) - 2.0 * cross_sum / (n * m)


def _kernel(products: np.ndarray, d: int) -> np.ndarray:
    return (products / d + 1.0) ** 3


def _own_kernel_sums(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """The sum of the kernel over all other images of the set, for each image."""
    squares = np.einsum("nd,nd->n", x, x, dtype=np.float64)
    return _kernel_sums(x, x)[0] - _kernel(squares, x.shape[1])


def _kernel_sums(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Sums of the kernel over all y for each x, and over all x for each y, a block at a time."""
    over_y = np.zeros(len(x))
    over_x = np.zeros(len(y))
    for i in range(0, len(x), BLOCK):
        x_block = slice(i, i + BLOCK)
        for j in range(0, len(y), BLOCK):
            y_block = slice(j, j + BLOCK)
            # float64: the cube makes large sums, of which the estimate is a small difference.
            products = x[x_block].astype(np.float64) @ y[y_block].T.astype(np.float64)
            block = _kernel(products, x.shape[1])
            over_y[x_block] += block.sum(axis=1)
            over_x[y_block] += block.sum(axis=0)
    return over_y, over_x


def feature_spaces(spaces: Sequence[str]) -> list[str]:
    """The spaces in which distributions are compared: pixels where they are the only one."""
    return [space for space in spaces if space != "pixels"] or ["pixels"]


@measure(
    "fidelity",
    title="Samples as a distribution",
    caption=(
        "Precision, recall, density, coverage, FID and KID against training images and as many "
        "unseen images. Smaller is better for FID and KID, larger for the others. Read them beside "
        "memorization, since copies of the training images do best by most of them. FID is "
        "comparable only at equal n; KID is unbiased."
    ),
    needs=("samples", "train"),
    optional=("matched",),
    settings=("spaces", "inception"),
    topic="quality",
)
def fidelity(artifacts: Artifacts) -> list[Estimate]:
    """PRDC, FID and KID in every feature space of the settings; in pixels where it is the only one.

    A set of no more than K images is left out.
    """
    settings = artifacts.settings
    matched = artifacts.matched
    references = {"reference": artifacts.train.images}
    if matched is not None:
        references = {"train": matched.train, "unseen": matched.unseen}
    spaces = feature_spaces(settings.spaces)
    estimates = []
    for i, space in enumerate(spaces):
        extractor = load_extractor(space, settings.inception or None)
        fake = extractor(artifacts.samples)
        # As many of both: FID and PRDC depend on the number of images.
        for against, images in references.items():
            real = extractor(images)
            if min(len(real), len(fake)) > K:
                results = [*prdc(real, fake), fid(real, fake), kid(real, fake)]
                estimates += [result.labeled(space=space, against=against) for result in results]
        artifacts.progress("fidelity", i + 1, len(spaces), space)
    return estimates
