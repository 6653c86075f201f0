"""How many training images a denoising step attends to: the soft k-NN denoiser that a trained model is most like.

At noise level t, x_t = s x + sigma eps and q = x_t / s. The soft k-NN denoiser weighs memory image i by
exp(-|q - x_i|^2 / tau), tau = rho 2 sigma^2 / s^2 (Eq. 2 of the paper): rho = 1 is the exact denoiser of the memory, and a
larger rho attends to more of it. Images are float [n, height, width, channel] in [-1, 1].
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize

from jaxdiff.diffusion import Schedule

Queries = Float[np.ndarray, "q h w c"]
Memory = Float[np.ndarray, "m h w c"]
Entry = dict[str, Any]
RHOS = 2.0 ** np.arange(-4, 12.01, 0.5)  # the grid; a fit at its edge is no fit
LEAST = 0.5  # R^2 below which k_eff is undefined
PATCHES = (3, 5, 7, 9)  # sides of the local denoiser's patches
GAUSSIAN, LOCAL = 4096, 1024  # images at most behind the Gaussian and the local-patch denoiser
BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Fit:
    """rho that explains a denoiser best, its R^2 against the best constant image, and exp(entropy of the weights) of each query.

    edge: rho is at the end of the grid.
    """

    rho: float
    r2: float
    k_eff: Float[np.ndarray, " q"]
    edge: bool


def noise_to_signal(schedule: Schedule, t: int) -> tuple[float, float]:
    """s and sigma at t."""
    alpha_bar = float(schedule.alpha_bar[t])
    return alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5


def square_distances(queries: Queries, memory: Memory) -> Float[np.ndarray, "q m"]:
    """|q - x_i|^2 in float64: at low noise tau is below what float32 products err by (SCIENCE: 3e-4 at d = 3,072)."""
    q = queries.reshape(len(queries), -1).astype(np.float64)
    found = np.empty((len(q), len(memory)))
    for first in range(0, len(memory), BLOCK):
        m = memory[first : first + BLOCK].reshape(-1, q.shape[1]).astype(np.float64)
        found[:, first : first + BLOCK] = (
            (q * q).sum(1)[:, None] + (m * m).sum(1)[None] - 2.0 * (q @ m.T)
        )
    return np.maximum(found, 0.0)


def weights(squares: Float[np.ndarray, "q m"], tau: float) -> Float[np.ndarray, "q m"]:
    """softmax(-squares / tau) over the memory (Eq. 2)."""
    raw = np.exp(-(squares - squares.min(axis=1, keepdims=True)) / tau)
    return raw / raw.sum(axis=1, keepdims=True)


def recalled(weight: Float[np.ndarray, "q m"], memory: Memory) -> Float[np.ndarray, "q d"]:
    """The weighted means of the memory, to float32's precision: unlike distances, they need no more."""
    return weight.astype(np.float32) @ memory.reshape(len(memory), -1)


def fit(xt: Queries, x0_hat: Queries, memory: Memory, s: float, sigma: float) -> Fit:
    """The soft k-NN denoiser of `memory` that predicts x0_hat best in squared error, over all queries at one noise level."""
    squares, wanted, base = (
        square_distances(xt / s, memory),
        x0_hat.reshape(len(x0_hat), -1),
        2.0 * (sigma / s) ** 2,
    )

    def error(log_rho: float) -> float:
        return float(
            np.square(recalled(weights(squares, np.exp(log_rho) * base), memory) - wanted).sum()
        )

    grid = np.log(RHOS)
    place = int(np.argmin([error(x) for x in grid]))
    low, high = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(
        error, bounds=(low, high), method="bounded", options={"xatol": 1e-3}
    )
    best = weights(squares, np.exp(found.x) * base)
    entropy = -np.sum(best * np.log(np.maximum(best, 1e-300)), axis=1)
    r2 = r_squared(recalled(best, memory), wanted)
    return Fit(float(np.exp(found.x)), r2, np.exp(entropy), not 0 < place < len(grid) - 1)


def r_squared(found: Float[np.ndarray, "q d"], wanted: Float[np.ndarray, "q d"]) -> float:
    """1 - the squared error over that of the best constant image; 1 is perfect, 0 no better than a constant."""
    apart = wanted - wanted.mean(axis=0, keepdims=True)
    return 1.0 - float(np.square(found - wanted).sum()) / max(float(np.square(apart).sum()), 1e-30)


def gaussian(xt: Queries, memory: Memory, s: float, sigma: float) -> Float[np.ndarray, "q d"]:
    """Wiener's denoiser: the exact one for a Gaussian with the memory's mean and covariance (of at most 4,096 images)."""
    rows = memory[:GAUSSIAN].reshape(-1, memory[0].size).astype(np.float64)
    mean = rows.mean(axis=0)
    _, scale, axes = np.linalg.svd(
        (rows - mean) / np.sqrt(max(len(rows) - 1, 1)), full_matrices=False
    )
    shrink = s * scale**2 / (s**2 * scale**2 + sigma**2)
    return mean + ((xt.reshape(len(xt), -1) - s * mean) @ axes.T * shrink) @ axes


