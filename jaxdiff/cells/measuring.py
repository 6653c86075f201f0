"""Running measures on artifacts: each is a stage, made again when what it is made from changes."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from jaxdiff import files, results
from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts
from jaxdiff.measures.registry import Measure, in_order
from jaxdiff.precision import MEASURED
from jaxdiff.settings import MeasureSettings
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Outputs, Redo, run_stage


class MeasuredArtifacts(Artifacts, Protocol):
    """Artifacts that say what they depend on and where results go."""

    @property
    def folder(self) -> epath.Path:
        """Where results are written."""

    @property
    def outputs(self) -> dict[str, Outputs]:
        """Checksums of what each finished stage wrote, by its name."""

    def has(self, name: str) -> bool:
        """Whether an artifact exists; nothing is loaded."""

    def digest(self, name: str) -> Any:
        """All that an artifact, or another measure, depends on, as JSON holds it."""

    def write_estimates(self, measure: Measure, estimates: Sequence[Estimate]) -> None:
        """Write measures/NAME.json."""


class ResultFolder:
    """Where the results of a cell or of a set of images are written.

    Attributes
    ----------
    folder
        The folder of the cell or the set.
    """

    folder: epath.Path

    def estimates(self, name: str) -> list[Estimate]:
        return [Estimate.from_json(entry) for entry in self._read_entries(name)]

    def write_npz(self, name: str, **arrays: np.ndarray) -> None:
        results.write_npz(self.folder / name, **arrays)

    def write_json(self, name: str, value: object) -> None:
        files.write_json(self.folder / name, value)

    def write_estimates(self, measure: Measure, estimates: Sequence[Estimate]) -> None:
        """Write measures/NAME.json: the estimates and how the report shows them."""
        entries = [dataclasses.replace(e, values=None).to_json() for e in estimates]
        content = measure.describe() | {"estimates": entries}
        files.write_json(self.folder / "measures" / f"{measure.name}.json", content)

    def write_result(self, description: Mapping[str, Any], measures: Sequence[str]) -> None:
        """Write result.json: what was measured, and the estimates of these measures."""
        sections = {name: self._read_entries(name) for name in measures}
        content = {"schema": results.SCHEMA, results.PRECISION: MEASURED, **description, **sections}
        files.write_json(self.folder / "result.json", content)

    def _read_entries(self, measure: str) -> list[dict[str, Any]]:
        return files.read_json(self.folder / "measures" / f"{measure}.json")["estimates"]


def available(measures: Iterable[Measure], artifacts: MeasuredArtifacts) -> list[Measure]:
    """The measures that the settings ask for and whose needs exist, in the order to run them."""
    selected: dict[str, Measure] = {}
    registered = in_order(measures)
    for measure in registered.values():
        exists = (
            name in selected if _is_measure(name, measure, registered) else artifacts.has(name)
            for name in measure.needs
        )
        if measure.enabled(artifacts.settings) and all(exists):
            selected[measure.name] = measure
    return list(selected.values())


def _is_measure(name: str, measure: Measure, registered: Mapping[str, Measure]) -> bool:
    """Whether a need is another measure; a measure may have the name of an artifact."""
    return name in registered and name != measure.name


def run_measures(
    measures: Iterable[Measure], artifacts: MeasuredArtifacts, redo: Redo = NO_REDO
) -> dict[str, Outputs]:
    """Run every available measure that is not done.

    Returns
    -------
    outputs
        Checksums of what each measure wrote, by its name.
    """
    outputs = {}
    for measure in available(measures, artifacts):
        outputs[measure.name] = run_measure(measure, artifacts, redo)
    return outputs


def run_measure(measure: Measure, artifacts: MeasuredArtifacts, redo: Redo = NO_REDO) -> Outputs:
    """Run one measure unless it is done: made from the same artifacts, settings and code."""
    read = [name for name in (*measure.needs, *measure.optional) if artifacts.has(name)]
    inputs = {
        "artifacts": {name: artifacts.digest(name) for name in read},
        "settings": settings_digest(measure, artifacts.settings),
        "code": code_digest(measure.compute),
    }
    path = f"measures/{measure.name}.json"
    make = functools.partial(_make, measure, artifacts)
    outputs = run_stage(
        artifacts.folder, measure.name, inputs, (path, *measure.outputs), make, redo=redo
    )
    artifacts.outputs[measure.name] = outputs
    return outputs


def _make(measure: Measure, artifacts: MeasuredArtifacts) -> None:
    artifacts.write_estimates(measure, measure.compute(artifacts))


def settings_digest(measure: Measure, settings: MeasureSettings) -> dict[str, Any]:
    """The settings that a measure depends on; of a weights file its checksum."""
    digest = {}
    for key in measure.settings:
        value = getattr(settings, key)
        is_file = key == "inception" and value
        digest[key] = files.sha256(value) if is_file else value
    return digest
