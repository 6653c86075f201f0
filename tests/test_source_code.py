"""What counts as the code of a result: all that its function imports, but for a list."""

import ast
import importlib
import importlib.util
import sys

import pytest

from jaxdiff import source_code
from jaxdiff.bypass import text_to_image
from jaxdiff.bypass.cells import BypassedCell
from jaxdiff.cells.classifiers import Classifiers, train_classifiers
from jaxdiff.cells.denoising import denoised_confusion
from jaxdiff.cells.selections import match_unseen
from jaxdiff.landscape.theorem_run import run_theorem1
from jaxdiff.measures import registry
from jaxdiff.sampling import Sampler
from jaxdiff.source_code import EXCLUDED_MODULES, code_digest, find_modules, strip_comments
from jaxdiff.study import inversion
from jaxdiff.study.sample_stage import write_samples

MEASURE = """
from jaxdiff.estimates import Estimate
{imports}


def compute(artifacts):
    return [Estimate({value} + {offset})]
"""
# Ways to import what HELPER defines.
IMPORTS = {
    "a function": ("from measure_helper import get_offset", "get_offset()"),
    "a constant": ("from measure_helper import OFFSET", "OFFSET"),
    "a module": ("import measure_helper", "measure_helper.OFFSET"),
    "a package": ("from helper_package.offsets import OFFSET", "OFFSET"),
    "another name": ("import measure_helper as helper", "helper.OFFSET"),
    "through another module": ("from measure_offsets import OFFSETS", "OFFSETS[0]"),
}
HELPER = "OFFSET = {offset}\n\n\ndef get_offset():\n    return OFFSET\n"
WRITTEN = (
    "my_measure",
    "measure_helper",
    "measure_offsets",
    "helper_package.offsets",
    "helper_package",
)
BETWEEN = "from measure_helper import OFFSET\n\nOFFSETS = (OFFSET,)\n"


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """The digest of a measure in a file of its own, which imports a helper beside it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digest(value: int = 1, offset: int = 0, imports: str = "a function") -> str:
        statement, expression = IMPORTS[imports]
        measure = MEASURE.format(imports=statement, value=value, offset=expression)
        (tmp_path / "my_measure.py").write_text(measure)
        (tmp_path / "measure_helper.py").write_text(HELPER.format(offset=offset))
        (tmp_path / "measure_offsets.py").write_text(BETWEEN)
        package = tmp_path / "helper_package"
        package.mkdir(exist_ok=True)
        (package / "offsets.py").write_text(HELPER.format(offset=offset))
        return digest_from_disk("my_measure")

    yield digest
    clear_caches()
    forget(*WRITTEN)


def digest_from_disk(name: str) -> str:
    """The digest of a module's function `compute`, read from disk."""
    clear_caches()
    forget(*WRITTEN)
    importlib.invalidate_caches()
    return code_digest(importlib.import_module(name).compute)


def clear_caches() -> None:
    for function in (find_modules, source_code._read_imports, source_code._read_code):
        function.cache_clear()


def forget(*names: str) -> None:
    for name in names:
        sys.modules.pop(name, None)


def test_an_edited_measure_has_another_digest(digest_of):
    first = digest_of(value=1)
    assert digest_of(value=1) == first
    assert digest_of(value=2) != first


@pytest.mark.parametrize("imports", IMPORTS)
def test_an_edited_helper_changes_the_digest_of_what_imports_it(digest_of, imports):
    assert digest_of(offset=0, imports=imports) != digest_of(offset=1, imports=imports)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("in_init", [False, True])
def test_a_package_of_a_user_counts_whole(tmp_path, monkeypatch, in_init, relative):
    """Whether the measure is in the package's __init__ or in a module of it."""
    monkeypatch.syspath_prepend(tmp_path)
    package = f"user_package_{in_init}_{relative}"
    (tmp_path / package).mkdir()
    source = "." if relative else f"{package}."
    measure = f"from {source}offsets import OFFSET\n\n\ndef compute(x):\n    return OFFSET\n"
    files = {"__init__.py": "", "measure.py": "", "offsets.py": "OFFSET = 1\n"}
    files["__init__.py" if in_init else "measure.py"] = measure
    for name, text in files.items():
        (tmp_path / package / name).write_text(text)
    function = importlib.import_module(package if in_init else f"{package}.measure").compute
    digest = code_digest(function)
    clear_caches()
    (tmp_path / package / "offsets.py").write_text("OFFSET = 2\n")
    assert code_digest(function) != digest


