"""What a measure declares is what the study and the report need; its code is its fingerprint."""

import importlib
import inspect
import re
import sys

import pytest

from jaxdiff import source_code
from jaxdiff.bypass import text_to_image
from jaxdiff.bypass.cells import BypassedCell
from jaxdiff.cells.classifiers import Classifiers, train_classifiers
from jaxdiff.cells.data import match_splits
from jaxdiff.estimates import Estimate
from jaxdiff.measures import registry
from jaxdiff.measures.artifacts import Artifacts
from jaxdiff.measures.registry import AgainstDepth, Measure, in_order, measure
from jaxdiff.source_code import code_digest, list_code_modules, strip_comments
from jaxdiff.study import inversion

SOURCE = """
from jaxdiff.estimates import Estimate
from {helper} import offset


def compute(artifacts):
    return [Estimate({value} + offset())]
"""
HELPER = "def offset():\n    return {offset}\n"


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "MEASURES", {})


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """The digest of a measure in a module of its own and of a helper that it imports."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source_code, "CODE_PACKAGES", ("measure_helper",))

    def digest(value: int = 1, offset: int = 0) -> str:
        (tmp_path / "measure_helper.py").write_text(HELPER.format(offset=offset))
        (tmp_path / "my_measure.py").write_text(SOURCE.format(helper="measure_helper", value=value))
        source_code._read_source.cache_clear()
        importlib.invalidate_caches()
        for name in ("my_measure", "measure_helper"):
            sys.modules.pop(name, None)
        sys.dont_write_bytecode = True
        return code_digest(importlib.import_module("my_measure").compute)

    yield digest
    for name in ("my_measure", "measure_helper"):
        sys.modules.pop(name, None)


def build(name: str, needs: tuple[str, ...] = ()) -> Measure:
    return Measure(name, lambda artifacts: [], "Title", "Caption", needs)


def test_an_edited_measure_has_another_digest(digest_of):
    first = digest_of(value=1)
    assert digest_of(value=1) == first
    assert digest_of(value=2) != first


def test_an_edit_of_comments_alone_makes_nothing_again():
    code = "def f(x):\n    return x + 1\n\n\nTEXT = '# no comment'\n"
    commented = (
        "# Why.\ndef f(x):\n    # More.\n    return x + 1  # And here.\n\n\nTEXT = '# no comment'\n"
    )
    assert strip_comments(commented) == strip_comments(code) == code
    assert strip_comments(code.replace("no", "a")) != code


def test_an_edited_helper_changes_the_digest_of_what_imports_it(digest_of):
    assert digest_of(offset=0) != digest_of(offset=1)


def test_an_edit_of_one_measure_leaves_the_others_alone():
    measures = registry.load_measures()
    lpips = list_code_modules(measures["lpips"].compute.__module__)
    neighbors = list_code_modules(measures["neighbors"].compute.__module__)
    assert "jaxdiff.measures.lpips" in lpips
    assert "jaxdiff.measures.lpips" not in neighbors
    for modules in (lpips, neighbors):
        assert "jaxdiff.estimates" in modules, "the intervals' formulas"
    assert not {"jaxdiff.measures.registry", "jaxdiff.measures.artifacts"} & lpips


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


MEASURED = "jaxdiff.measures."


@pytest.mark.parametrize(
    ("function", "modules"),
    [
        (match_splits, {"jaxdiff.datasets.mixtures", MEASURED + "matched"}),
        (registry.load_measures()["memorization"].compute, {"jaxdiff.datasets.mixtures"}),
        (registry.load_measures()["checkpoints"].compute, {MEASURED + "matched"}),
        (inversion.write_group, {MEASURED + "flips", MEASURED + "bias_variance"}),
        (inversion.write_images, {"jaxdiff.study.inversion"}),
        (BypassedCell, {"jaxdiff.bypass.cells", MEASURED + "effective_k", "jaxdiff.unet_bypass"}),
        (text_to_image.Drawing, {"jaxdiff.bypass.text_to_image", MEASURED + "lpips"}),
        (Classifiers, {"jaxdiff.cells.classifiers", "jaxdiff.features.classifier"}),
        (train_classifiers, {MEASURED + "confusion", "jaxdiff.datasets.images"}),
        (registry.load_measures()["held_out_loss"].compute, {MEASURED + "fixed_noise"}),
        (registry.load_measures()["curvature"].compute, {"jaxdiff.reading"}),
        (registry.load_measures()["predicted_share"].compute, {"jaxdiff.samplers"}),
    ],
)
def test_an_edit_of_what_a_function_computes_with_changes_its_digest(
    monkeypatch, function, modules
):
    sources: dict[str, bytes] = {}
    monkeypatch.setattr(source_code, "_read_source", lambda name: sources.get(name, b""))
    digests = [code_digest(function)]
    for edited in modules:
        sources[edited] = b"other code"
        digests.append(code_digest(function))
    assert len(set(digests)) == 1 + len(modules)


def test_an_edit_of_shares_trains_no_classifier():
    assert MEASURED + "shares" not in list_code_modules(train_classifiers.__module__)
