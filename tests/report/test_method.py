"""The method: a heading for everything that is registered, and links that lead to it."""

import re
import tomllib
from pathlib import Path

import pytest
from etils import epath

from jaxdiff import report
from jaxdiff.measures.registry import load_measures
from jaxdiff.report import method, page
from jaxdiff.report.registry import FIGURES, SECTIONS
from tests.report.small_results import ALL_MEASURES, SmallMeasure, estimate, write_study

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/method.md").read_text()
THEIR_OWN = SmallMeasure("their_own", [estimate("edges", 0.4)])


def targets_in(html):
    return re.findall(r'href="([^"]+)"', html)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    workdir = write_study(tmp_path_factory.mktemp("study"), [*ALL_MEASURES, THEIR_OWN])
    return report.write(workdir).read_text()


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Bias and variance", "bias-and-variance"),
        ("Figure 2C", "figure-2c"),
        ("Mean-blind output", "mean-blind-output"),
        ("What is it, and why?", "what-is-it-and-why"),
        ("mean_eps_slope: ε", "mean_eps_slope-ε"),
    ],
)
def test_anchors_are_those_of_github(heading, anchor):
    assert method.slugify(heading) == anchor


def test_everything_registered_has_a_heading():
    """A measure's is its name; what has another one declares it."""
    registered = [(name, "") for name in load_measures()]
    for item in (*SECTIONS.values(), *FIGURES.values()):
        registered.append((item.name, item.method))
    explained = method.render(TEXT)
    missing = [name for name, anchor in registered if not explained.find_anchor(name, anchor)]
    assert not missing, f"docs/method.md needs headings for {', '.join(missing)}"


def test_headings_differ_and_links_lead_to_them():
    explained = method.render(TEXT)
    headings = re.findall(r"^##+ (.+)$", TEXT, re.MULTILINE)
    assert explained.anchors == {method.slugify(heading) for heading in headings}
    assert len(explained.anchors) == len(headings)
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        # The page is one file: a path in the repository leads nowhere from it.
        assert target.startswith(("#", "https://"))
        assert not target.startswith("#") or target[1:] in explained.anchors


def test_markdown_is_rendered_for_the_page():
    text = (
        "# Title\n\n## A part\n\n### One <b>\n\nSee [it](#a-part).\n\n| a |\n|---|\n| `x \\| y` |\n"
    )
    html = method.render(text).html
    assert "Title" not in html
    assert '<h3 id="method-a-part">A part</h3>' in html
    assert '<h4 id="method-one-b">One &lt;b&gt;</h4>' in html
    assert '<a href="#method-a-part">it</a>' in html
    assert '<div class="wide"><table>' in html
    assert "<code>x | y</code>" in html


@pytest.mark.slow
def test_every_block_of_the_page_links_to_its_method(drawn):
    ids = set(re.findall(r'id="([^"]+)"', drawn))
    internal = [target for target in targets_in(drawn) if target.startswith("#")]
    assert {target[1:] for target in internal} <= ids
    blocks = re.split(r'(?=<h3 id="(?:figure|table|measure)-)', drawn.partition('id="method"')[0])
    for block in blocks[1:]:
        linked = re.findall(r'class="about" href="#method-([^"]+)"', block)
        assert len(linked) == (0 if "measure-their_own" in block else 1), block[:80]
    assert 'href="#method-figure-2c" aria-label="method: Memorization against' in drawn


@pytest.mark.slow
def test_without_the_file_the_page_has_no_links(tmp_path, monkeypatch):
    nowhere = (epath.Path(tmp_path) / "method.md",)
    monkeypatch.setattr(page, "load_method", lambda: method.load_method(nowhere))
    html = report.write(write_study(tmp_path / "study")).read_text()
    assert "#method" not in html
    assert 'id="method"' not in html


def test_a_wheel_has_the_file_where_it_is_looked_for():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    ((source, target),) = included.items()
    assert [Path(path) for path in method.PATHS] == [ROOT / target, ROOT / source]
