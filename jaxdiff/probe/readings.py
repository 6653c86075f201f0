"""The Hessian-smoothness probe: how curved a trained model's energy is at each level and noise level, beside random weights.

Readings: landscape.curvature (the Hessian itself and M = I - H / 2, at the pixels), landscape.abstraction (the maps of the levels,
E pulled back through them, E composed with the decoder), all at points x_t = s x0 + sigma eps that are the same for all models, which
are compared in pairs; and landscape.memory (the free energy of a memory, and whom it recalls), where queries and memories share one
eps: a query is another x_t of the same image.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdiff import models
from jaxdiff.diffusion import Schedule, add_noise
from jaxdiff.estimates import wilson
from jaxdiff.landscape import abstraction, curvature, memory, minima, retrieval
from jaxdiff.landscape.level_functions import FORWARD, LevelFunctions, level_functions
from jaxdiff.unet import Params, UNet, UNetConfig, parameters

Row = dict[str, Any]
READINGS = ("hessian", "maps", "pull_back", "decoder", "memory", "retrieval")
NOISE, SHARED = (
    0x70726F62,
    2**30,
)  # sets the probe's noise apart; the index of the noise that a memory shares
LEAST_SIGNAL = 0.1  # s below which x0_hat, a division by s, is not composed with the energy


@dataclasses.dataclass(frozen=True)
class Options:
    """levels: 0 (pixels) to n + 1, all where empty; noise: levels as shares of T; ranks: of the pull-back, those that all levels
    have; steps, probes, dense: landscape.curvature's; decoder_steps: of Lanczos on the decoder's three Hessians, whose products
    cost most; c: tau of the scaled memory in units of the median squared distance to the nearest neighbor; ks: of Eq. 1's vote;
    random: the same network with random weights too; seed: of those and of everything that is drawn."""

    levels: tuple[int, ...] = ()
    noise: tuple[float, ...] = (0.1, 0.3, 0.5)
    readings: tuple[str, ...] = READINGS
    ranks: tuple[int, ...] = (8, 32, 128)
    steps: int = curvature.STEPS
    probes: int = curvature.PROBES
    dense: int = curvature.DENSE
    decoder_steps: int = 10
    c: float = 1.0
    ks: tuple[int, ...] = (1, 5, 25)
    random: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Points:
    """x0: clean images in [-1, 1], of which the first `count` are probed and all are queries of the memory; memory: images of
    the memory, with the place of each one's class, 0 or 1, where that is known."""

    x0: Float[np.ndarray, "q h w c"]
    count: int
    memory: Float[np.ndarray, "m h w c"]
    labels: Int[np.ndarray, " m"] | None = None


class State(NamedTuple):
    """A model's weights at a noise level: what all its readings there take. z: of every level, of images each with noise of its
    own, from which the total variance is; then, where there is a memory, of the queries and of it with one noise for all."""

    maps: LevelFunctions
    parameters: tuple[Params, Array, Array]
    xt: Float[np.ndarray, "n h w c"]
    eps: Float[np.ndarray, "n h w c"]
    z: tuple[tuple[np.ndarray, ...], ...]
    tau: float
    s: float

    def at(self, level: int) -> tuple[Params, Array, Array, Array]:
        """The parameters of the maps of a level."""
        return *self.parameters, jnp.asarray(level, jnp.int32)


def noise(
    shape: tuple[int, ...], indices: Int[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, "n h w c"]:
    """By seed and index alone."""
    root = jax.random.fold_in(jax.random.key(seed), NOISE)
    draw = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(root, i), shape))
    return np.asarray(draw(jnp.asarray(indices)))


def times(schedule: Schedule, options: Options) -> list[int]:
    """The noise levels as steps t. Raises ValueError for a share outside 0..1."""
    for share in options.noise:
        if not 0 <= share <= 1:
            raise ValueError(
                f"noise level {share:g} was asked for; shares of all levels, from 0 to 1, are expected"
            )
    return [round(share * (schedule.steps - 1)) for share in options.noise]


