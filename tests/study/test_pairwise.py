"""Which cells of a study are compared with each other, and what comes out."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.cells.classifiers import FILES as CLASSIFIER_FILES
from jaxdiff.study import inversion, pairwise
from jaxdiff.study.pairwise import Pair
from tests.study.small_cells import build_result


def test_bias_and_variance_over_seeds_on_shared_noise():
    results = [
        build_result("2", 0, [6, 6, 9, 6]),
        build_result("2", 2, [6, 6, 9, 6]),
        build_result("3", 0, [6, 9, 9, 3]),
        build_result("3", 2, [9, 6, 9, 6]),
    ]
    rows = pairwise.bias_variance_on_noise(results)
    by_model = {(row["model"], row["name"]): row for row in rows}
    assert by_model["2", "variance"]["value"] == 0
    assert by_model["2", "share_bias"]["value"] == pytest.approx(0.25 - 0.2)
    assert by_model["3", "variance"]["value"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert by_model["3", "variance"]["neither"] == 1
    assert pairwise.bias_variance_on_noise(results[:1]) == []


def test_the_highest_seed_of_the_shallowest_model_encodes_and_the_others_decode():
    results = [build_result(model, seed) for model in ("2", "4") for seed in (0, 2, 4)]
    results += [build_result("2", seed, majority=9) for seed in (1, 3)]
    groups = {group.name: group for group in inversion.find_groups(results)}
    assert set(groups) == {"2-6", "4-6"}, "two seeds leave one to decode"
    for group in groups.values():
        assert group.encoder.name == "2-s4", "one encoder for all depths"
        assert [cell.info.seed for cell in group.decoders] == [0, 2]


@pytest.mark.parametrize(
    ("seeds", "parts", "expected"),
    [
        pytest.param((0, 2), 5, True, id="two parts of one shuffle"),
        pytest.param((0, 5), 5, False, id="the second turn shuffles again"),
        pytest.param((0, 2), 1, False, id="one part"),
    ],
)
def test_parts_that_share_no_image(seeds, parts, expected):
    a, b = (build_result("2", seed, parts=parts) for seed in seeds)
    assert pairwise.are_disjoint(Pair("seed", a, b)) is expected


@pytest.mark.parametrize(("parts", "expected"), [(2, 0), (3, 2), (5, 3)])
def test_two_parts_leave_no_disjoint_seeds_of_one_majority(parts, expected):
    """Of six seeds whose majority alternates; with two parts they are of different turns."""
    results = [
        build_result("2", seed, [6], parts=parts, majority=9 if seed % 2 else 6)
        for seed in range(6)
    ]
    pairs = pairwise.cell_pairs(results)
    assert {pair.kind for pair in pairs} == {"seed"}
    assert sum(map(pairwise.are_disjoint, pairs)) == expected


def test_each_other_model_is_compared_with_the_shallowest_and_each_seed_with_the_next():
    results = [build_result(model, seed, [6, 9]) for model in ("2", "3", "4") for seed in (0, 2)]
    pairs = [(pair.kind, pair.a.name, pair.b.name) for pair in pairwise.cell_pairs(results)]
    assert sorted(pairs) == [
        ("model", "2-s0", "3-s0"),
        ("model", "2-s0", "4-s0"),
        ("model", "2-s2", "3-s2"),
        ("model", "2-s2", "4-s2"),
        ("seed", "2-s0", "2-s2"),
        ("seed", "3-s0", "3-s2"),
        ("seed", "4-s0", "4-s2"),
    ]


def test_models_of_a_seed_are_compared_on_all_its_samples_and_seeds_on_the_common_ones():
    """Three flips in 300 samples of the seed's bank, and one in 2 of the common bank."""
    labels = np.full(300, 6)
    flipped = labels.copy()
    flipped[-3:] = 9
    shallow = build_result("2", 0, [6, 6], labels)
    deep = build_result("3", 0, [9, 9], flipped)
    other_seed = build_result("2", 2, [6, 9], labels)
    rows = {
        pair.kind: pairwise.compare_pair(pair, None)["flips"][0]
        for pair in pairwise.cell_pairs([shallow, deep, other_seed])
    }
    of_models = rows["model"]
    of_seeds = rows["seed"]
    assert (of_models["bank"], of_models["differs"]) == ("seed", "depth")
    assert (of_seeds["bank"], of_seeds["differs"]) == ("common", "seed")
    assert (of_models["n"], of_models["b_count"], of_models["c_count"]) == (300, 0, 3)
    assert (of_seeds["n"], of_seeds["c_count"]) == (2, 1)


