"""The curvature of a trained model's energy at a few noised images: a study's own small probe."""

from collections.abc import Iterable

from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts, require
from jaxdiff.measures.registry import measure
from jaxdiff.models import Model
from jaxdiff.probe.data import QUERIES, ProbeData
from jaxdiff.probe.options import ProbeOptions, probe_grid
from jaxdiff.probe.readings import probe_level
from jaxdiff.probe.state import cached_states
from jaxdiff.progress import Progress
from jaxdiff.reading import Reading

# At the pixels alone, which compiles in seconds; above 256 dimensions by a few products.
OPTIONS = ProbeOptions(
    levels=(0,), noise=(0.3,), readings=("hessian",), steps=16, probes=16, dense=256
)


@measure(
    "curvature",
    title="Curvature",
    caption=(
        "The Hessian H of the energy and M = I - H / 2 at the pixels, for a few noised images. "
        "Each value is the median over images, with the 10 and 90 % quantiles; compare it with "
        "that of the same network with random weights. For an energy M would be symmetric, but the "
        "M of a network need not be: the rows asymmetry give |M - M^T| / |M + M^T|, which is 0 for "
        "a gradient, and all other rows are of the symmetric part."
    ),
    needs=("leveled_sampler", "train", "roles", "unseen"),
    settings=("probe",),
    outputs=("probe.json",),
    topic="mechanism",
    enabled=lambda settings: settings.probe > 0,
)
def curvature(artifacts: Artifacts) -> list[Estimate]:
    """Measure H and M; the values at single points, for comparisons in pairs, go to probe.json."""
    sampler = require(artifacts.leveled_sampler)
    roles = require(artifacts.roles)
    num_probe = artifacts.settings.probe
    data = ProbeData.from_unseen(
        artifacts.unseen(max(num_probe, QUERIES)),
        artifacts.train,
        roles.classes,
        num_probe,
    )
    readings = probe_pixels(sampler.model, data, artifacts.progress)
    artifacts.write_json("probe.json", to_rows(readings))
    return [reading.summarize() for reading in readings]


def probe_pixels(model: Model, data: ProbeData, progress: Progress) -> list[Reading]:
    """All readings at the pixels, labeled with weights, t and level."""
    get_state = cached_states(model, data, OPTIONS)
    grid = probe_grid(model.unet.config, model.schedule, OPTIONS)
    labeled = []
    for i, point in enumerate(grid):
        progress("curvature", i, len(grid), f"{point.weights} weights, level {point.level}")
        state = get_state(point.weights, point.t)
        readings = probe_level(state, data, point.level, (), OPTIONS)
        labeled += [reading.labeled(**point._asdict()) for reading in readings]
    progress("curvature", len(grid), len(grid), "")
    return labeled


def to_rows(readings: Iterable[Reading]) -> dict[str, list[dict[str, object]]]:
    """The contents of probe.json."""
    return {"rows": [reading.to_json() for reading in readings]}
