"""experiments.theorems, as users call it."""

import json

import pytest
from scipy.special import expit, logit

from jaxdiff.landscape import laboratory as theorems
from tests.experiments.test_sweep import command, finished

SMALL = ("--n=20", "--samples=20", "--grids=10")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("theorems")
    return workdir, finished(command("theorems", "--workdir", workdir, *SMALL))


@pytest.mark.slow
def test_everything_is_written(made):
    tmp_path, out = made
    assert "at rho = 1 the trained share is within" in out
    for name in (
        "figures/figure3.svg",
        "figures/share_against_rho.svg",
        "figures/end_points.svg",
        "tables/law.csv",
    ):
        assert (tmp_path / name).exists(), name
    found = json.loads((tmp_path / "theorems.json").read_text())
    assert {row["rho"] for row in found["smoothed"]} == {1, 1.5, 2, 3, 4, 6, 8}
    assert {row["case"] for row in found["laboratory"]} >= {"scaling by 2", "tanh of a parabola"}


@pytest.mark.slow
def test_what_is_done_is_kept_and_what_is_lost_is_made_again(made):
    tmp_path, _ = made
    before = (tmp_path / "theorems.json").read_bytes()
    (tmp_path / "parts" / "grids.json").unlink()
    again = finished(command("theorems", "--workdir", tmp_path, *SMALL))
    assert "grids: 0/5" in again
    assert "retrieval: 0/" not in again
    assert (tmp_path / "theorems.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--n=2000",), "1800 images of class 6 were asked for and 240 can be had"),
        (("--classes=6",), "--classes is 6; two different classes are expected, as 6,9"),
        (("--source=nothing",), "dataset 'nothing' is not known"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, tmp_path):
    process = command("theorems", "--workdir", tmp_path / "run", *flags)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(err.strip().splitlines()) == 1
    assert sentence in err
    assert not (tmp_path / "run").exists()


def test_the_law_is_recovered():
    """Planted: the first class's odds to the power 1.5, times e^0.4, whichever class is the majority."""
    rows = []
    for majority, sign in ((6, 1), (9, -1)):
        for trained in (0.1, 0.2, 0.4, 0.5):  # of the minority
            rows.append({"majority": majority, "trained": trained, "share": float(expit(1.5 * logit(trained) - sign * 0.4)),
                         "rho": 2.0})  # fmt: skip
    found = theorems._law(theorems.Options(), rows, 2.0)
    assert (found["S"], found["b"]) == (pytest.approx(1.5), pytest.approx(0.4))
