"""What a measure declares is what the study and the report need."""

import inspect
import re

import pytest

from jaxdiff.estimates import Estimate
from jaxdiff.measures import registry
from jaxdiff.measures.artifacts import Artifacts
from jaxdiff.measures.registry import AgainstDepth, Measure, in_order, measure


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "MEASURES", {})


def build(name: str, needs: tuple[str, ...] = ()) -> Measure:
    return Measure(name, lambda artifacts: [], "Title", "Caption", needs)


def test_a_measure_is_described_for_the_report(clean_registry):
    figure = AgainstDepth("mean", "brightness", scale=100.0)

    @measure("brightness", title="Brightness", caption="Why.", needs=("samples",), figure=figure)
    def brightness(artifacts):
        return [Estimate(1.0, name="mean")]

    description = registry.MEASURES["brightness"].describe()
    assert description["title"] == "Brightness"
    assert description["table"] == "brightness"
    assert description["figure"] == {
        "estimate": "mean",
        "label": "brightness",
        "scale": 100.0,
        "reference": "",
    }


def test_a_name_belongs_to_one_module(clean_registry):
    def first(artifacts):
        return []

    def second(artifacts):
        return []

    second.__module__ = "elsewhere"
    fields = {"title": "T", "caption": "C", "needs": ()}
    measure("same", **fields)(first)
    measure("same", **fields)(first)
    with pytest.raises(ValueError, match="measure 'same' of elsewhere is also in"):
        measure("same", **fields)(second)


def test_measures_run_after_those_that_they_need():
    ordered = in_order([build("b", ("a",)), build("c", ("b", "samples")), build("a")])
    assert list(ordered) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="the measures a, b need each other"):
        in_order([build("a", ("b",)), build("b", ("a",))])


# Part of what declared artifacts depend on, or no artifact.
NOT_DECLARED = {
    "seed",
    "settings",
    "progress",
    "estimates",
    "sampler_at",
    "write_npz",
    "write_json",
}


@pytest.mark.parametrize("name", registry.load_measures())
def test_a_measure_declares_the_artifacts_that_it_reads(name):
    declaration = registry.load_measures()[name]
    source = inspect.getsource(inspect.getmodule(declaration.compute))
    artifacts = {key for key in vars(Artifacts) if not key.startswith("_")} - NOT_DECLARED
    reads = set(re.findall(r"\bartifacts\.(\w+)", source)) & artifacts
    assert reads <= {*declaration.needs, *declaration.optional}