def levels(config: UNetConfig, options: Options) -> tuple[int, ...]:
    """Those that are asked for. Raises ValueError, listing those that exist, for one that this U-Net has not."""
    for level in options.levels:
        if not 0 <= level <= config.depth + 1:
            known = ", ".join(map(str, range(config.depth + 2)))
            raise ValueError(f"level {level} does not exist; this U-Net has {known}: 0 is the pixels, "
                             f"{config.depth} the bottleneck, {config.depth + 1} the mid-block's output")  # fmt: skip
    return options.levels or tuple(range(config.depth + 2))


def dimensions(config: UNetConfig, shape: tuple[int, int, int]) -> list[int]:
    """The dimension of every level."""
    return [math.prod(size) for size in level_functions(config, "eps", shape).sizes]


def ranks(sizes: Sequence[Sequence[int]], options: Options) -> tuple[int, ...]:
    """Those of the pull-back that no level of any model is too small for."""
    return tuple(r for r in options.ranks if r <= min(min(each) for each in sizes))


def weights(model: models.Model, name: str, seed: int) -> Params:
    """The model's own ("trained"), or of the same network at random."""
    unet = model.unet if name == "trained" else UNet(model.unet.config, rngs=nnx.Rngs(seed))
    # a checkpoint's arrays are bound to one device
    return {path: jnp.asarray(np.asarray(p)) for path, p in parameters(unet).items()}


def state(model: models.Model, params: Params, t: int, points: Points, options: Options) -> State:
    """Noised points, and all activations."""
    shape, n, m, schedule = points.x0.shape[1:], points.count, len(points.memory), model.schedule
    made = level_functions(model.unet.config, model.prediction, shape)
    own, shared = (
        noise(shape, np.arange(n), options.seed),
        noise(shape, np.array([SHARED]), options.seed),
    )

    def noised(x0: np.ndarray, eps: np.ndarray) -> np.ndarray:
        every = jnp.asarray(x0), jnp.broadcast_to(jnp.asarray(eps), x0.shape), jnp.full(len(x0), t)
        return np.asarray(add_noise(schedule, *every))

    xt = noised(points.x0[:n], own)
    groups = [xt]
    if m > 1:
        spread = noised(points.memory, noise(shape, SHARED + 1 + np.arange(m), options.seed))
        groups = [spread, noised(points.x0, shared), noised(points.memory, shared)]
    alpha_bar = jnp.asarray(schedule.alpha_bar)
    whole = options.levels != (0,)  # the pixels are their own activation: nothing to compile
    z = tuple(
        activations(made, x, params, t) if whole else (x.reshape(len(x), -1),) for x in groups
    )
    s_square = float(schedule.alpha_bar[t])
    return State(
        made,
        (params, alpha_bar, jnp.asarray(t, jnp.int32)),
        xt,
        own,
        z,
        2.0 * (1.0 - s_square),
        s_square**0.5,
    )


def activations(
    made: LevelFunctions, xt: Float[np.ndarray, "n h w c"], params: Params, t: int
) -> tuple[np.ndarray, ...]:
    """Every level's z [n, d], in padded chunks."""
    found = []
    for first in range(0, len(xt), FORWARD):
        part = np.resize(np.arange(first, min(first + FORWARD, len(xt))), FORWARD)
        z = made.all_levels(jnp.asarray(xt[part]), params, jnp.asarray(t, jnp.int32))
        found.append([np.asarray(each).reshape(FORWARD, -1)[: len(xt) - first] for each in z])
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def at_level(
    now: State,
    points: Points,
    level: int,
    chosen: tuple[int, ...],
    options: Options,
    say: Callable[[str], object] = str,
) -> list[Row]:
    """Every reading of one level: rows of `reading`, `name`, and at each point `values` and their `errors`.

    chosen: the ranks of the pull-back; say: is told which reading begins. Raises ValueError for a tau below the error of distances.
    """
    key = jax.random.fold_in(jax.random.key(options.seed), level)
    rows = [
        _row("scale", "total_variance", np.array([abstraction.total_variance(now.z[0][level])]))
    ]
    parts = {"hessian": _hessian, "maps": _maps, "pull_back": _pull_back, "decoder": _decoder}
    for reading in options.readings:
        if reading in parts:
            say(reading)
            rows += parts[reading](now, level, key, chosen, options)
    if len(points.memory) > 1:
        for reading, of in (("memory", _memory), ("retrieval", _retrieval)):
            if reading in options.readings:
                say(reading)
                rows += of(now, points, level, options)
    return rows


