"""The settings of the probe, and the timesteps, levels and ranks that follow from them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxdiff.diffusion import Schedule
from jaxdiff.landscape import curvature
from jaxdiff.landscape.level_functions import level_functions
from jaxdiff.unet import UNetConfig

Weights = Literal["trained", "random"]

READINGS = ("hessian", "maps", "pull_back", "decoder", "memory", "retrieval")


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """What the probe measures, and how exactly.

    Parameters
    ----------
    levels
        Levels of the U-Net, from 0 (pixels) to n + 1 (output of the mid-block); all where empty.
    noise
        Noise levels as shares of the number of timesteps, from 0 to 1.
    readings
        Names of the readings, of `READINGS`.
    ranks
        Ranks of the pull-back; those that some level is too small for are left out.
    steps, probes, dense
        Products of Lanczos' method, vectors of Hutchinson's estimator, and the number of
        dimensions up to which a matrix is computed in full: see `jaxdiff.landscape.curvature`.
    decoder_steps
        Products of Lanczos' method with each of the decoder's three Hessians, which cost most.
    c
        tau of the scaled memory, in units of the median squared distance to the nearest neighbor.
    ks
        Numbers of neighbors in Eq. 1's vote.
    random
        Whether to probe the same network with random weights as well.
    seed
        Seed of the random weights and of all noise.
    """

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


class GridPoint(NamedTuple):
    """A network and where it is probed: weights ("trained" or "random"), timestep and level."""

    weights: Weights
    t: int
    level: int


def probe_grid(config: UNetConfig, schedule: Schedule, options: ProbeOptions) -> list[GridPoint]:
    """Everything that is probed of a model, in order.

    Raises
    ------
    ValueError
        Where a noise level is no share or the U-Net does not have a level.
    """
    networks: tuple[Weights, ...] = ("trained", "random") if options.random else ("trained",)
    steps = noise_steps(schedule, options)
    levels = select_levels(config, options)
    return [GridPoint(weights, t, level) for weights in networks for t in steps for level in levels]


def noise_steps(schedule: Schedule, options: ProbeOptions) -> list[int]:
    """The noise levels as steps t; a ValueError where one is outside 0..1."""
    for share in options.noise:
        if not 0 <= share <= 1:
            raise ValueError(
                f"noise levels must be shares of all timesteps, from 0 to 1, got {share:g}"
            )
    # Shares, so that the same flags serve schedules of any length.
    return [round(share * (schedule.steps - 1)) for share in options.noise]


def select_levels(config: UNetConfig, options: ProbeOptions) -> tuple[int, ...]:
    """The levels that the options name, all by default; a ValueError where one does not exist."""
    bottleneck = config.depth
    levels = range(bottleneck + 2)
    for level in options.levels:
        if level not in levels:
            raise ValueError(
                f"level {level} does not exist; this U-Net has {', '.join(map(str, levels))}: "
                f"0 is the pixels, {bottleneck} the bottleneck, {bottleneck + 1} the output of "
                "the mid-block"
            )
    return options.levels or tuple(levels)


def count_dimensions(config: UNetConfig, image_shape: tuple[int, int, int]) -> list[int]:
    """The number of dimensions of every level."""
    return [math.prod(size) for size in level_functions(config, "eps", image_shape).sizes]


def select_ranks(dimensions: Sequence[Sequence[int]], options: ProbeOptions) -> tuple[int, ...]:
    """The ranks of the pull-back that no level of any model is too small for.

    Parameters
    ----------
    dimensions
        For each model the number of dimensions of every level.
    """
    smallest = min(min(levels) for levels in dimensions)
    return tuple(rank for rank in options.ranks if rank <= smallest)
