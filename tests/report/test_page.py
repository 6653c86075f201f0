"""The page follows from results that describe themselves."""

import csv
import dataclasses
import re

import pytest

from jaxdiff import files, report
from jaxdiff.report.page import MIN_CLASSIFIER_GATE
from jaxdiff.report.registry import FIGURES, SECTIONS
from tests.report.small_results import (
    ALL_MEASURES,
    LPIPS,
    NEIGHBORS,
    QUALITY,
    SHARE,
    SmallMeasure,
    estimate,
    write_sets,
    write_study,
)

NEW_MEASURE = SmallMeasure(
    "sharpness",
    [estimate("edges", 0.4), estimate("edges", 0.5, images="training")],
    title="Sharpness of edges",
    caption="Look for values below those of the training images.",
    figure={"estimate": "edges", "label": "edges", "scale": 1.0, "reference": ""},
)


def read_table(workdir, name):
    with (workdir / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def names_in(folder):
    return {path.stem for path in folder.iterdir()} if folder.exists() else set()


def draw(workdir):
    """The page without the method, which has headings and tables of its own."""
    report.write(workdir)
    return read_page(workdir)


def read_page(workdir):
    """What was drawn there, without the method."""
    return (workdir / "report.html").read_text().partition('id="method">')[0]


def anchors_of(page):
    """Targets of the contents but for the method, and ids outside the drawings."""
    without_drawings = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    ids = re.findall(r'id="([^"]+)"', without_drawings)
    contents = page[page.index("<nav") : page.index("</nav>")]
    links = re.findall(r'<a href="#([^"]+)"', contents)
    links.remove("method")
    return links, ids


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The folder of a complete study, with its report."""
    workdir = write_study(tmp_path_factory.mktemp("complete"))
    report.write(workdir)
    return workdir


def test_a_new_measure_is_on_the_page_by_itself(tmp_path):
    workdir = write_study(tmp_path, [SHARE, NEW_MEASURE])
    page = report.write(workdir).read_text()
    assert '<h3 id="measure-sharpness">Sharpness of edges</h3>' in page
    assert '<a href="#measure-sharpness">Sharpness of edges</a>' in page
    assert "Look for values below those of the training images." in page
    assert (workdir / "figures/sharpness.svg").exists()
    rows = read_table(workdir, "sharpness")
    assert [row["cell"] for row in rows] == ["2-s0", "2-s0", "3-s0", "3-s0"]
    assert [row["value"] for row in rows[:2]] == ["0.4", "0.5"]
    assert [row["images"] for row in rows[:2]] == ["", "training"]


def test_the_first_screen_has_the_claim_its_gate_and_the_main_figures(complete):
    page = read_page(complete)
    glance = page[page.index('id="glance"') : page.index("</section>")]
    assert "<dt>Claim</dt><dd>Model 3 draws fewer of the minority than model 2." in glance
    assert '<span class="verdict">Undecided</span>' in glance
    assert "2: 0.90, 3: 0.90" in glance
    shown = re.findall(r'<h3 id="([^"]+)"', glance)
    assert shown == ["measure-share", "measure-lpips", "figure-samples"]
    assert all(page.count(f'<h3 id="{anchor}"') == 1 for anchor in shown)


def test_points_say_their_numbers(tmp_path):
    page = draw(write_study(tmp_path, [SHARE]))
    assert re.findall(r"<title>([^<]+)</title></use>", page) == [
        "2-s0: 15 [13, 17]",
        "3-s0: 15 [13, 17]",
        "seed 0: 0.000",  # of the contrast
    ]


def test_every_table_has_its_file_and_can_be_sorted(complete):
    page = read_page(complete)
    files_linked = re.findall(r'href="(tables/[^"]+)" download', page)
    assert len(files_linked) == page.count("<table>")
    assert all((complete / path).exists() for path in files_linked)
    heads = re.findall(r"<th>(.*?)</th>", page)
    assert all(head.startswith('<button type="button">') for head in heads)


def test_a_caption_shows_its_first_sentence(tmp_path):
    caption = "Look at this. Then read all of this."
    page = draw(write_study(tmp_path, [dataclasses.replace(NEW_MEASURE, caption=caption)]))
    assert '<div class="caption">Look at this. <details><summary>more</summary>' in page
    assert "Then read all of this.</details>" in page


def test_a_topic_of_its_own_comes_last(tmp_path):
    workdir = write_study(tmp_path, [dataclasses.replace(NEW_MEASURE, topic="edges"), QUALITY])
    page = draw(workdir)
    links, _ = anchors_of(page)
    assert links[-2:] == ["measure-sharpness", "settings"]
    assert "<h2>Edges</h2>" in page


@pytest.mark.parametrize("name", ["training", "gate"])
def test_a_measure_overwrites_no_registered_file(tmp_path, name):
    measure = dataclasses.replace(NEW_MEASURE, name=name)
    workdir = write_study(tmp_path, [QUALITY, measure])
    report.write(workdir)
    assert "parameters" in read_table(workdir, "training")[0]
    expected = "training_measure" if name == "training" else "gate"
    assert read_table(workdir, expected)[0]["estimate"] == "edges"
    expected = "gate_measure" if name == "gate" else "training"
    assert {"gate", expected} <= names_in(workdir / "figures")


def test_markup_in_a_caption_is_text(tmp_path):
    measure = dataclasses.replace(NEW_MEASURE, caption="<script>alert(1)</script> {n} {")
    page = report.write(write_study(tmp_path, [measure])).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {n} {" in page


def test_a_complete_study_has_every_registered_part(complete):
    measured = {measure.table or measure.name for measure in ALL_MEASURES}
    drawn = {measure.name for measure in ALL_MEASURES if measure.figure}
    # These need several seeds, or checkpoints with samples.
    of_seeds = {"amplification_law", "lpips_at_equal_kid"}
    assert names_in(complete / "tables") == (set(SECTIONS) - of_seeds) | measured
    of_more = {"seed_lines", "sensitivity", "share_along_training"}
    assert names_in(complete / "figures") == (set(FIGURES) - {"sets"} - of_more) | drawn


@pytest.mark.slow
@pytest.mark.parametrize("count", range(len(ALL_MEASURES) + 1))
def test_a_part_is_drawn_or_absent(tmp_path, count):
    """Whatever was measured: no link without a target, no table or figure without its file."""
    workdir = write_study(tmp_path, ALL_MEASURES[:count], is_complete=False)
    page = draw(workdir)
    links, ids = anchors_of(page)
    assert links
    assert links == ids
    assert len(set(ids)) == len(ids)
    tables = names_in(workdir / "tables")
    figures = names_in(workdir / "figures")
    assert {link.removeprefix("table-") for link in links if link.startswith("table-")} <= tables
    assert {f.removeprefix("figure-") for f in links if f.startswith("figure-")} <= figures
    assert page.count("<table>") == len(tables)
    assert page.count("<svg ") == len(figures)
    assert not tables & {"flips", "similarity", "bias_variance", "smoothness", "training"}
    assert "sets" in figures


@pytest.mark.slow
def test_the_same_results_give_the_same_page(complete):
    first = (complete / "report.html").read_bytes()
    assert report.write(complete).read_bytes() == first


def test_sets_have_no_depth_and_no_training(tmp_path):
    workdir = write_sets(tmp_path)
    page = draw(workdir)
    assert "2 sets of images of 8 x 8 px against" in page
    assert "Known confounds" not in page
    assert names_in(workdir / "tables") == {"lpips", "neighbors", "table3", "table3_mean"}
    assert names_in(workdir / "figures") == {"lpips", "sets"}
    rows = read_table(workdir, "lpips")
    assert list(rows[0]) == ["set", "estimate", "value", "low", "high", "n", "interval"]
    assert [row["set"] for row in rows] == ["theirs", "theirs", "ours", "ours"]
    names = [row["images of"] for row in read_table(workdir, "table3")]
    assert names == ["theirs", "ours", "held-out images"]
    links, ids = anchors_of(page)
    assert links == ids


def test_a_gate_that_is_not_reached_is_said_first(tmp_path):
    estimates = [estimate("gate", 0.5), estimate("gate_random_weights", 0.0625, n=64)]
    poor = dataclasses.replace(QUALITY, estimates=estimates)
    workdir = write_study(tmp_path, [poor])
    confusion = files.read_json(workdir / "shared/confusion.json")
    confusion["gate"]["held_out"] = MIN_CLASSIFIER_GATE - 0.05
    files.write_json(workdir / "shared/confusion.json", confusion)
    page = report.write(workdir).read_text()
    assert "The quality gate is below 0.8 for 2-s0, 3-s0" in page
    assert "The classifier recognizes only 90 % of the held-out images" in page
    assert "Samples of random weights pass the quality gate for 2-s0, 3-s0" in page


def test_a_gate_that_random_weights_fail_is_not_mentioned(tmp_path):
    estimates = [estimate("gate", 0.9), estimate("gate_random_weights", 0.047, n=64)]
    workdir = write_study(tmp_path, [dataclasses.replace(QUALITY, estimates=estimates)])
    assert "Samples of random weights" not in report.write(workdir).read_text()


def test_the_page_says_how_exact_the_measures_are(tmp_path):
    workdir = write_sets(tmp_path)
    assert "Measured at" not in draw(workdir), "older results do not say"
    path = workdir / "sets/ours/result.json"
    files.write_json(path, files.read_json(path) | {"matmul_precision": "highest"})
    assert "Measured at float32 (HIGHEST), except for theirs," in draw(workdir)
    path = workdir / "sets/theirs/result.json"
    files.write_json(path, files.read_json(path) | {"matmul_precision": "highest"})
    assert "Measured at float32 (HIGHEST):" in draw(workdir)


def test_a_cell_of_older_code_gets_a_sentence(tmp_path):
    workdir = write_study(tmp_path, [LPIPS, NEIGHBORS])
    path = workdir / "cells/3-s0/measures/lpips.json"
    files.write_json(path, {"lpips": [entry.to_json() for entry in LPIPS.estimates]})
    sentence = "3-s0 must describe 'lpips' .* run the command that wrote it again: a sweep keeps"
    with pytest.raises(ValueError, match=sentence):
        report.write(workdir)
    assert not (workdir / "tables").exists()
    assert not (workdir / "figures").exists()


@pytest.mark.parametrize("name", ["result.json", "measures/lpips.json", "samples.npz", "run.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    workdir = write_study(tmp_path, [LPIPS])
    path = workdir / "cells/2-s0" / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=f"2-s0/{name}"):
        report.write(workdir)


def test_without_a_finished_cell_there_is_no_report(tmp_path):
    (tmp_path / "cells/2-s0").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no finished cell; run python"):
        report.write(tmp_path)