def _row(
    reading: str, name: str, values: np.ndarray, errors: np.ndarray | None = None, **more: Any
) -> Row:
    """As JSON holds it: what is not finite is None."""

    def plain(a):
        return [float(f"{x:.7g}") if np.isfinite(x) else None for x in np.ravel(a)]

    found = {"reading": reading, "name": name, **more, "values": plain(values)}
    return (
        found
        if errors is None
        else found | {"errors": plain(np.broadcast_to(errors, np.shape(values)))}
    )


def _hessian(
    now: State, level: int, key: Array, chosen: tuple[int, ...], options: Options
) -> list[Row]:
    """At the pixels, of the trained energy: H as the theorem reads, and M."""
    if level:
        return []
    given = {"steps": options.steps, "probes": options.probes, "dense": options.dense}
    found = curvature.curvature(
        curvature.Field(now.maps.denoiser), jnp.asarray(now.xt), key, *now.parameters, **given
    )
    names = ("spectral_norm", "smallest", "largest", "trace", "stable_rank", "asymmetry")
    rows = [_row("denoiser", name, *found[name]) for name in names]
    (least, least_error), (most, most_error) = found["smallest"], found["largest"]
    ends, errors = (
        np.stack([2.0 - 2.0 * most, 2.0 - 2.0 * least]),
        2.0 * np.stack([most_error, least_error]),
    )
    widest = np.abs(ends).argmax(axis=0)[None]
    norm, error = (np.take_along_axis(a, widest, axis=0)[0] for a in (np.abs(ends), errors))
    return [
        *rows,
        _row("hessian", "smallest", ends[0], errors[0]),
        _row("hessian", "spectral_norm", norm, error),
    ]


def _maps(
    now: State, level: int, key: Array, chosen: tuple[int, ...], options: Options
) -> list[Row]:
    """How x -> z stretches (Eqs. 6, 27), and the step to this level (Eq. 35): the largest singular value of each."""
    if not level:
        return []
    parameters, largest = now.at(level), now.maps.largest
    before = activations(now.maps, now.xt, now.parameters[0], int(now.parameters[2]))[level - 1]
    z = np.pad(before, ((0, 0), (0, largest - before.shape[1])))
    rows = []
    for name, phi, at, dense in (
        ("from_pixels", now.maps.encode, now.xt, options.dense),
        ("step", now.maps.advance, z, 0),
    ):
        given = curvature.Options(steps=options.steps, dense=dense)
        found = abstraction.leading_triples(
            phi, jnp.asarray(at), key, count=1, parameters=parameters, options=given
        )
        rows.append(_row("maps", name, found.values[:, 0], found.bounds[:, 0]))
    return rows


def _pull_back(
    now: State, level: int, key: Array, chosen: tuple[int, ...], options: Options
) -> list[Row]:
    if not level or not chosen:
        return []
    phi = abstraction.PullBack(now.maps.encode, now.maps.energy_grad, chosen)
    given = {"steps": options.steps, "dense": options.dense}
    found = abstraction.pull_back_curvature(phi, jnp.asarray(now.xt), key, *now.at(level), **given)
    rows = []
    for r, each in found.items():
        value, bound = each.smallest_value, each.smallest_bound
        rows.append(_row("pull_back", "smallest_value", value, bound, rank=r))
        doubt = (
            2.0 * bound / np.maximum(value, 1e-30)
        )  # the norms of what is pulled back go as its inverse square
        for name in ("total", "first", "second"):
            rows.append(
                _row("pull_back", name, getattr(each, name), getattr(each, name) * doubt, rank=r)
            )
        rows += [_row("pull_back", name, getattr(each, name), rank=r) for name in ("along", "bend")]
    return rows


