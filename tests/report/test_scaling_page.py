"""scaling.html and what lies beside it."""

import csv
import json
import re

import pytest
from etils import epath

from jaxdiff.report import scaling_page
from jaxdiff.scaling.fits import fit_study
from jaxdiff.scaling.points import LossPoint
from tests.scaling.simulated_points import simulate_points
from tests.scaling.test_fits import build_cells
from tests.scaling.test_memorization_time import median_end, simulate_times

ALL_FIGURES = {figure.name for figure in scaling_page.FIGURES}


def figures_in(folder):
    return {path.stem for path in (folder / "figures").iterdir()}


def read_table(folder, name):
    with (folder / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = epath.Path(tmp_path_factory.mktemp("scaling"))
    points = simulate_points(0.003, depths=(2, 4), sizes=7, lengths=6)
    times = tuple(simulate_times(depths=(2, 4), end=median_end(0.2)))
    fits = fit_study(build_cells(points, times=times))
    assert scaling_page.write(fits, out) == out / "scaling.html"
    return out, fits


def test_a_whole_study_has_every_figure(written):
    out, fits = written
    page = (out / "scaling.html").read_text()
    assert figures_in(out) == ALL_FIGURES
    assert page.count("<svg") == len(ALL_FIGURES)
    assert "<h1>made up</h1>" in page
    for name in ALL_FIGURES:
        assert f'id="figure-{name}"' in page
        assert "made up" in (out / "figures" / f"{name}.svg").read_text(), "the study's name"
    assert "<h2>Known confounds" not in page
    for link in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{link}"' in page
    assert all(limit in page for limit in fits.limits)


def test_numbers_are_in_json_and_in_tables(written):
    out, fits = written
    content = json.loads((out / "scaling.json").read_text())
    numbers = [number for group in fits.numbers().values() for number in group]
    assert sum(map(len, content["fits"].values())) == len(numbers)
    rows = [*read_table(out, "fits"), *read_table(out, "best_sizes")]
    assert sorted(row["number"] for row in rows) == sorted(number.name for number in numbers)
    assert all(row["value"] or row["why"] for row in rows)
    points = read_table(out, "points")
    assert len(points) == len(fits.cells.points)
    for row in points:
        assert float(row["law"]) == pytest.approx(float(row["loss"]), rel=0.02)


def test_equal_studies_write_equal_bytes(written, tmp_path):
    out, fits = written
    scaling_page.write(fits, tmp_path)
    for name in ("scaling.json", "scaling.html", "figures/residuals.svg"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    points = [LossPoint(0.5, 1e6, 3200.0, 480.0), LossPoint(0.4, 2e6, 3200.0, 480.0)]
    scaling_page.write(fit_study(build_cells(points)), tmp_path)
    assert figures_in(epath.Path(tmp_path)) == {"loss_against_images"}
    (law, *_) = read_table(epath.Path(tmp_path), "fits")
    assert law["value"] == ""
    assert "the law needs 3 of each" in law["why"]
