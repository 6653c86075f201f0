"""Tables over a whole study."""

import pytest

from jaxdiff.estimates import Estimate
from jaxdiff.report import paper_tables, study_tables, tables
from jaxdiff.results import StudyResults, collect_sections, read_study
from tests.report.small_results import estimate, make_shares, write_study


def make_study(*cells):
    return StudyResults(settings={}, cells=cells)


def test_table_2_has_the_papers_rows_below_ours():
    rows = paper_tables.table_2(
        make_study(*make_shares("2", 0.2, 0.22), *make_shares("6", 0.1, 0.1))
    )
    assert rows[0] == {
        "quantity": "minority, %",
        "data": "80-20, N = 300",
        "training images": 20.0,
        "2": pytest.approx(21.0),
        "6": 10.0,
        "2-large": "",
        "3": "",
        "4": "",
        "5": "",
    }
    assert rows[1]["2"] == pytest.approx(79.0)
    assert rows[3]["quantity"] == "bottleneck, px"
    assert rows[4]["6"] == 28.85
    assert "2-large" in tables.to_csv(rows).splitlines()[0]


def test_one_seed_has_a_share_and_no_interval():
    rows = study_tables.over_seeds(
        make_study(*make_shares("2", 0.2), *make_shares("6", 0.1, 0.11, 0.12))
    )
    assert rows[0]["note"] == "one seed has no interval"
    assert rows[0]["mean share"] == ""
    assert rows[0]["share of each seed"] == "0.200"
    assert rows[1]["low"] < 0.11 < rows[1]["high"]


def test_comparisons_and_predictions_in_words(tmp_path):
    study = read_study(write_study(tmp_path))
    (flips,) = study_tables.flips(study)
    assert flips["bottlenecks, px"] == "4, 4"
    assert flips["majority in second, if minority in first"] == "0.50 [0.48, 0.52] of 4"
    (similarity,) = study_tables.similarity(study)
    assert similarity["same noise"] == "0.100 [0.080, 0.120]"
    assert similarity["different noises"] == "0.300 [0.280, 0.320]"
    assert study_tables.bias_variance(study)[0]["training n"] == 300
    training = study_tables.training(study)[0]
    assert training["time-blind levels"] == "1 of 2"
    assert training["last loss"] == 0.5


def test_a_predicted_share_says_how_many_noise_levels_it_rests_on(tmp_path):
    study = read_study(write_study(tmp_path))
    (section,) = (s for s in collect_sections(study.results) if s.name == "predicted_share")
    predicted, undefined, *_ = study_tables.predicted_share(study, section)
    assert predicted["predicted share"] == "0.130 [0.110, 0.150]"
    assert predicted["noise levels with rho"] == "1 of 6"
    assert predicted["note"] == "no test"
    assert undefined["predicted share"] == ""
    assert undefined["note"] == "rho is undefined"


@pytest.mark.parametrize("value", [0.5, None])
def test_formatted_estimates_are_empty_where_undefined(value):
    text = tables.format_estimate(estimate("x", value))
    assert text == ("" if value is None else "0.500 [0.480, 0.520]")
    assert tables.format_estimate(None) == ""
    assert tables.format_estimate(Estimate(0.5), digits=1) == "0.5"