def test_an_edit_of_comments_and_docstrings_alone_makes_nothing_again():
    code = "def f(x):\n    return x + 1\n\n\ndef g(x): ...\n\n\nTEXT = '# no comment'\n"
    commented = (
        '# Why.\ndef f(x):\n    """One.\n\n    More."""\n    # More.\n'
        "    return x + 1  # And here.\n\n\ndef g(x): ...\n\n\nTEXT = '# no comment'\n"
    )
    assert strip_comments(commented) == strip_comments(code) == code
    assert strip_comments(code.replace("no", "a")) != code


@pytest.mark.parametrize(
    "code",
    [
        'def f(x): "doc"; return x + 1\n',
        '"""Doc."""; OFFSET = 1\n',
        'x = (\n    # é\n    "no docstring"\n)\n',
        'f(\n    "no docstring",  # a comment\n)\n',
    ],
)
def test_code_beside_a_string_counts(code):
    assert ast.unparse(ast.parse(strip_comments(code))) == ast.unparse(ast.parse(code))


@pytest.mark.parametrize("statement", ["from jaxdiff import Schedule", "import jaxdiff as jd"])
def test_the_public_names_of_jaxdiff_count(tmp_path, monkeypatch, edit_code, statement):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"public_names_{len(statement)}"
    (tmp_path / f"{name}.py").write_text(f"{statement}\n\n\ndef compute(x):\n    return x\n")
    function = importlib.import_module(name).compute
    before = code_digest(function)
    edit_code("jaxdiff.diffusion")
    assert code_digest(function) != before


def test_an_edit_of_one_measure_leaves_the_others_alone():
    measures = registry.load_measures()
    lpips = find_modules(measures["lpips"].compute.__module__)
    neighbors = find_modules(measures["neighbors"].compute.__module__)
    assert "jaxdiff.measures.lpips" in lpips
    assert "jaxdiff.measures.lpips" not in neighbors
    for modules in (lpips, neighbors):
        assert "jaxdiff.estimates" in modules, "the intervals' formulas"
        assert not EXCLUDED_MODULES & modules.keys()


MEASURED = "jaxdiff.measures."


@pytest.mark.parametrize(
    ("function", "modules"),
    [
        (match_unseen, {"jaxdiff.datasets.mixtures", MEASURED + "matched", MEASURED + "roles"}),
        (denoised_confusion, {"jaxdiff.sampling", MEASURED + "confusion"}),
        (run_theorem1, {"jaxdiff.landscape.theorem_run", "jaxdiff.landscape.laboratory"}),
        (write_samples, {"jaxdiff.study.sample_stage", "jaxdiff.cell_sampling"}),
        (registry.load_measures()["memorization"].compute, {"jaxdiff.datasets.mixtures"}),
        (registry.load_measures()["checkpoints"].compute, {MEASURED + "matched"}),
        (registry.load_measures()["share"].compute, {MEASURED + "roles", MEASURED + "predictions"}),
        (inversion.write_group, {MEASURED + "flips", MEASURED + "bias_variance"}),
        (inversion.write_images, {"jaxdiff.study.inversion"}),
        (BypassedCell, {"jaxdiff.bypass.cells", MEASURED + "effective_k", "jaxdiff.unet_bypass"}),
        (
            text_to_image.Drawing,
            {
                "jaxdiff.bypass.text_to_image",
                "jaxdiff.diffusers_scheduler",
                "jaxdiff.multistep",
                MEASURED + "lpips",
            },
        ),
        (Classifiers, {"jaxdiff.cells.classifiers", "jaxdiff.features.classifier"}),
        (train_classifiers, {MEASURED + "confusion", "jaxdiff.datasets.images"}),
        (train_classifiers, {"jaxdiff.layers", "jaxdiff.datasets.batches"}),
        (registry.load_measures()["lpips"].compute, {"jaxdiff.ops.convolution", "jaxdiff.weights"}),
        (registry.load_measures()["held_out_loss"].compute, {MEASURED + "fixed_noise"}),
        (registry.load_measures()["curvature"].compute, {"jaxdiff.reading"}),
        (registry.load_measures()["predicted_share"].compute, {"jaxdiff.samplers"}),
        (Sampler, {"jaxdiff.sampling_programs", "jaxdiff.precision", "jaxdiff.noise_bank"}),
    ],
)
def test_an_edit_of_what_a_function_computes_with_changes_its_digest(edit_code, function, modules):
    digests = [code_digest(function)]
    for module in modules:
        edit_code(module)
        digests.append(code_digest(function))
    assert len(set(digests)) == 1 + len(modules)


def test_an_edit_of_shares_trains_no_classifier():
    assert MEASURED + "shares" not in find_modules(train_classifiers.__module__)


@pytest.mark.parametrize("name", sorted(EXCLUDED_MODULES))
def test_modules_that_are_left_out_exist(name):
    assert importlib.util.find_spec(name) is not None