def test_flips_of_a_published_cell_are_of_all_its_samples():
    """It has the classes of all of them and the first images, by which alone they are similar."""

    def distance(a, b):
        return np.abs(a.astype(float) - b).mean(axis=(1, 2, 3))

    whole = build_result("3", 0, [], [6] * 20)
    published = build_result("2", 0, [], [6] * 17 + [9] * 3)
    published = dataclasses.replace(published, samples=published.samples[:16])
    compared = pairwise.compare_pair(Pair("model", published, whole), distance)
    assert (compared["flips"][0]["n"], compared["flips"][0]["b_count"]) == (20, 3)
    assert {row["n"] for row in compared["similarity"]} == {16}


def test_mixes_of_groups_with_the_same_classes_are_not_compared():
    """Two mixes of four groups, of which the shares of the classes are the same."""
    results = [
        dataclasses.replace(cell, config={**cell.config, "proportions": shares})
        for shares in ((0.4, 0.4, 0.1, 0.1), (0.5, 0.3, 0.1, 0.1))
        for cell in (build_result(model, seed, [6, 9]) for model in "23" for seed in (0, 2))
    ]
    pairs = pairwise.cell_pairs(results)
    assert len(pairs) == 8
    for pair in pairs:
        assert pair.a.config["proportions"] == pair.b.config["proportions"]
    assert [len(group) for group in inversion.group_over_seeds(results)] == [2] * 4


def test_without_a_common_bank_models_are_compared_and_seeds_are_not():
    results = [build_result(model, seed, (), [6, 9]) for model in ("2", "3") for seed in (0, 2)]
    assert {pair.kind for pair in pairwise.cell_pairs(results)} == {"model"}


def test_images_that_are_compared_come_from_the_bank_of_the_row():
    """The distance between grays is that between labels; at most NUM_SIMILAR noises."""

    def distance(a, b):
        return np.abs(a.astype(float) - b).mean(axis=(1, 2, 3))

    a = build_result("2", 0, [6, 6, 6], [9] * 300)
    b = build_result("3", 0, [6, 6, 6], [6] * 300)
    rows = pairwise.compare_pair(Pair("model", a, b), distance)["similarity"]
    paired = next(row for row in rows if (row["name"], row["pairing"]) == ("lpips", "paired"))
    assert (paired["bank"], paired["n"], paired["value"]) == ("seed", pairwise.NUM_SIMILAR, 3)
    other_seed = build_result("2", 2, [9, 9, 9], [9] * 300)
    rows = pairwise.compare_pair(Pair("seed", a, other_seed), distance)["similarity"]
    paired = next(row for row in rows if (row["name"], row["pairing"]) == ("lpips", "paired"))
    assert (paired["bank"], paired["n"], paired["value"]) == ("common", 3, 3)


@pytest.mark.parametrize("name", CLASSIFIER_FILES)
def test_inverted_images_are_bound_to_the_classifiers(tmp_path, monkeypatch, name):
    """Their classes are what the estimates are of."""
    inputs = []
    monkeypatch.setattr(inversion, "run_stage", lambda *stage, **_: inputs.append(stage[2]))
    shared = epath.Path(tmp_path) / "shared"
    for path in (*CLASSIFIER_FILES, inversion.IMAGES):
        files.write(shared / path, b"before")
    cells = [build_result("2", seed) for seed in (0, 2, 4)]
    for cell in cells:
        files.write(tmp_path / "cells" / cell.name / "result.json", b"{}")
    for content in (b"before", b"after"):
        files.write(shared / name, content)
        inversion.run_inversions(cells, epath.Path(tmp_path))
    assert inputs[0] != inputs[1]
