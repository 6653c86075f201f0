"""How far samples are from real images as distributions, in a feature space: PRDC, FID and KID.

Features are [n, d] float; every function returns entries as result.json holds them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.measures.neighbors import nearest
from jaxdiff.measures.shares import proportion

Real = Float[np.ndarray, "r d"]
Fake = Float[np.ndarray, "f d"]
Entry = dict[str, Any]
K = 5  # neighbors that make an image's ball (Naeem et al. 2020)
BLOCK = 2048


def prdc(real: Real, fake: Fake, k: int = K) -> list[Entry]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), all 0..1 but density.

    An image's ball reaches to its k-th nearest neighbor of the same set. precision: the fraction of samples in some real
    image's ball; recall: of real images in some sample's ball; density: how many real balls a sample is in, over k (1 where
    the distributions agree, and not bounded); coverage: the fraction of real images whose ball holds a sample. Larger is
    better, but for copies of the real images precision, density and coverage are largest. Wilson intervals; density's is
    normal over samples. Raises ValueError where a set has no more than k images.
    """
    for name, rows in (("real images", real), ("samples", fake)):
        if len(rows) <= k:
            raise ValueError(
                f"{len(rows)} {name} have no {k} neighbors each; at least {k + 1} are needed"
            )
    balls, reach = (nearest(x, x, k + 1)[0][:, k] for x in (real, fake))
    inside, held = _in_balls(real, fake, balls, reach)
    covered = nearest(real, fake, 1)[0][:, 0] < balls
    density = inside / k
    half = 1.96 * float(density.std(ddof=1)) / math.sqrt(len(fake))
    value = float(density.mean())
    return [
        proportion("precision", int((inside > 0).sum()), len(fake)),
        proportion("recall", int(held.sum()), len(real)),
        {"name": "density", "value": value, "low": value - half, "high": value + half, "n": len(fake),
         "interval": "normal 95 % over samples"},
        proportion("coverage", int(covered.sum()), len(real)),
    ]  # fmt: skip


def _in_balls(
    real: Real, fake: Fake, balls: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each sample, how many real balls it is in; for each real image, whether it is in any sample's ball."""
    centre = np.asarray(real.mean(axis=0, dtype=np.float64), np.float32)
    inside, held = np.zeros(len(fake), int), np.zeros(len(real), bool)
    for f in range(0, len(fake), BLOCK):
        for r in range(0, len(real), BLOCK):
            counts, any_of = _block(real[r : r + BLOCK] - centre, fake[f : f + BLOCK] - centre,
                                    balls[r : r + BLOCK], reach[f : f + BLOCK])  # fmt: skip
            inside[f : f + BLOCK] += np.asarray(counts)
            held[r : r + BLOCK] |= np.asarray(any_of)
    return inside, held


@jax.jit
def _block(real: Array, fake: Array, balls: Array, reach: Array) -> tuple[Array, Array]:
    product = jnp.matmul(fake, real.T, precision=jax.lax.Precision.HIGHEST)
    square = (
        jnp.sum(fake * fake, axis=1)[:, None] + jnp.sum(real * real, axis=1)[None] - 2.0 * product
    )
    inside = square < jnp.square(balls)[None]
    return inside.sum(axis=1), (square < jnp.square(reach)[:, None]).any(axis=0)


def fid(real: Real, fake: Fake) -> Entry:
    """Fréchet distance of the Gaussians with the sets' means and covariances (Heusel et al. 2017); 0 where they agree.

    It falls with the number of images (its bias is of order d / n), so that values are comparable at equal n alone; no
    interval. tr (S1 S2)^(1/2) is the nuclear norm of R1 R2', with R the QR factor of a set's centred rows.
    """
    means, factors = [], []
    for x in (real, fake):
        mean = x.mean(axis=0, dtype=np.float64)
        means.append(mean)
        factors.append(np.asarray(np.linalg.qr((x - mean) / math.sqrt(len(x) - 1), mode="r")))
    apart = float(np.square(means[0] - means[1]).sum()) + sum(
        float(np.square(f).sum()) for f in factors
    )
    value = apart - 2.0 * float(np.linalg.norm(factors[0] @ factors[1].T, "nuc"))
    return {
        "name": "fid",
        "value": max(value, 0.0),
        "low": None,
        "high": None,
        "n": len(fake),
        "interval": "none",
    }


def kid(real: Real, fake: Fake) -> Entry:
    """Squared maximum mean discrepancy with the kernel (x . y / d + 1)^3, unbiased (Bińkowski et al. 2018).

    0 on average where the distributions agree, at any number of images; it can be negative. The normal interval is the
    jackknife's, an image at a time, over both sets.
    """
    (n, m), d = (len(fake), len(real)), fake.shape[1]
    own_fake, own_real = (_kernel_sums(x, x, d)[0] - _kernel(_squares(x), d) for x in (fake, real))
    cross_fake, cross_real = _kernel_sums(fake, real, d)

    def mmd(xx: Any, yy: Any, xy: Any, n: int, m: int) -> Any:
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2.0 * xy / (n * m)

    xx, yy, xy = own_fake.sum(), own_real.sum(), cross_fake.sum()
    value = float(mmd(xx, yy, xy, n, m))
    without_fake = mmd(xx - 2.0 * own_fake, yy, xy - cross_fake, n - 1, m)
    without_real = mmd(xx, yy - 2.0 * own_real, xy - cross_real, n, m - 1)
    half = 1.96 * math.sqrt(
        sum((len(w) - 1) * float(np.var(w)) for w in (without_fake, without_real))
    )
    return {"name": "kid", "value": value, "low": value - half, "high": value + half, "n": n,
            "interval": "jackknife 95 %"}  # fmt: skip


def _kernel(products: np.ndarray, d: int) -> np.ndarray:
    return (products / d + 1.0) ** 3


def _squares(x: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", x, x, dtype=np.float64)


def _kernel_sums(x: np.ndarray, y: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel over all y for each x, and over all x for each y, a block at a time."""
    over_y, over_x = np.zeros(len(x)), np.zeros(len(y))
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            block = _kernel(
                x[i : i + BLOCK].astype(np.float64) @ y[j : j + BLOCK].T.astype(np.float64), d
            )
            over_y[i : i + BLOCK] += block.sum(axis=1)
            over_x[j : j + BLOCK] += block.sum(axis=0)
    return over_y, over_x
