"""Tables over a whole study."""

import csv
import dataclasses
import io

import pytest
from scipy import stats

from jaxdiff import results
from jaxdiff.estimates import Estimate
from jaxdiff.report import conclusions, paper_tables, study_tables, tables
from jaxdiff.results import StudyResults, collect_sections, read_study
from tests.report.small_results import (
    estimate,
    make_cell,
    make_info,
    make_losses,
    make_shares,
    write_study,
)


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


def test_the_measured_ratio_of_groups_is_that_of_their_claim():
    """The sums of these shares are no exact numbers."""
    shares = (0.7, 0.1, 0.1, 0.1)
    cells = [
        dataclasses.replace(
            make_cell(
                make_info(model, seed),
                share=[estimate("share", 0.2)],
                quality=[estimate("gate", 0.9)],
                loss_by_class=[
                    estimate("lost", value, role=role)
                    for role, value in (("majority", 0.1), ("minority", 0.2))
                ],
            ),
            config={"proportions": list(shares)},
        )
        for model in ("2", "6")
        for seed in (0, 1)
    ]
    planned = {"seeds": [0, 1], "models": ["2", "6"], "proportions": [shares], "n": [300]}
    study = StudyResults(settings={"planned": planned}, cells=cells)
    row = conclusions.verdicts(study)[0]
    assert (row["measured R, shallow"], row["measured R, deep"]) == ("2.00", "2.00")


def make_neighbors(model, seed, samples, held_out=0.12):
    estimates = [
        estimate("kth", value, images=images, space="pixels", k=k)
        for k in (1, 5)
        for images, value in (("samples", samples), ("held_out", held_out))
    ]
    return make_cell(make_info(model, seed), neighbors=estimates)


def test_table_3_has_the_interval_of_the_nearest_neighbor():
    """Over images where there is one seed; over seeds the t interval of two values."""
    cells = [make_neighbors("2", 0, 0.10), make_neighbors("3", 0, 0.11)]
    rows = paper_tables.table_3(make_study(*cells))
    assert list(rows[0])[3:] == [
        "pixels, RMS distance, %, k = 1",
        "pixels, k = 1, 95 % interval",
        "pixels, RMS distance, %, k = 5",
    ]
    intervals = {row["images of"]: row["pixels, k = 1, 95 % interval"] for row in rows}
    assert intervals == {
        "2": "8.00 to 12.00",
        "3": "9.00 to 13.00",
        "held-out images": "10.00 to 14.00",
    }
    more = [make_neighbors("2", 1, 0.12, 0.14), make_neighbors("3", 1, 0.11, 0.14)]
    rows = paper_tables.table_3(make_study(*cells, *more))
    half = stats.t.ppf(0.975, 1) * 1.0
    assert rows[0]["pixels, k = 1, 95 % interval"] == f"{11 - half:.2f} to {11 + half:.2f}"
    assert rows[2]["pixels, k = 1, 95 % interval"] == f"{13 - half:.2f} to {13 + half:.2f}"


def test_losses_of_models_are_compared_in_pairs(tmp_path):
    study = read_study(write_study(tmp_path, models=("2", "3", "4")))
    rows = study_tables.held_out_loss(study)
    assert [(row["from"], row["to"]) for row in rows] == [("2-s0", "3-s0"), ("2-s0", "4-s0")]
    shallow, _, deep = (make_losses(depth)["unseen"][-1].mean(axis=0) for depth in (2, 3, 4))
    test = stats.ttest_rel(deep, shallow)
    interval = test.confidence_interval()
    row = rows[1]
    assert row["difference"] == pytest.approx((deep - shallow).mean(), rel=1e-5)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-4)
    assert row["high"] < 0, "undecided by the two losses, whose intervals overlap"
    assert row["loss of to"].startswith(f"{deep.mean():.5f} [")
    assert row["images"] == 40
    assert row["depths"] == "2, 4"


def test_other_images_are_no_pairs(tmp_path):
    workdir = write_study(tmp_path)
    results.write_npz(workdir / "cells/3-s0/losses.npz", **make_losses(3, num_images=30))
    assert study_tables.held_out_loss(read_study(workdir)) == []
    (workdir / "cells/3-s0/losses.npz").unlink()
    assert study_tables.held_out_loss(read_study(workdir)) == []


def test_one_seed_has_a_share_and_no_interval():
    rows = conclusions.over_seeds(
        make_study(*make_shares("2", 0.2), *make_shares("6", 0.1, 0.11, 0.12))
    )
    assert rows[0]["note"] == "too few seeds for an interval"
    assert rows[0]["mean share"] == pytest.approx(0.2)
    assert rows[0]["share of each seed"] == "0.200"
    assert rows[1]["low"] < 0.11 < rows[1]["high"]


def test_comparisons_and_predictions_in_words(tmp_path):
    study = read_study(write_study(tmp_path))
    (flips,) = study_tables.flips(study)
    assert flips["bottlenecks, px"] == "4, 4"
    assert flips["changes"] == "depth and width"
    assert flips["noise bank"] == "the seed's own"
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


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://x","y")',
        "+cmd|' /C calc'!A0",
        "-2+3",
        "-",
        "@SUM(A1)",
        " =1",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1+1",
        "-1 [=1, 2]",
    ],
)
def test_no_cell_and_no_header_is_a_formula(text):
    rows = [{"class": text, text: 1}, {"class": f"a{text}", text: text}]
    header, first, second = csv.reader(io.StringIO(tables.to_csv(rows), newline=""))
    text = text.replace("\r", " ")
    assert header == ["class", f"'{text}"]
    assert first == [f"'{text}", "1"]
    assert second == [f"a{text}", f"'{text}"]


@pytest.mark.parametrize(
    "number",
    [-1, -0.5, "-0.5", "+3", "-1e-05", "-.5", "-inf", "-0.133 [-0.180, 0.097]", float("-inf"), 7],
)
def test_numbers_stay_numbers(number):
    assert tables.to_csv([{"value": number}]) in (f"value\n{number}\n", f'value\n"{number}"\n')
