"""Probed models, as probe.json or a study's cells hold them, and the norms to compare. No JAX."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from jaxdiff import files
from jaxdiff.analysis.queries import format_mix, group_key
from jaxdiff.reading import Reading
from jaxdiff.results import CellResult

Values = Float[np.ndarray, " points"]

# Below it an |M| of a memory counts as 0: one image has all the weight, and ratios would be
# those of rounding errors.
MIN_MEMORY_NORM = 1e-6


class Norms(NamedTuple):
    """A norm at each point and its error; nan where it is undefined."""

    values: Values
    errors: Values

    @classmethod
    def of(cls, reading: Reading) -> "Norms":
        """The values of a reading; without an error they are exact."""
        errors = np.zeros_like(reading.values) if reading.errors is None else reading.errors
        return cls(reading.values, errors)

    def scaled(self, factor: float) -> "Norms":
        """Norms and errors times a factor."""
        return Norms(self.values * factor, self.errors * factor)


class Quantity(NamedTuple):
    """What is compared: a reading, and its form where it has several, such as ranks."""

    reading: str
    form: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, self))


@dataclasses.dataclass(frozen=True)
class ProbedModel:
    """A model and its readings.

    Parameters
    ----------
    name
        Its name in tables and figures.
    depth, parameters
        Levels of its U-Net, and number of trained parameters.
    bottleneck
        Height of the bottleneck in pixels.
    readings
        All that was measured, labeled with weights, t and level.
    """

    name: str
    depth: int
    parameters: int
    bottleneck: int
    readings: Sequence[Reading]

    def find(self, **labels: Any) -> Norms | None:
        """The first reading with these labels; None where there is none."""
        for reading in self.readings:
            if reading.matches(**labels):
                return Norms.of(reading)
        return None

    def label_values(self, label: str) -> list[Any]:
        """The values of a label that occur, in order."""
        return sorted({r.labels[label] for r in self.readings if label in r.labels})


class Site(NamedTuple):
    """A level of a network ("trained" or "random" weights) at one timestep."""

    model: ProbedModel
    weights: str
    t: int
    level: int

    def find(self, **labels: Any) -> Norms | None:
        """The reading with these labels at this site."""
        site = {"weights": self.weights, "t": self.t, "level": self.level}
        return self.model.find(**{**site, **labels})

    @property
    def total_variance(self) -> float:
        """The total variance of the level's activations; 1 where it was not measured."""
        norms = self.find(name="total_variance")
        return 1.0 if norms is None else float(norms.values[0])


def read_models(workdir: epath.Path) -> list[ProbedModel]:
    """The models of probe.json, shallowest first."""
    entries = files.read_json(workdir / "probe.json")["models"]
    models = []
    for name, entry in entries.items():
        readings = [Reading.from_json(row) for row in entry["rows"]]
        models.append(
            ProbedModel(name, entry["depth"], entry["parameters"], entry["bottleneck"], readings)
        )
    return sort_by_depth(models)


def group_cells(cells: Sequence[CellResult]) -> dict[str, list[ProbedModel]]:
    """A study's models by training data and seed, which are probed at the same points."""
    groups: dict[str, list[ProbedModel]] = {}
    for cell in cells:
        if not cell.probe:
            continue
        info = cell.info
        readings = [Reading.from_json(row) for row in cell.probe]
        model = ProbedModel(info.model, info.depth, info.parameters, info.bottleneck or 0, readings)
        groups.setdefault(f"{format_mix(group_key(cell))}, seed {info.seed}", []).append(model)
    return {name: sort_by_depth(models) for name, models in groups.items()}


def sort_by_depth(models: Iterable[ProbedModel]) -> list[ProbedModel]:
    """Shallowest first, smaller ones first among equals."""
    return sorted(models, key=lambda model: (model.depth, model.parameters))


def find_level_norms(site: Site) -> dict[Quantity, Norms]:
    """The norms whose fall from level to level is the conclusion of Theorem 1."""
    norms: dict[Quantity, Norms | None] = {}
    for rank in site.model.label_values("rank"):
        norms[Quantity("pull-back", f"r = {rank}")] = _find_pull_back(site, rank)
    norms[Quantity("decoder")] = site.find(reading="decoder", name="total")
    for tau in ("raw", "scaled"):
        memory = site.find(reading="memory", name="spectral_norm", tau=tau)
        if memory is not None:
            # The floor is its own error: two floored norms stay undecided, and a floored one beside
            # a large one is decided.
            is_defined = memory.values > MIN_MEMORY_NORM
            memory = Norms(
                np.maximum(memory.values, MIN_MEMORY_NORM),
                np.where(is_defined, memory.errors, MIN_MEMORY_NORM),
            )
        norms[Quantity("memory", f"{tau} tau")] = memory
    return _drop_missing(norms)


def find_pixel_norms(site: Site) -> dict[Quantity, Norms]:
    """The curvature of the energy itself at the pixels, for models at the same x_t.

    This is what the paper uses the theorem for. The smallest eigenvalue of H says nothing more:
    2 less it is twice the largest eigenvalue of M, which is |M| unless M has a larger one below 0.
    """
    return _drop_missing(
        {
            Quantity("pixels", "|M|"): site.find(reading="denoiser", name="spectral_norm"),
            Quantity("pixels", "tr M"): site.find(reading="denoiser", name="trace"),
        }
    )


def find_contractions(site: Site) -> Bool[np.ndarray, " points"] | None:
    """The points where the map from the pixels contracts; None where it was not measured.

    That is the theorem's premise at the first level. The largest singular value of a map of many
    dimensions is met from below, by a few products.
    """
    norms = site.find(reading="maps", name="from_pixels")
    # The error is a bound on the singular value.
    return None if norms is None else norms.values + norms.errors < 1


def _find_pull_back(site: Site, rank: int) -> Norms | None:
    if site.level > 0:
        return site.find(reading="pull_back", name="total", rank=rank)
    # At the pixels, along the directions that the first measured level keeps.
    levels = [level for level in site.model.label_values("level") if level > 0]
    return site.find(reading="pull_back", name="along", rank=rank, level=levels[0])


def _drop_missing(norms: Mapping[Quantity, Norms | None]) -> dict[Quantity, Norms]:
    return {quantity: values for quantity, values in norms.items() if values is not None}