def _decoder(
    now: State, level: int, key: Array, chosen: tuple[int, ...], options: Options
) -> list[Row]:
    if now.s < LEAST_SIGNAL:
        return []
    given = {"steps": options.decoder_steps, "probes": 0, "dense": 0}
    found = abstraction.decoder_curvature(
        now.maps.decoder, jnp.asarray(now.xt), key, *now.at(level), with_points=(now.eps,), **given
    )
    rows = [
        _row("decoder", name, *getattr(found, name)["spectral_norm"])
        for name in ("total", "gauss_newton", "remainder")
    ]
    rows.append(_row("decoder", "smallest", *found.total["smallest"]))
    return rows + [_row("decoder", name, getattr(found, name)) for name in ("gap", "sum_error")]


def _memory(now: State, points: Points, level: int, options: Options) -> list[Row]:
    """At the raw tau, and at c times the median squared distance to the nearest neighbor; None, and why, where it has no value.

    Raises ValueError for a scaled tau below the error of distances."""
    _, queries, memories = (each[level] for each in now.z)
    rows = []
    for tau_is in ("raw", "scaled"):
        why, found = "", dict.fromkeys(memory.NAMES, np.full(points.count, np.nan))
        try:
            tau = now.tau if tau_is == "raw" else options.c * memory.nearest_scale(memories)
            found = memory.curvature(queries[: points.count], memories, tau)
        except ValueError as error:
            why = str(error)
            if tau_is == "scaled" and options.c != 1.0:
                raise ValueError(
                    f"the memory at level {level} with the scaled tau (--c): {error}"
                ) from None
        rows += [
            _row("memory", name, values, tau=tau_is, why=why) for name, values in found.items()
        ]
    return rows


def _retrieval(now: State, points: Points, level: int, options: Options) -> list[Row]:
    """Of classes 0 and 1, what share of the queries the memory calls 1, beside its own share of 1: by Eq. 1's vote, and by the
    soft weights (Eq. 2) at the scaled tau; and the minima there."""
    if points.labels is None:
        return []
    _, queries, memories = (each[level] for each in now.z)
    rows = [_row("retrieval", "class 1 in the memory", np.array([points.labels.mean()]))]
    try:
        scaled = options.c * memory.nearest_scale(memories)
    except ValueError:  # copies: `memory` says so
        return rows
    ks = tuple(k for k in options.ks if k <= len(memories))
    votes = retrieval.hard_votes(jnp.asarray(queries), jnp.asarray(memories), points.labels, 2, ks)
    shares = {f"k = {k}": each[:, 1] for k, each in votes.items()}
    shares["soft"] = retrieval.soft_labels(
        memory.weights(queries, memories, scaled), points.labels, 2
    )[:, 1]
    for name, share in shares.items():
        ones = int((share > 0.5).sum())
        low, high = wilson(ones, len(share))
        about: Row = {"low": float(low), "high": float(high), "n": len(share)}
        rows.append(_row("retrieval", name, np.array([ones / len(share)]), **about))
    found = minima.find_minima(jnp.asarray(memories), scaled)
    purity = sum(
        np.bincount(points.labels[found.assignment == m]).max() for m in range(len(found.centers))
    ) / len(memories)
    return [
        *rows,
        _row("retrieval", "minima", np.array([len(found.centers)])),
        _row("retrieval", "purity", np.array([purity])),
    ]


def work(config: UNetConfig, schedule: Schedule, options: Options) -> list[tuple[str, int, int]]:
    """Weights, t and level of everything that is measured of a model, in order."""
    names = ("trained", "random") if options.random else ("trained",)
    return [
        (w, t, a) for w in names for t in times(schedule, options) for a in levels(config, options)
    ]


def states(model: models.Model, points: Points, options: Options) -> Callable[[str, int], State]:
    """The state by weights and t; the last one is kept, since its levels follow each other."""
    return functools.lru_cache(maxsize=1)(
        lambda name, t: state(model, weights(model, name, options.seed), t, points, options)
    )