def local_patch(
    xt: Queries, memory: Memory, s: float, sigma: float, side: int
) -> Float[np.ndarray, "q d"]:
    """Each pixel as the memory's exact denoiser predicts it from the patch around it alone (of at most 1,024 images).

    What a network with so small a receptive field could do at best with the memory (Kamb & Ganguli 2025, without their
    shifts; Niedoba et al. 2024).
    """
    tau = 2.0 * (sigma / s) ** 2
    found = _local(
        jnp.asarray(xt / s, jnp.float32), jnp.asarray(memory[:LOCAL], jnp.float32), tau, side
    )
    return np.asarray(found).reshape(len(xt), -1)


@functools.partial(jax.jit, static_argnums=3)
def _local(queries: Array, memory: Array, tau: Array, side: int) -> Array:
    def one(query: Array) -> Array:
        near = jnp.square(query[None] - memory).sum(axis=-1)
        for window in ((1, side, 1), (1, 1, side)):  # a square's sum, row by row
            near = jax.lax.reduce_window(near, 0.0, jax.lax.add, window, (1, 1, 1), "SAME")
        return jnp.sum(jax.nn.softmax(-near / tau, axis=0)[..., None] * memory, axis=0)

    return jax.lax.map(one, queries)


def ladder(
    xt: Queries, x0_hat: Queries, memory: Memory, s: float, sigma: float
) -> dict[str, tuple[float, int | None]]:
    """R^2 of three denoisers of the memory as predictions of x0_hat on the same x_t; and the patch's side.

    exact: rho = 1; gaussian: mean and covariance alone; local_patch: the side that fits best.
    """
    wanted = x0_hat.reshape(len(x0_hat), -1)
    exact = recalled(weights(square_distances(xt / s, memory), 2.0 * (sigma / s) ** 2), memory)
    sides = [side for side in PATCHES if side <= xt.shape[1]]
    local = {side: r_squared(local_patch(xt, memory, s, sigma, side), wanted) for side in sides}
    best = max(local, key=lambda side: local[side])
    return {"exact": (r_squared(exact, wanted), None),
            "gaussian": (r_squared(gaussian(xt, memory, s, sigma), wanted), None),
            "local_patch": (local[best], best)}  # fmt: skip


def effective_k(
    xt: Queries, x0_hat: Queries, memory: Memory, controls: Mapping[str, Float[np.ndarray, "_m h w c"]], s: float,
    sigma: float,
) -> list[Entry]:  # fmt: skip
    """At one noise level: rho and k_eff of the training images, R^2 of four denoisers of them, and of controls.

    k_eff: exp(entropy of the weights), geometric mean over queries, 1 to the memory's size; larger is smoother. It and rho
    are None, and `why` says so, where the soft k-NN denoiser's R^2 is below 1/2, its rho is at the grid's edge, or the
    Gaussian, which holds no image, explains the model better (a Gaussian denoiser itself has R^2 of .65 and a rho inside
    the grid). controls: other memories, as held-out images, and as many of the training images: where a memory that the
    model never saw explains it as well, there is no ground to speak of recall.
    """
    found = fit(xt, x0_hat, memory, s, sigma)
    others = ladder(xt, x0_hat, memory, s, sigma)
    why = reason(found, others["gaussian"][0])
    logs, common = np.log(found.k_eff), {"memory": "train", "images": len(memory), "n": len(xt)}
    mean, half = float(logs.mean()), 1.96 * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    ends = (
        (None, None, None) if why else tuple(math.exp(x) for x in (mean, mean - half, mean + half))
    )
    rows: list[Entry] = [
        {"name": "rho", "value": None if why else found.rho, "low": None, "high": None, "interval": "none",
         "why": why, **common},
        {"name": "k_eff", **dict(zip(("value", "low", "high"), ends, strict=True)),
         "interval": "normal 95 % of the log", "why": why, **common},
    ]  # fmt: skip
    r2 = {"name": "r2", "low": None, "high": None, "interval": "none"}
    rows.append(r2 | common | {"denoiser": "soft_knn", "value": found.r2})
    rows += [
        r2 | common | {"denoiser": name, "value": value, "side": side}
        for name, (value, side) in others.items()
    ]
    for name, control in controls.items():
        value = fit(xt, x0_hat, control, s, sigma).r2
        rows.append(
            r2
            | common
            | {"denoiser": "soft_knn", "memory": name, "images": len(control), "value": value}
        )
    return rows


def reason(found: Fit, gaussian: float) -> str:
    """Why k_eff is undefined; empty where it is not. gaussian: the Gaussian denoiser's R^2."""
    if found.r2 < LEAST:
        return f"R^2 is {found.r2:.2f}, below {LEAST:g}"
    if found.edge:
        return f"rho is {found.rho:.3g}, at the grid's edge"
    return (
        f"the Gaussian explains more (R^2 {gaussian:.2f} against {found.r2:.2f})"
        if gaussian >= found.r2
        else ""
    )
