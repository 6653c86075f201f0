"""experiments.theorems, as users call it."""

import json

import pytest
from scipy.special import expit, logit

from jaxdiff.datasets import registry
from jaxdiff.landscape import theorem_run
from tests.experiments.commands import fail_command, run_command

SMALL = ("--n=20", "--samples=20", "--grids=10")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The workdir of a small run, and what it printed."""
    workdir = tmp_path_factory.mktemp("theorems")
    return workdir, run_command("theorems", "--workdir", workdir, *SMALL)


@pytest.mark.slow
def test_everything_is_written(small_run):
    workdir, output = small_run
    assert "at rho = 1 the trained share is within" in output
    assert "logit(generated) = b + S logit(trained) for class 6" in output
    for name in (
        "figures/figure3.svg",
        "figures/share_against_rho.svg",
        "figures/end_points.svg",
        "tables/law.csv",
    ):
        assert (workdir / name).exists(), name
    theorems = json.loads((workdir / "theorems.json").read_text())
    assert {row["rho"] for row in theorems["smoothed"]} == {1, 1.5, 2, 3, 4, 6, 8}
    cases = {row["case"] for row in theorems["laboratory"]}
    assert cases >= {"scaling by 2", "tanh of a parabola"}


@pytest.mark.slow
def test_only_what_is_lost_is_made_again(small_run):
    workdir, _ = small_run
    before = (workdir / "theorems.json").read_bytes()
    (workdir / "parts" / "grids.json").unlink()
    output = run_command("theorems", "--workdir", workdir, *SMALL)
    assert "grids: 0/5" in output
    assert "retrieval: 0/" not in output
    assert (workdir / "theorems.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--n=2000",), "1800 images of class 6 were asked for and 240 can be had"),
        (("--classes=6",), "--classes must be two different classes, as 6,9, got 6"),
        (("--source=nothing",), "dataset 'nothing' is not known"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, tmp_path):
    assert sentence in fail_command("theorems", "--workdir", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_no_majority_is_the_smaller_class_of_an_odd_number():
    dataset = registry.open_dataset("digits", size=16, channels=1)
    labels = dataset.labels
    for memory in theorem_run.select_memories(theorem_run.Options(n=11), dataset):
        num_majority = int((labels[memory.indices] == memory.majority).sum())
        assert num_majority >= 6, memory.share


def test_the_memories_of_two_seeds_are_drawn_apart():
    dataset = registry.open_dataset("digits", size=16, channels=1)
    drawn = [
        memory.indices.tolist()
        for seed in range(3)
        for memory in theorem_run.select_memories(theorem_run.Options(n=20, seed=seed), dataset)
        if memory.share == 0.9
    ]
    assert len({tuple(indices) for indices in drawn}) == len(drawn)


def test_the_law_is_recovered():
    """The first class's odds to the power 1.5, times e^0.4, whichever class is the majority."""
    rows = []
    for majority, sign in ((6, 1), (9, -1)):
        for trained in (0.1, 0.2, 0.4, 0.5):  # of the minority
            share = float(expit(1.5 * logit(trained) - sign * 0.4))
            rows.append({"majority": majority, "trained": trained, "share": share, "rho": 2.0})
    (fit,) = theorem_run.fit_laws(theorem_run.Options(rhos=(2.0,)), rows)
    assert fit["S"] == pytest.approx(1.5)
    assert fit["b"] == pytest.approx(0.4)
