import numpy as np
import pytest

from jaxdiff.analysis import claims as verdicts
from jaxdiff.report import tables
from jaxdiff.results import CellResult


def cell(model, seed, share, trained=0.2, n=1000, gate=0.95):
    """A finished cell with this share, read without doubt."""
    entry = {
        "value": share,
        "low": share - 0.02,
        "high": share + 0.02,
        "n": n,
        "interval": "",
        "trained": trained,
    }
    own = {"name": f"{model}-s{seed}", "model": model, "depth": int(model), "parameters": 1, "seed": seed, "n": 300,
           "proportions": [1 - trained, trained], "majority": 6, "minority": 9}  # fmt: skip
    quality = [
        {
            "name": "gate",
            "value": gate,
            "low": gate - 0.01,
            "high": gate + 0.01,
            "n": n,
            "interval": "",
        }
    ]
    bounds = entry | {"name": "bounds", "low": share - 0.005, "high": share + 0.005}
    share_entries = [{"name": name} | entry for name in ("classified", "corrected_many")] + [bounds]
    none = np.zeros((0, 8, 8, 1), np.uint8)
    labels = np.zeros(0, int)
    return CellResult(own["name"], {"cell": own, "quality": quality, "share": share_entries}, {}, {}, [], none, labels,
                      none, labels, none[:, None])  # fmt: skip


def claim(cells, test_images=1000, which=0):
    return verdicts.claims(cells, {}, test_images)[which]


def seeds(shallow, deep):
    return [cell("2", s, x) for s, x in enumerate(shallow)] + [
        cell("6", s, x) for s, x in enumerate(deep)
    ]


def test_the_rules():
    fallen = seeds([0.2, 0.21, 0.19, 0.2], [0.1, 0.11, 0.1, 0.09])
    assert claim(fallen)["verdict"] == "supported"
    assert claim(fallen)["high"] < 0
    assert (
        claim(seeds([0.2, 0.21, 0.19, 0.2], [0.2, 0.215, 0.19, 0.2]))["verdict"] == "contradicted"
    )
    assert (
        claim(seeds([0.2, 0.21, 0.19, 0.2], [0.18, 0.189, 0.172, 0.181]))["verdict"]
        == "smaller than half the paper's"
    )
    assert claim(seeds([0.2, 0.3], [0.1, 0.25]))["verdict"] == "undecided"
    assert claim(fallen, which=1)["verdict"] == "supported", "the shallowest model draws 20 %"


def test_what_leaves_a_claim_undecided():
    fallen = seeds([0.2, 0.21, 0.19, 0.2], [0.1, 0.11, 0.1, 0.09])
    few = claim(fallen, test_images=50)
    assert (few["verdict"], few["why"]) == (
        "undecided",
        "the classifier was tested on 50 images a class; 950 are wanted",
    )
    one = claim([cell("2", 0, 0.2), cell("6", 0, 0.1)])
    assert (one["verdict"], one["why"]) == ("undecided", "one seed has no interval between seeds")
    wide = seeds([0.2, 0.21, 0.19, 0.2], [0.1, 0.11, 0.1, 0.09])
    wide[-1].result["share"][2]["high"] = 0.3
    assert claim(wide)["verdict"] == "undecided"
    assert "bounds" in claim(wide)["why"]
    unlike = [cell(c.own["model"], c.own["seed"], c.result["share"][0]["value"], gate=0.95 if c.own["model"] == "2" else 0.4)
              for c in fallen]  # fmt: skip
    assert (claim(unlike)["verdict"], claim(unlike)["why"][:35]) == (
        "undecided",
        "the models' shares of neither class",
    )


def test_controls_do_not_change_the_primary_claim():
    cells = seeds([0.2, 0.21, 0.19, 0.2], [0.1, 0.11, 0.1, 0.09]) + [
        cell("7", s, 0.2) for s in range(4)
    ]
    study = {"models": {"2": "2", "6": "6", "7": {"row": "6"}}}
    assert (
        verdicts.claims(cells, study, 1000)[0]["claim"]
        == "model 6 draws fewer of the minority than model 2"
    )
    assert verdicts.claims(cells, study | {"primary": ["2", "7"]}, 1000)[0]["claim"].startswith(
        "model 7"
    )


def test_a_verdict_must_hold_after_holm():
    """One p under .05 among four mixes is not enough."""
    clear = seeds([0.2, 0.21, 0.19], [0.12, 0.16, 0.13])
    assert claim(clear)["verdict"] == "supported"
    mixes = [cell(c.own["model"], c.own["seed"], c.result["share"][0]["value"], trained=t)
             for t in (0.2, 0.21, 0.22, 0.23) for c in clear]  # fmt: skip
    assert claim(mixes, which=-2)["verdict"] == "undecided"
    assert "Holm" in claim(mixes, which=-2)["why"]


def test_p_values_are_adjusted_for_the_number_of_claims():
    one = seeds([0.2, 0.21, 0.19], [0.15, 0.17, 0.14])
    other = [
        cell(c.own["model"], c.own["seed"], c.result["share"][0]["value"], trained=0.3) for c in one
    ]
    assert claim(one + other)["p"] == pytest.approx(2 * claim(one)["p"])


def test_over_seeds_says_so_where_there_is_one():
    rows = verdicts.over_seeds(
        [cell("2", 0, 0.2), *(cell("6", s, 0.1 + 0.01 * s) for s in range(3))]
    )
    assert rows[0]["over seeds"] == "one seed has no interval"
    assert rows[1]["low"] < 0.11 < rows[1]["high"]


def test_table_2_stands_beside_the_papers():
    rows = tables.table_2(seeds([0.2, 0.22], [0.1, 0.1]))
    assert rows[0] == {"": "minority, %", "data": "80-20, N = 300", "trained": 20.0, "2": pytest.approx(21.0), "6": 10.0,
                       "2-large": "", "3": "", "4": "", "5": ""}  # fmt: skip
    assert rows[3][""] == "bottleneck, px"
    assert rows[4]["6"] == 28.85
    assert "2-large" in tables.to_csv(rows).splitlines()[0]
